"""Isolation of the tenants of a cell: breaches that a check found, and their end. Pure."""

from collections.abc import Iterable, Sequence

from paybill_contracts.blueprints import Blueprint
from paybill_contracts.cells import Breach, IsolationBreached, IsolationRestored
from paybill_contracts.incidents import Evidence, Finding
from paybill_contracts.placement import Isolation
from paybill_definitions.resources import Values, kind_of, name_of

from paybill_provisioner.domain.cells import Cell, CellEvent, Cells, existing, id_of
from paybill_provisioner.domain.environment_state import Environment

MAX_BREACHES = 50
"""Breaches that a fact lists: one mistake, such as a grant to a group, breaks few objects."""

MAX_EVIDENCE = 10
"""Breaches that an incident lists."""

INCIDENT = "isolation_breach"
"""Kind of the incidents about cells whose tenants are not isolated."""


def checked(
    cells: Cells | None, isolation: Isolation, region: str, number: int, found: Sequence[Breach]
) -> list[CellEvent]:
    """Returns the event of a check that found other breaches than the last one, or none any more."""
    cell = existing(cells, isolation, region, number)
    breaches = tuple(sorted(set(found), key=lambda each: (each.guarantee, each.object, each.found)))
    listed, others = breaches[:MAX_BREACHES], max(len(breaches) - MAX_BREACHES, 0)
    if (listed, others) == (cell.breaches, cell.other_breaches):
        return []
    if not listed:
        return [IsolationRestored(isolation=isolation, region=region, number=number)]
    return [IsolationBreached(isolation=isolation, region=region, number=number, breaches=listed, others=others)]


def subject_of(isolation: Isolation, region: str, number: int) -> str:
    """Returns the subject of a cell's incidents."""
    return f"cell/{id_of(isolation, region, number)}"


def finding_of(isolation: Isolation, cell: Cell) -> Finding:
    """Returns the incident of a cell with breaches."""
    first, more = cell.breaches[0], len(cell.breaches) + cell.other_breaches - 1
    id_ = id_of(isolation, cell.region, cell.number)
    text = described(first) + (f", and {more} more" if more else "")
    return Finding(
        kind=INCIDENT,
        subject=subject_of(isolation, cell.region, cell.number),
        summary=f"tenants of the cell {id_} are not isolated, and it takes no new ones: {text}"[:500],
        evidence=tuple(
            Evidence(name=each.guarantee, value=f"{each.object}: {each.found}"[:500])
            for each in cell.breaches[:MAX_EVIDENCE]
        ),
        command="paybill cell list",
    )


def silos_of(environment: Environment) -> list[str]:
    """Returns the names of the tenant's own databases, in order."""
    built = (each.resource for each in environment.built)
    return sorted(each.identity for each in built if each.kind == "database" and each.isolation is Isolation.SILO)


def subject_of_silo(environment_id: str) -> str:
    """Returns the subject of the incident about a silo."""
    return f"environment/{environment_id}"


def silo_finding(environment: Environment, found: Sequence[Breach]) -> Finding:
    """Returns the incident of a silo that is not closed to others, or whose logins have other rights than ours."""
    first, more = found[0], len(found) - 1
    text = described(first) + (f", and {more} more" if more else "")
    return Finding(
        kind=INCIDENT,
        subject=subject_of_silo(environment.id),
        summary=f"the database of {environment.slug} is not isolated: {text}"[:500],
        evidence=tuple(
            Evidence(name=each.guarantee, value=f"{each.object}: {each.found}"[:500]) for each in found[:MAX_EVIDENCE]
        ),
        tenant_id=environment.tenant_id,
        command=f"paybill environment show {environment.slug}",
    )


def driver_finding(cloud: str, problem: str) -> Finding:
    """Returns the incident of a driver that cannot work."""
    return Finding(
        kind="driver_problem",
        subject=f"driver/{cloud}",
        summary=f"the driver {cloud} cannot work: {problem}"[:500],
    )


def described(breach: Breach) -> str:
    """Returns a breach for people."""
    return f"{breach.guarantee} at {breach.object}: {breach.found}"


def databases_of(blueprints: Iterable[Blueprint], isolation: Isolation, cell: Cell) -> dict[str, set[str]]:
    """Returns the names of a cell's databases by the cloud that has them, by the blueprints in force."""
    found: dict[str, set[str]] = {}
    values = Values(f"ten_{0:032x}", "", cell.region, cells={isolation: cell.number})
    for blueprint in blueprints:
        for tier in blueprint.tiers:
            if tier.layers.data is not isolation or cell.region not in blueprint.regions:
                continue
            addresses = [each.address for each in tier.resources if kind_of(each.address) == "database"]
            found.setdefault(tier.cloud, set()).update(name_of(each, tier, values) for each in addresses)
    return found
