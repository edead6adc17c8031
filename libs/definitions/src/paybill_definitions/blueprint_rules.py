"""Rules of a blueprint: every tier gives resources that its cloud can build, in every region."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from paybill_contracts.blueprints import AttributeValue, Blueprint, ResourceDefinition, TierBlueprint
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import KINDS, Change, Column, Table, meanings
from paybill_contracts.placement import Isolation

from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.expressions import ExpressionError, all_names
from paybill_definitions.resources import AGENTS_ROLE, AGENTS_SECRET, ResourceError, Values, kind_of, render

CLOUDS: Mapping[str, frozenset[str]] = {"local": frozenset({"database", "schema", "role", "secret", "bucket"})}
"""Kinds that the driver of each cloud builds."""

MAX_NAME_BYTES = 63
"""Of a database, schema or role in PostgreSQL, which truncates longer names without an error."""

TENANT_COLUMN = "tenant_id"
"""First column of every table and key; a blueprint's table must not have a column of this name."""

SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
"""Columns that every table of PostgreSQL has already."""

_SYSTEM_PREFIX = "pg_"
"""Of PostgreSQL's own tables, which an unqualified name finds before those of the product."""

_KEY_SUFFIX = "_pkey"
"""PostgreSQL names the index of a table's key so, in the namespace of the tables."""

KEY_TYPES = ("text", "uuid", "bigint", "integer")
COLUMN_TYPES = (*KEY_TYPES, "boolean", "jsonb", "timestamptz", "date", "numeric", "bytea")
MAX_NAME_LENGTH = 40
"""Of regions and tables: they are parts of database and role names."""

MAX_COLUMNS = 50
MAX_CELLS = 100
MAX_CELL_CAPACITY = 1000
"""Of a cell. PostgreSQL's `REVOKE` reads all members of a group, and a cell has one group."""

_SAMPLE_TENANT = "ten_" + "0" * 32
_SAMPLE_SLUG = "a" * 40


def errors(blueprint: Blueprint) -> Iterator[PartDiagnostic]:
    """Yields every error of a blueprint alone."""
    for part in ("regions", "tiers"):
        if not getattr(blueprint, part):
            yield PartDiagnostic((part,), f"a blueprint needs at least one of the {part}")
    yield from _repeated("regions", "region", [each.replace("-", "_") for each in blueprint.regions])
    for index, region in enumerate(blueprint.regions):
        yield from _length(("regions", index), "region", region)
    yield from _cells(blueprint)
    yield from _repeated("tables", "table", [table.name for table in blueprint.tables])
    for index, table in enumerate(blueprint.tables):
        yield from _table(index, table)
    yield from _indexes(blueprint.tables)
    names = [f"{tier.tier} ({tier.placement})" for tier in blueprint.tiers]
    yield from _repeated("tiers", "tier", names)
    for index, tier in enumerate(blueprint.tiers):
        yield from _tier(blueprint, index, tier)


def _cells(blueprint: Blueprint) -> Iterator[PartDiagnostic]:
    yield from _repeated("cells", "cell group", [each.isolation for each in blueprint.cells])
    for index, cells in enumerate(blueprint.cells):
        path = ("cells", index)
        if cells.isolation is Isolation.SILO:
            yield PartDiagnostic((*path, "isolation"), "a silo is not shared: cells are of pool or bridge")
        if not 1 <= cells.count <= MAX_CELLS:
            yield PartDiagnostic((*path, "count"), f"a region has 1 to {MAX_CELLS} cells")
        if not 1 <= cells.capacity <= MAX_CELL_CAPACITY:
            yield PartDiagnostic((*path, "capacity"), f"a cell has 1 to {MAX_CELL_CAPACITY} tenants")


def _indexes(tables: Iterable[Table]) -> Iterator[PartDiagnostic]:
    indexes = {f"{table.name}{_KEY_SUFFIX}": table.name for table in tables}
    for position, table in enumerate(tables):
        if owner := indexes.get(table.name):
            yield PartDiagnostic(
                ("tables", position), f"the key of {owner} has an index named {table.name}; choose another name"
            )


def _table(index: int, table: Table) -> Iterator[PartDiagnostic]:
    path = ("tables", index)
    yield from _length((*path, "name"), "table", table.name)
    if table.name.startswith(_SYSTEM_PREFIX):
        yield PartDiagnostic(
            (*path, "name"), f"{table.name}: names with {_SYSTEM_PREFIX} are PostgreSQL's own; choose another name"
        )
    if len(table.columns) > MAX_COLUMNS:
        yield PartDiagnostic((*path, "columns"), f"{MAX_COLUMNS} columns at most; move some to another table")
    if not table.columns:
        yield PartDiagnostic(path, f"the table {table.name} has no columns; the first one is the key")
        return
    if table.columns[0].type not in KEY_TYPES:
        yield PartDiagnostic((*path, "columns", 0), f"the first column is the key, one of {', '.join(KEY_TYPES)}")
    yield from _repeated("columns", f"column of {table.name}", [column.name for column in table.columns], prefix=path)
    for position, column in enumerate(table.columns):
        yield from _column((*path, "columns", position), column)


def _column(path: tuple[int | str, ...], column: Column) -> Iterator[PartDiagnostic]:
    if column.name == TENANT_COLUMN:
        yield PartDiagnostic(path, f"{TENANT_COLUMN} is the first column of every table; choose another name")
    if column.name in SYSTEM_COLUMNS:
        yield PartDiagnostic(path, f"{column.name} is a system column of PostgreSQL; choose another name")
    if column.type not in COLUMN_TYPES:
        yield PartDiagnostic(path, f"{column.name} has the type {column.type}, not one of {', '.join(COLUMN_TYPES)}")


def _tier(blueprint: Blueprint, index: int, tier: TierBlueprint) -> Iterator[PartDiagnostic]:
    path = ("tiers", index)
    kinds = CLOUDS.get(tier.cloud)
    if kinds is None:
        yield PartDiagnostic((*path, "cloud"), f"there is no driver for {tier.cloud}, only {', '.join(CLOUDS)}")
        return
    yield from _repeated("resources", "resource", [each.address for each in tier.resources], prefix=path)
    shared = {tier.layers.data} - {Isolation.SILO} - {each.isolation for each in blueprint.cells}
    if shared:
        yield PartDiagnostic(
            path, f"the layer data is {tier.layers.data}, and `cells` has none of that isolation; add it"
        )
    position_of = {each.address: position for position, each in enumerate(tier.resources)}
    for address in sorted({AGENTS_ROLE, AGENTS_SECRET} & position_of.keys()):
        place = (*path, "resources", position_of[address])
        yield PartDiagnostic(place, f"{address} is made for the agents of a tenant; choose another name")
    try:
        resources = render(blueprint, tier, sample_values(blueprint, tier))
    except ResourceError as error:
        place = (*path, "resources", position_of[error.address])
        yield PartDiagnostic((*place, error.attribute) if error.attribute else place, str(error))
        return
    for resource in resources:
        place = (*path, "resources", position_of[resource.address])
        if resource.kind not in kinds:
            built = ", ".join(sorted(kinds))
            yield PartDiagnostic(place, f"the driver for {tier.cloud} builds no {resource.kind}, only {built}")
        if resource.kind in {"database", "schema", "role"} and len(resource.attributes.name) > MAX_NAME_BYTES:
            yield PartDiagnostic(
                place, f"its name in PostgreSQL would be {resource.attributes.name}: {MAX_NAME_BYTES} bytes at most"
            )
    yield from _graph(path, resources, position_of)


def _graph(
    path: tuple[int | str, ...], resources: Collection[Resource], position_of: Mapping[str, int]
) -> Iterator[PartDiagnostic]:
    for resource in resources:
        for needed in resource.needs:
            if needed not in position_of:
                place = (*path, "resources", position_of[resource.address])
                yield PartDiagnostic(place, f"{resource.address} needs {needed}, which the tier does not have")
                return
    try:
        TopologicalSorter({each.address: each.needs for each in resources}).prepare()
    except CycleError as error:
        place = (*path, "resources", position_of[error.args[1][0]])
        yield PartDiagnostic(place, f"these need each other: {', '.join(error.args[1])}")


def sample_values(blueprint: Blueprint, tier: TierBlueprint) -> Values:
    """Returns values with the longest region and slug, and 1 for every limit that the tier uses."""
    limits: dict[str, int] = {}
    for definition in tier.resources:
        for value in definition.attributes.values():
            try:
                found = [name for name in all_names(value) if name.startswith("limits.")]
            except ExpressionError:  # `render` reports it with its place
                continue
            limits |= {name.removeprefix("limits."): 1 for name in found}
    cells = {each.isolation: each.count for each in blueprint.cells}
    region = max(blueprint.regions, key=len, default="none")
    return Values(tenant_id=_SAMPLE_TENANT, slug=_SAMPLE_SLUG, region=region, limits=limits, cells=cells)


def changes_refused(published: Blueprint, next_: Blueprint) -> Iterator[PartDiagnostic]:
    """Yields what the next version must not change, because what is built keeps it: no tenant could follow.

    Tables and columns that an earlier version of Paybill accepted and this one refuses may go.
    """
    yield from _tiers_refused(published, next_)
    refused = {each.path[1] for each in _indexes(published.tables)}
    indexes = {table.name: index for index, table in enumerate(next_.tables)}
    for index, table in enumerate(published.tables):
        if index in refused or table.name.startswith(_SYSTEM_PREFIX) or table.columns[0].name in SYSTEM_COLUMNS:
            continue
        if table.name not in indexes:
            yield PartDiagnostic(("tables",), f"the table {table.name} is gone; Paybill removes no table with data")
            continue
        path = ("tables", indexes[table.name])
        columns = next_.tables[indexes[table.name]].columns
        types = {column.name: (position, column.type) for position, column in enumerate(columns)}
        if table.columns[0].name != columns[0].name:
            yield PartDiagnostic(path, f"the key of {table.name} is {table.columns[0].name} and cannot change")
        for name in newly_required(table, next_.tables[indexes[table.name]]):
            reason = f"{table.name}.{name} cannot become required: rows that exist may have no value; remove `required`"
            yield PartDiagnostic((*path, "columns", types[name][0]), reason)
        for column in table.columns:
            if column.name in SYSTEM_COLUMNS:
                continue
            if column.name not in types:
                yield PartDiagnostic(path, f"{table.name}.{column.name} is gone; Paybill removes no column")
            elif types[column.name][1] != column.type:
                place = (*path, "columns", types[column.name][0])
                yield PartDiagnostic(
                    place, f"{table.name}.{column.name} is {column.type} and cannot become {types[column.name][1]}"
                )


def newly_required(before: Table, after: Table) -> list[str]:
    """Returns the columns that are required in `after` and may be NULL in the existing table `before`, or are new."""
    optional = {column.name: not column.required for column in before.columns}
    return [each.name for each in after.columns[1:] if each.required and optional.get(each.name, True)]


def _tiers_refused(published: Blueprint, next_: Blueprint) -> Iterator[PartDiagnostic]:
    """Yields the attributes and tables of a tier's resources that cannot change once they are built."""
    before = {(tier.tier, tier.placement, each.address): each for tier in published.tiers for each in tier.resources}
    tables = {table.name for table in next_.tables}
    for index, tier in enumerate(next_.tiers):
        for position, after in enumerate(tier.resources):
            if (old := before.get((tier.tier, tier.placement, after.address))) is not None:
                yield from _resource_refused(("tiers", index, "resources", position), old, after, tables)


def _resource_refused(
    path: tuple[int | str, ...], old: ResourceDefinition, new: ResourceDefinition, tables: Collection[str]
) -> Iterator[PartDiagnostic]:
    for name, meaning in meanings(KINDS[kind_of(new.address)]):
        before, after = old.attributes.get(name), new.attributes.get(name)
        if meaning.change is Change.REFUSE and before != after:
            changed = f"{new.address}: {name} is {_value(before)} and cannot become {_value(after)}"
            yield PartDiagnostic((*path, name), f"{changed} where it is built; add another tier for it")
        elif name == "tables" and isinstance(before, tuple):
            kept = after if isinstance(after, tuple) else ()
            for table in (each for each in before if each in tables and each not in kept):
                yield PartDiagnostic(
                    (*path, name), f"{new.address}: the table {table} is gone; Paybill removes no table"
                )


def _value(value: AttributeValue | None) -> str:
    return "not set" if value is None else str(value)


def _length(path: tuple[int | str, ...], kind: str, name: str) -> Iterator[PartDiagnostic]:
    if len(name) > MAX_NAME_LENGTH:
        yield PartDiagnostic(path, f"the {kind} {name} is longer than {MAX_NAME_LENGTH}; shorten it")


def _repeated(
    part: str, kind: str, names: Iterable[str], prefix: tuple[int | str, ...] = ()
) -> Iterator[PartDiagnostic]:
    counts: Counter[str] = Counter()
    for index, name in enumerate(names):
        counts[name] += 1
        if counts[name] > 1:
            yield PartDiagnostic((*prefix, part, index), f"the {kind} {name} is defined twice")
