"""Differences between two versions of a blueprint, for people. Pure."""

from collections.abc import Iterator, Mapping

from paybill_contracts.blueprints import AttributeValue, Blueprint, TierBlueprint
from paybill_contracts.kinds import Table
from pydantic import BaseModel


class BlueprintDifference(BaseModel):
    """A difference. change: of what, such as `region` or `role.main.connection_limit`; of: the tier or table."""

    change: str
    of: str
    before: str | None
    after: str | None


def differences(before: Blueprint | None, after: Blueprint) -> Iterator[BlueprintDifference]:
    """Yields every difference of `after` from `before`, or from an empty blueprint."""
    old_regions = set(before.regions if before else ())
    yield from _sets("region", old_regions, set(after.regions), after.name)
    yield from _values("cells", after.name, _cells(before), _cells(after))
    old_tables = {table.name: table for table in (before.tables if before else ())}
    for table in after.tables:
        old = old_tables.get(table.name)
        yield from _values("column", table.name, _columns(old), _columns(table))
    yield from _tiers(before, after)


def _tiers(before: Blueprint | None, after: Blueprint) -> Iterator[BlueprintDifference]:
    old = {_name(tier): tier for tier in (before.tiers if before else ())}
    new = {_name(tier): tier for tier in after.tiers}
    yield from _sets("tier", set(old), set(new), after.name)
    for name in sorted(set(old) & set(new)):
        yield from _values("", name, _attributes(old[name]), _attributes(new[name]))


def _columns(table: Table | None) -> dict[str, str]:
    return {
        each.name: f"{each.type}{' required' if each.required else ''}" for each in (table.columns if table else ())
    }


def _name(tier: TierBlueprint) -> str:
    return f"{tier.tier} ({tier.placement})"


def _cells(blueprint: Blueprint | None) -> dict[str, str]:
    groups = blueprint.cells if blueprint else ()
    return {each.isolation: f"{each.count} for {each.capacity} tenants each" for each in groups}


def _attributes(tier: TierBlueprint) -> dict[str, str]:
    """Returns every attribute of a tier as text, by its path."""
    found = {"cloud": tier.cloud, "credentials": "at_once" if tier.credentials_at_once else "on_demand"}
    found |= {f"layers.{layer}": isolation for layer, isolation in tier.layers.model_dump(mode="json").items()}
    for resource in tier.resources:
        found[resource.address] = "defined"
        found |= {f"{resource.address}.{name}": _text(value) for name, value in resource.attributes.items()}
    return found


def _text(value: AttributeValue) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _sets(change: str, before: set[str], after: set[str], of: str) -> Iterator[BlueprintDifference]:
    for name in sorted(before - after):
        yield BlueprintDifference(change=change, of=of, before=name, after=None)
    for name in sorted(after - before):
        yield BlueprintDifference(change=change, of=of, before=None, after=name)


def _values(change: str, of: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[BlueprintDifference]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield BlueprintDifference(
                change=f"{change} {name}".strip(), of=of, before=before.get(name), after=after.get(name)
            )
