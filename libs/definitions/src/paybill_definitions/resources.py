"""Resources of a tenant's environment: a blueprint's tier with the values of one tenant. Pure."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from paybill_contracts.blueprints import Blueprint, ResourceDefinition, TierBlueprint
from paybill_contracts.environment_plans import Resource
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical
from paybill_contracts.kinds import KINDS, LAYERS, Attributes, meanings, needs_of
from paybill_contracts.placement import Isolation
from paybill_contracts.validation_messages import plain_message
from pydantic import TypeAdapter, ValidationError

from paybill_definitions.expressions import ExpressionError, all_names, resolved

MAIN = "main"
"""Name of the database, schema and role that need no suffix in their provider's names."""

AGENTS_ROLE = "role.agents"
AGENTS_SECRET = "secret.agents"  # noqa: S105  # an address
"""Addresses of the login for a tenant's agents and of its password, which are in no blueprint."""

_DATA = "data"
_SHARED_SCHEMA = "product"
_ATTRIBUTES: TypeAdapter[Attributes] = TypeAdapter(Attributes)


class ResourceError(DomainError):
    """A definition does not give a resource: an unknown kind, attribute or expression, or a value of another type."""

    code = "invalid_resource"

    def __init__(self, address: str, attribute: str, reason: str) -> None:
        super().__init__(f"{address}{f'.{attribute}' if attribute else ''}: {reason}")
        self.address = address
        self.attribute = attribute
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one tenant. cells: number of the tenant's cell by isolation level, 1 for the first."""

    tenant_id: str
    slug: str
    region: str
    limits: Mapping[str, int] = field(default_factory=dict)
    cells: Mapping[Isolation, int] = field(default_factory=dict)

    @property
    def expressions(self) -> dict[str, str | int]:
        """Values of the expressions that do not need a built resource."""
        limits = {f"limits.{name}": value for name, value in self.limits.items()}
        return {"tenant.slug": self.slug, "region": self.region, **limits}


def render(blueprint: Blueprint, tier: TierBlueprint, values: Values) -> tuple[Resource, ...]:
    """Returns the resources of a tenant, in the order of the blueprint. Raises ResourceError."""
    links = _Links.of(tier)
    return tuple(_resource(blueprint, tier, each, values, links) for each in tier.resources)


def kind_of(address: str) -> str:
    """Returns the kind of a resource with this address: `role.main` is a `role`. Raises ResourceError."""
    kind, _, name = address.partition(".")
    if kind not in KINDS or not name:
        raise ResourceError(address, "", f"write `<kind>.<name>` with one of the kinds {', '.join(KINDS)}")
    return kind


@dataclass(frozen=True, slots=True)
class _Links:
    """Links between the resources of a tier: their addresses, secrets of logins, and names in valid expressions."""

    addresses: frozenset[str]
    passwords: frozenset[object]
    names: frozenset[str]

    @classmethod
    def of(cls, tier: TierBlueprint) -> Self:
        """Collects the links of a tier once, for all of its resources."""
        names: set[str] = set()
        for value in (value for each in tier.resources for value in each.attributes.values()):
            with suppress(ExpressionError):  # reported with the resource that has it
                names.update(all_names(value))
        return cls(
            addresses=frozenset(each.address for each in tier.resources),
            passwords=frozenset(
                each.attributes.get("secret") for each in tier.resources if each.address.startswith("role.")
            ),
            names=frozenset(names),
        )


def _resource(
    blueprint: Blueprint, tier: TierBlueprint, definition: ResourceDefinition, values: Values, links: _Links
) -> Resource:
    address = definition.address
    kind = kind_of(address)
    isolation: Isolation = getattr(tier.layers, LAYERS[kind])
    given = {name: _resolved(value, values) for name, value in definition.attributes.items()}
    known = dict(meanings(KINDS[kind]))
    for name in given:
        if name not in known:
            settable = ", ".join(each for each, meaning in known.items() if not meaning.derived)
            raise ResourceError(address, name, f"a {kind} has no such attribute, only {settable}")
        if known[name].derived:
            raise ResourceError(address, name, "it follows from tenant, region and placement; remove it")
    if "tables" in known:
        given["tables"] = _tables(blueprint, address, given.get("tables", ()))
    derived: dict[str, Any] = {"name": name_of(address, tier, values)}
    if kind == "secret":
        derived |= {"on_demand": _is_on_demand(tier, address, links)}
    if kind == "schema":
        derived |= {"database": name_of(str(given.get("in_database")), tier, values), "tenant_column": True}
        derived |= {"cell": values.cells.get(isolation, 1) if isolation is not Isolation.SILO else None}
    attributes = _attributes(address, kind, given | derived)
    needs = dict.fromkeys((*needs_of(attributes), *_outputs_used(definition, links)))
    return Resource(address=address, layer=LAYERS[kind], isolation=isolation, attributes=attributes, needs=tuple(needs))


def _is_on_demand(tier: TierBlueprint, address: str, links: _Links) -> bool:
    """Returns True for the password of a login that nothing else uses, unless the tier makes passwords at once."""
    is_used = f"{address}.secret" in links.names
    return address in links.passwords and not is_used and not tier.credentials_at_once


def _attributes(address: str, kind: str, fields: Mapping[str, Any]) -> Attributes:
    try:
        return _ATTRIBUTES.validate_json(canonical({**fields, "kind": kind}))
    except ValidationError as error:
        first = error.errors()[0]
        attribute = str(first["loc"][1]) if len(first["loc"]) > 1 else ""
        raise ResourceError(address, attribute, plain_message(first)) from error


def _resolved(value: object, values: Values) -> object:
    if isinstance(value, str):
        return resolved(value, values.expressions) if "$" in value else value
    if isinstance(value, tuple):
        return [_resolved(each, values) for each in value]
    return value


def _tables(blueprint: Blueprint, address: str, names: Any) -> list[dict[str, Any]]:
    tables = {table.name: table for table in blueprint.tables}
    for name in names:
        if name not in tables:
            raise ResourceError(address, "tables", f"there is no table {name}, only {', '.join(tables) or 'none'}")
    return [tables[name].model_dump(mode="json") for name in names]


def _outputs_used(definition: ResourceDefinition, links: _Links) -> list[str]:
    """Returns the addresses whose outputs the definition uses. Raises ResourceError."""
    used = []
    for attribute, value in definition.attributes.items():
        try:
            found = list(all_names(value))
        except ExpressionError as error:
            raise ResourceError(definition.address, attribute, str(error)) from error
        for name in found:
            if name in {"tenant.slug", "region"} or name.startswith("limits."):
                continue
            address, _, output = name.rpartition(".")
            if address not in links.addresses or output not in KINDS[kind_of(address)].OUTPUTS:
                raise ResourceError(
                    definition.address,
                    attribute,
                    f"${{{name}}} has no value; known are ${{tenant.slug}}, ${{region}}, ${{limits.<feature>}} and "
                    "outputs of this tier's resources",
                )
            used.append(address)
    return used


def name_of(address: str, tier: TierBlueprint, values: Values) -> str:
    """Returns the provider's name of a resource: the same for the same tenant, placement and cell."""
    kind, _, name = address.partition(".")
    number = values.tenant_id.removeprefix("ten_")
    suffix = "" if name == MAIN else f"_{name.replace('-', '_')}"
    match kind:
        case "database":
            return f"{_database(tier.layers.data, number, values)}{suffix}"
        case "schema":
            own = tier.layers.data is Isolation.BRIDGE
            return f"{f't_{number}' if own else _SHARED_SCHEMA}{suffix}"
        case "role":
            return f"t_{number}{suffix}"
        case "secret":
            return f"environments/{number}/{name}"
        case "bucket":
            path = f"{values.region}/{tier.layers.storage}/t_{number}"
            return path if name == _DATA else f"{path}/{name}"
        case _:
            return f"{number}-{name}"


def cell_database(isolation: Isolation, region: str, cell: int) -> str:
    """Returns the name of the database of a cell."""
    return f"{isolation}_{region.replace('-', '_')}" + (f"_{cell}" if cell > 1 else "")


def _database(isolation: Isolation, number: str, values: Values) -> str:
    if isolation is Isolation.SILO:
        return f"silo_{number}"
    return cell_database(isolation, values.region, values.cells.get(isolation, 1))
