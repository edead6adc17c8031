"""From a blueprint to resources, and from what is wanted and what is there to the steps between them."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter

from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Isolation, placement_of
from paybill_contracts.provisioner import Blueprint, Resource, Step, StepAction, TierBlueprint

TABLE_PREFIX = "table-"
"""A property of a schema that begins so describes a table: `table-documents: id text, body jsonb`, the key first."""


class BrokenGraphError(DomainError):
    """A resource needs one that is not there, or two need each other."""

    code = "broken_graph"


class Kind(StrEnum):
    """The resources that the local driver builds."""

    SECRET = "secret"  # noqa: S105 - the name of a kind
    FOLDER = "folder"
    DATABASE = "postgres-database"
    SCHEMA = "postgres-schema"
    ROLE = "postgres-role"


def desired(blueprint: Blueprint, tier: TierBlueprint, tenant_id: str, region: str) -> tuple[Resource, ...]:
    """Every resource that the tenant's environment is made of, in canonical order."""
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
                kind=Kind.FOLDER,
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
    """Database and schema of a tenant with this role."""
    where = region.replace("-", "_")
    match data:
        case Isolation.POOL:
            return f"pool_{where}", "product"
        case Isolation.BRIDGE:
            return f"bridge_{where}", role
        case Isolation.SILO:
            return role.replace("t_", "silo_", 1), "product"


def role_of(tenant_id: str) -> str:
    """The tenant's role in PostgreSQL. Roles are global in a server, so the name is the tenant's whole id."""
    return f"t_{tenant_id.removeprefix('ten_')}"


def diff(wanted: Iterable[Resource], observed: Iterable[Resource]) -> tuple[Step, ...]:
    """The steps from `observed` to `wanted`, each after those that it needs; equal inputs give equal steps.

    What is no longer wanted goes last, in the opposite order of its making. Raises BrokenGraphError.
    """
    there, goal = _by_address(observed), _by_address(wanted)
    steps = [
        Step(action=StepAction.UPDATE if resource.address in there else StepAction.CREATE, resource=resource)
        for resource in ordered(goal.values())
        if there.get(resource.address) != resource
    ]
    gone = [resource for resource in ordered(there.values()) if resource.address not in goal]
    return (*steps, *(Step(action=StepAction.DELETE, resource=resource) for resource in reversed(gone)))


def ordered(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """`resources` so that each comes after those that it needs, and otherwise by address. Raises BrokenGraphError."""
    by_address = _by_address(resources)
    for resource in by_address.values():
        missing = sorted(set(resource.needs) - by_address.keys())
        if missing:
            raise BrokenGraphError(f"{resource.address} needs {missing[0]}, which is not there")
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
            raise BrokenGraphError(f"{resource.address} is there twice")
        found[resource.address] = resource
    return found
