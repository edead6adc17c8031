"""Graph of resources: desired resources of a blueprint, and the steps from observed to desired."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter

from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Isolation, placement_of
from paybill_contracts.provisioner import Blueprint, Resource, Step, StepAction, TierBlueprint

TABLE_PREFIX = "table-"
"""Prefix of schema properties that define a table: `table-documents: id text, body jsonb`, the key first."""


class BrokenGraphError(DomainError):
    """A resource needs a missing one, or two need each other."""

    code = "broken_graph"


class Kind(StrEnum):
    """Kind of a resource that the local driver builds."""

    SECRET = "secret"  # noqa: S105 - the name of a kind
    DIRECTORY = "folder"
    DATABASE = "postgres-database"
    SCHEMA = "postgres-schema"
    ROLE = "postgres-role"


def desired(blueprint: Blueprint, tier: TierBlueprint, tenant_id: str, region: str) -> tuple[Resource, ...]:
    """Returns all resources of the tenant's environment, in canonical order."""
    placement = placement_of(tier.placement)
    role = role_of(tenant_id)
    database, schema = _names(placement.data, role, region)
    secret = f"environments/{tenant_id.removeprefix('ten_')}/database"
    tables = {
        f"{TABLE_PREFIX}{table.name}": ", ".join(f"{column.name} {column.type}" for column in table.columns)
        for table in blueprint.tables
    }
    return ordered(
        [
            Resource(
                address="secret.database",
                kind=Kind.SECRET,
                layer="secrets",
                isolation=placement.secrets,
                properties={"name": secret},
                needs=(),
            ),
            Resource(
                address="folder.data",
                kind=Kind.DIRECTORY,
                layer="storage",
                isolation=placement.storage,
                properties={"path": f"{region}/{placement.storage}/{role}"},
                needs=(),
            ),
            Resource(
                address="postgres.database",
                kind=Kind.DATABASE,
                layer="data",
                isolation=placement.data,
                properties={"name": database},
                needs=(),
            ),
            Resource(
                address="postgres.schema",
                kind=Kind.SCHEMA,
                layer="data",
                isolation=placement.data,
                properties={"database": database, "name": schema, **tables},
                needs=("postgres.database",),
            ),
            Resource(
                address="postgres.role",
                kind=Kind.ROLE,
                layer="identity",
                isolation=placement.identity,
                properties={"name": role, "connection-limit": str(tier.connection_limit)},
                needs=("postgres.schema", "secret.database"),
            ),
        ]
    )


def _names(data: Isolation, role: str, region: str) -> tuple[str, str]:
    """Returns the database and schema of a tenant with this role."""
    suffix = region.replace("-", "_")
    match data:
        case Isolation.POOL:
            return f"pool_{suffix}", "product"
        case Isolation.BRIDGE:
            return f"bridge_{suffix}", role
        case Isolation.SILO:
            return role.replace("t_", "silo_", 1), "product"


def role_of(tenant_id: str) -> str:
    """Returns the tenant's PostgreSQL role. Roles are global in a server, so the name has the complete tenant id."""
    return f"t_{tenant_id.removeprefix('ten_')}"


def diff(target: Iterable[Resource], observed: Iterable[Resource]) -> tuple[Step, ...]:
    """Returns the steps from `observed` to `target`, each after those that it needs; equal inputs give equal steps.

    Deletions come last, in the reverse order of creation. Raises BrokenGraphError.
    """
    before, after = _by_address(observed), _by_address(target)
    steps = [
        Step(action=StepAction.UPDATE if resource.address in before else StepAction.CREATE, resource=resource)
        for resource in ordered(after.values())
        if before.get(resource.address) != resource
    ]
    removed = [resource for resource in ordered(before.values()) if resource.address not in after]
    return (*steps, *(Step(action=StepAction.DELETE, resource=resource) for resource in reversed(removed)))


def ordered(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """Sorts `resources` topologically, and by address where order is free. Raises BrokenGraphError."""
    by_address = _by_address(resources)
    for resource in by_address.values():
        missing = sorted(set(resource.needs) - by_address.keys())
        if missing:
            raise BrokenGraphError(f"{resource.address} needs {missing[0]}, which does not exist")
    sorter = TopologicalSorter({address: resource.needs for address, resource in by_address.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise BrokenGraphError(f"these need each other: {', '.join(error.args[1])}") from error
    result: list[Resource] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        result += [by_address[address] for address in ready]
        sorter.done(*ready)
    return tuple(result)


def _by_address(resources: Iterable[Resource]) -> Mapping[str, Resource]:
    found: dict[str, Resource] = {}
    for resource in resources:
        if resource.address in found:
            raise BrokenGraphError(f"{resource.address} is defined twice")
        found[resource.address] = resource
    return found
