"""Blueprints: versioned data that says what a tier's environment is made of, and in which regions we build."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from paybill_contracts.errors import DomainError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished, Table, TierBlueprint

IN_FORCE = "main"
"""The id of the one blueprint that environments are planned by."""

CLOUDS = ("local",)
TENANT_COLUMN = "tenant_id"
"""The first column of every key in a pool; a table of a blueprint must not have one of this name."""

KEY_TYPES = ("text", "uuid", "bigint", "integer")
COLUMN_TYPES = (*KEY_TYPES, "boolean", "jsonb", "timestamptz", "date", "numeric", "bytea")
MAX_NAME_LENGTH = 40
"""Of regions and tables: names of databases, roles and properties are made from them, and those end at 63."""

MAX_COLUMNS = 50


class InvalidBlueprintError(DomainError):
    """The blueprint contradicts itself or asks for what no driver can build."""

    code = "invalid_blueprint"


class UnknownTierError(DomainError):
    """The blueprint in force does not say what this tier is made of on this placement."""

    code = "tier_unknown"


class UnknownRegionError(DomainError):
    """The blueprint in force does not build in this region."""

    code = "region_unknown"


class BlueprintNotPublishedError(Exception):
    """Nothing can be planned yet. No refusal: the fact waits and is heard again once there is a blueprint."""


@dataclass(frozen=True, slots=True)
class PublishedBlueprint:
    """The blueprint in force and its hash, which plans name."""

    id: str
    content: Blueprint
    content_hash: str


def publish(published: PublishedBlueprint | None, blueprint: Blueprint) -> list[BlueprintPublished]:
    """Put `blueprint` in force. Raises InvalidBlueprintError."""
    check(blueprint)
    content_hash = digest(blueprint)
    if published is not None and published.content_hash == content_hash:
        return []
    return [BlueprintPublished(blueprint=IN_FORCE, content=blueprint, content_hash=content_hash)]


def evolve(_published: PublishedBlueprint | None, event: BlueprintPublished) -> PublishedBlueprint:
    """The blueprint after `event`: each one replaces the whole of the last."""
    return PublishedBlueprint(id=event.blueprint, content=event.content, content_hash=event.content_hash)


def in_force(published: PublishedBlueprint | None) -> PublishedBlueprint:
    """The blueprint, which must have been published. Raises BlueprintNotPublishedError."""
    if published is None:
        raise BlueprintNotPublishedError("no blueprint is published yet; the provisioner does it when it starts")
    return published


def tier_of(blueprint: Blueprint, tier: str, preset: Preset) -> TierBlueprint:
    """What `tier` is made of on `preset`. Raises UnknownTierError."""
    for candidate in blueprint.tiers:
        if candidate.tier == tier and candidate.placement is preset:
            return candidate
    known = ", ".join(f"{each.tier} ({each.placement})" for each in blueprint.tiers)
    raise UnknownTierError(f"no blueprint for the tier {tier} ({preset}); there is {known}: add it and publish again")


def require_region(blueprint: Blueprint, region: str) -> None:
    """Raises UnknownRegionError when we do not build in `region`."""
    if region not in blueprint.regions:
        known = ", ".join(blueprint.regions)
        raise UnknownRegionError(f"no environments are built in {region}, only in {known}; add it and publish again")


def check(blueprint: Blueprint) -> None:
    """Raises InvalidBlueprintError with the first thing that is wrong."""
    if not blueprint.regions or not blueprint.tiers or not blueprint.tables:
        raise InvalidBlueprintError("a blueprint needs a region, a tier and a table at least")
    _unique("region", (region.replace("-", "_") for region in blueprint.regions))
    _unique("tier on the same placement", (f"{each.tier} ({each.placement})" for each in blueprint.tiers))
    _unique("table", (table.name for table in blueprint.tables))
    for region in blueprint.regions:
        _check_length("region", region)
    for tier in blueprint.tiers:
        if tier.cloud not in CLOUDS:
            raise InvalidBlueprintError(f"tier {tier.tier}: there is no driver for {tier.cloud}, only {CLOUDS}")
        if not 1 <= tier.connection_limit <= 10_000:  # noqa: PLR2004 - the message says what it means
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
            raise InvalidBlueprintError(f"table {table.name}: {TENANT_COLUMN} is ours in pools; choose another name")
        if column.type not in COLUMN_TYPES:
            raise InvalidBlueprintError(
                f"table {table.name}: {column.name} has the type {column.type}, not one of {', '.join(COLUMN_TYPES)}"
            )


def _check_length(what: str, name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidBlueprintError(f"the {what} {name} is longer than {MAX_NAME_LENGTH}; shorten it")


def _unique(what: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InvalidBlueprintError(f"the {what} {twice[0]} is there twice")
