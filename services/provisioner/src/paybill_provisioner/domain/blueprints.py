"""Blueprints: versioned definitions of tiers, tables and regions."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from paybill_contracts.errors import DomainError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished, Table, TierBlueprint

BLUEPRINT_ID = "main"
"""Id of the only blueprint."""

CLOUDS = ("local",)
TENANT_COLUMN = "tenant_id"
"""First column of every key in a pool; a blueprint's table must not have a column of this name."""

KEY_TYPES = ("text", "uuid", "bigint", "integer")
COLUMN_TYPES = (*KEY_TYPES, "boolean", "jsonb", "timestamptz", "date", "numeric", "bytea")
MAX_NAME_LENGTH = 40
"""Maximum for regions and tables: they are parts of database and role names, which have at most 63 bytes."""

MAX_COLUMNS = 50


class InvalidBlueprintError(DomainError):
    """The blueprint contradicts itself or needs something that no driver can build."""

    code = "invalid_blueprint"


class UnknownTierError(DomainError):
    """The current blueprint has no such tier on this placement."""

    code = "tier_unknown"


class UnknownRegionError(DomainError):
    """The current blueprint has no such region."""

    code = "region_unknown"


class BlueprintNotPublishedError(Exception):
    """No blueprint is published yet. Not a refusal: the event is retried until there is one."""


class BlueprintIncompleteError(Exception):
    """The blueprint lacks what a tenant is entitled to. Not a refusal: the event is retried until it has it."""


@dataclass(frozen=True, slots=True)
class PublishedBlueprint:
    """The current blueprint and its hash, which plans name."""

    id: str
    content: Blueprint
    content_hash: str


def publish(published: PublishedBlueprint | None, blueprint: Blueprint) -> list[BlueprintPublished]:
    """Publishes `blueprint` if it has changed. Raises InvalidBlueprintError."""
    check(blueprint)
    content_hash = digest(blueprint)
    if published is not None and published.content_hash == content_hash:
        return []
    return [BlueprintPublished(blueprint=BLUEPRINT_ID, content=blueprint, content_hash=content_hash)]


def evolve(_published: PublishedBlueprint | None, event: BlueprintPublished) -> PublishedBlueprint:
    """Returns the blueprint of `event`, which replaces the previous one."""
    return PublishedBlueprint(id=event.blueprint, content=event.content, content_hash=event.content_hash)


def require_published(published: PublishedBlueprint | None) -> PublishedBlueprint:
    """Returns the published blueprint. Raises BlueprintNotPublishedError."""
    if published is None:
        raise BlueprintNotPublishedError("no blueprint is published yet; the provisioner publishes it at its start")
    return published


def tier_of(blueprint: Blueprint, tier: str, preset: Preset) -> TierBlueprint:
    """Returns the definition of `tier` on `preset`. Raises UnknownTierError."""
    for candidate in blueprint.tiers:
        if candidate.tier == tier and candidate.placement is preset:
            return candidate
    known = ", ".join(f"{each.tier} ({each.placement})" for each in blueprint.tiers)
    raise UnknownTierError(f"the blueprint has no tier {tier} ({preset}), only {known}; add it and publish again")


def require_region(blueprint: Blueprint, region: str) -> None:
    """Raises UnknownRegionError when the blueprint does not have `region`."""
    if region not in blueprint.regions:
        known = ", ".join(blueprint.regions)
        raise UnknownRegionError(f"no environments are built in {region}, only in {known}; add it and publish again")


def check(blueprint: Blueprint) -> None:
    """Raises InvalidBlueprintError with the first error."""
    if not blueprint.regions or not blueprint.tiers or not blueprint.tables:
        raise InvalidBlueprintError("a blueprint needs at least a region, a tier and a table")
    _unique("region", (region.replace("-", "_") for region in blueprint.regions))
    _unique("tier on the same placement", (f"{each.tier} ({each.placement})" for each in blueprint.tiers))
    _unique("table", (table.name for table in blueprint.tables))
    for region in blueprint.regions:
        _check_length("region", region)
    for tier in blueprint.tiers:
        if tier.cloud not in CLOUDS:
            raise InvalidBlueprintError(f"tier {tier.tier}: there is no driver for {tier.cloud}, only {CLOUDS}")
        if not 1 <= tier.connection_limit <= 10_000:  # noqa: PLR2004 - the message names the range
            raise InvalidBlueprintError(f"tier {tier.tier}: connection_limit must be 1 to 10000")
    for table in blueprint.tables:
        _check_table(table)


def _check_table(table: Table) -> None:
    _check_length("table", table.name)
    if len(table.columns) > MAX_COLUMNS:
        raise InvalidBlueprintError(f"table {table.name}: {MAX_COLUMNS} columns at most; move some to another table")
    _unique(f"column of {table.name}", (column.name for column in table.columns))
    if not table.columns or table.columns[0].type not in KEY_TYPES:
        raise InvalidBlueprintError(f"table {table.name}: the first column is the key, one of {', '.join(KEY_TYPES)}")
    for column in table.columns:
        if column.name == TENANT_COLUMN:
            raise InvalidBlueprintError(
                f"table {table.name}: {TENANT_COLUMN} is reserved for pools; choose another name"
            )
        if column.type not in COLUMN_TYPES:
            raise InvalidBlueprintError(
                f"table {table.name}: {column.name} has the type {column.type}, not one of {', '.join(COLUMN_TYPES)}"
            )


def _check_length(kind: str, name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidBlueprintError(f"the {kind} {name} is longer than {MAX_NAME_LENGTH}; shorten it")


def _unique(kind: str, names: Iterable[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise InvalidBlueprintError(f"the {kind} {repeated[0]} is defined twice")
