"""Reads blueprints.yaml, and reports every error by file, line and reason."""

from typing import Annotated

from paybill_contracts.blueprints import AttributeValue, Blueprint, CellGroup, ResourceDefinition, TierBlueprint
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical
from paybill_contracts.kinds import Address, Table
from paybill_contracts.placement import Isolation, Placement, Preset, placement_of
from paybill_contracts.values import Count, Key
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from paybill_definitions.blueprint_rules import errors
from paybill_definitions.definition_file import MAX_CONTENT_BYTES, DefinitionFile, StrictInput
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, read, report

_ATTRIBUTES: TypeAdapter[dict[str, AttributeValue]] = TypeAdapter(dict[Key, AttributeValue])


class BlueprintFileError(DomainError):
    """The file is no valid blueprint. The message has one line for each error: `<file>:<line>: <reason>`."""

    code = "invalid_blueprint"


BlueprintFile = DefinitionFile[Blueprint]


class _Column(StrictInput):
    name: Key
    type: Key
    required: bool = False


class _Table(StrictInput):
    name: Key
    columns: tuple[_Column, ...]


class _Cells(StrictInput):
    isolation: Isolation
    count: Count
    capacity: Count


class _Layers(StrictInput):
    """Layers that differ from the placement's preset."""

    compute: Isolation | None = None
    data: Isolation | None = None
    network: Isolation | None = None
    storage: Isolation | None = None
    identity: Isolation | None = None
    secrets: Isolation | None = None


class _Resource(BaseModel):
    """A resource: `resource` is its address, the other names are attributes of its kind."""

    model_config = ConfigDict(frozen=True, extra="allow")

    resource: Address


class _Tier(StrictInput):
    tier: Key
    placement: Preset
    layers: _Layers = _Layers()
    cloud: Key
    credentials: Annotated[str, Field(pattern="^(on_demand|at_once)$")] = "on_demand"
    resources: tuple[_Resource, ...]


class _File(StrictInput):
    name: Key
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    regions: tuple[Key, ...]
    cells: tuple[_Cells, ...] = ()
    tables: tuple[_Table, ...] = ()
    tiers: tuple[_Tier, ...]


def read_blueprint(text: str, file: str) -> BlueprintFile:
    """Parses a blueprint in YAML. file: its name in messages. Raises BlueprintFileError with all errors."""
    try:
        source, lines = read(_File, text)
        content = _content(source, lines)
    except InvalidDocumentError as error:
        raise BlueprintFileError("\n".join(report(file, error.diagnostics))) from None
    read_file = DefinitionFile(content, file, lines)
    found = read_file.report(errors(content))
    if not found and len(canonical(content.model_dump(mode="json"))) > MAX_CONTENT_BYTES:
        found = [f"{file}:1: the blueprint has more than {MAX_CONTENT_BYTES} bytes; split it"]
    if found:
        raise BlueprintFileError("\n".join(found))
    return read_file


def _content(source: _File, lines: Lines) -> Blueprint:
    return Blueprint(
        name=source.name,
        version=source.version,
        regions=source.regions,
        cells=tuple(CellGroup(**each.model_dump()) for each in source.cells),
        tables=tuple(Table.model_validate_json(table.model_dump_json()) for table in source.tables),
        tiers=tuple(_tier(tier, index, lines) for index, tier in enumerate(source.tiers)),
    )


def _tier(tier: _Tier, index: int, lines: Lines) -> TierBlueprint:
    layers = placement_of(tier.placement).model_dump() | tier.layers.model_dump(exclude_none=True)
    return TierBlueprint(
        tier=tier.tier,
        placement=tier.placement,
        layers=Placement(**layers),
        cloud=tier.cloud,
        credentials_at_once=tier.credentials == "at_once",
        resources=tuple(
            ResourceDefinition(
                address=each.resource,
                attributes=_attributes(each, ("tiers", index, "resources", position), lines),
            )
            for position, each in enumerate(tier.resources)
        ),
    )


def _attributes(resource: _Resource, path: tuple[int | str, ...], lines: Lines) -> dict[str, AttributeValue]:
    try:
        return _ATTRIBUTES.validate_json(canonical(resource.model_extra or {}), strict=True)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        line = lines.get((*path, name), lines[path])
        reason = f"{resource.resource}.{name}: write text, a whole number, true, false or a list of texts"
        raise InvalidDocumentError(Diagnostic(line, reason)) from None
