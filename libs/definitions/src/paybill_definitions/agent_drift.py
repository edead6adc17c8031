"""Differences between a bundle and the blueprint in force. Pure."""

from collections.abc import Iterator

from paybill_contracts.agent_bundles import AgentResource, Bundle
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.kinds import Table

from paybill_definitions.diagnostics import PartDiagnostic


def drift(bundle: Bundle, blueprint: Blueprint) -> Iterator[PartDiagnostic]:
    """Yields what the bundle assumes and the blueprint, the one in force, does not have.

    A table or column that the bundle does not name is no drift: no grant and no step uses it.
    """
    if bundle.blueprint.name != blueprint.name:
        reason = f"the bundle is for the blueprint {bundle.blueprint.name}, not for {blueprint.name}"
        yield PartDiagnostic(("resources",), reason)
        return
    tables = {table.name: table for table in blueprint.tables}
    for resource in bundle.resources:
        if resource.name not in tables:
            yield PartDiagnostic(("resources", resource.name), f"{blueprint.name} has no table {resource.name}")
            continue
        yield from _columns(resource, tables[resource.name])
        for name in resource.also_changes:
            if name not in tables:
                reason = f"{resource.name} changes {name}, which {blueprint.name} does not have"
                yield PartDiagnostic(("resources", resource.name, "also_changes"), reason)


def _columns(resource: AgentResource, table: Table) -> Iterator[PartDiagnostic]:
    columns = {column.name: column for column in table.columns}
    key = table.columns[0].name
    if not resource.columns or resource.columns[0].name != key:
        yield PartDiagnostic(("resources", resource.name), f"the key of {table.name} is {key}")
    for column in resource.columns:
        path = ("resources", resource.name, column.name)
        name = f"{resource.name}.{column.name}"
        found = columns.get(column.name)
        if found is None:
            yield PartDiagnostic(path, f"the blueprint in force has no column {name}")
            continue
        if found.type != column.type:
            yield PartDiagnostic(path, f"{name} is {found.type} in the blueprint in force, not {column.type}")
        is_nullable = column.name != key and not found.required
        if is_nullable != column.nullable:
            yield PartDiagnostic(
                path, f"{name} {'may be' if is_nullable else 'is never'} NULL in the blueprint in force"
            )
