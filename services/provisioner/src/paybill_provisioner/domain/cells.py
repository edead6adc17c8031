"""Cells: shared stacks with a capacity per region. A tenant gets a place in the emptiest one that takes tenants."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import assert_never

from paybill_contracts.blueprints import Blueprint
from paybill_contracts.cells import (
    Breach,
    CellDrained,
    CellOpened,
    CellPlaceFreed,
    CellPlaceTaken,
    CellReopened,
    IsolationBreached,
    IsolationRestored,
)
from paybill_contracts.errors import DomainError, NotFoundError
from paybill_contracts.placement import Isolation

from paybill_provisioner.domain.environment_state import Environment

CellEvent = (
    CellOpened | CellPlaceTaken | CellPlaceFreed | CellDrained | CellReopened | IsolationBreached | IsolationRestored
)

SHARED = (Isolation.POOL, Isolation.BRIDGE)
"""Isolation levels that have cells."""

MAX_NAMED = 20
"""Cells or regions that an error names."""

_ID = re.compile(f"({'|'.join(SHARED)})-(.+)-([1-9][0-9]{{0,5}})")


class RegionFullError(DomainError):
    """No cell of the region takes another tenant."""

    code = "region_full"


class CellUnknownError(NotFoundError):
    """The region has no such cell."""

    code = "cell_unknown"


@dataclass(frozen=True, slots=True)
class Cell:
    """A shared stack. tenants: number of those that have a place in it; drained: it takes no other one, and why.

    breaches: guarantees of its isolation that do not hold; other_breaches: number of further ones.
    """

    region: str
    number: int
    capacity: int
    tenants: int = 0
    drained: str | None = None
    breaches: tuple[Breach, ...] = ()
    other_breaches: int = 0

    @property
    def free(self) -> int:
        """Places for new tenants: none while tenants are not isolated."""
        return 0 if self.drained is not None or self.breaches else max(self.capacity - self.tenants, 0)


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells of an isolation level, in the order of region and number."""

    id: Isolation
    cells: tuple[Cell, ...] = ()

    def of(self, region: str) -> Iterator[Cell]:
        """Yields the cells of a region."""
        return (cell for cell in self.cells if cell.region == region)


def id_of(isolation: Isolation, region: str, number: int) -> str:
    """Returns the id of a cell, such as `pool-eu-central-1`."""
    return f"{isolation}-{region}-{number}"


def parse_id(cell: str) -> tuple[Isolation, str, int]:
    """Returns the isolation level, region and number of a cell's id. Raises CellUnknownError."""
    found = _ID.fullmatch(cell)
    if found is None:
        raise CellUnknownError(f"{cell} is no id of a cell, such as {id_of(Isolation.POOL, 'eu-central', 1)}")
    return Isolation(found[1]), found[2], int(found[3])


def opened(
    cells: Cells | None,
    isolation: Isolation,
    blueprints: Iterable[Blueprint],
    tenants: Mapping[tuple[Isolation, str], int],
) -> list[CellEvent]:
    """Opens the cells that the blueprints in force have, and changes capacities. No cell is ever closed.

    Blueprints with the same region share its cells; the largest capacity applies.
    tenants: number by isolation level and region of those in the first cell of an installation that had no cells.
    """
    known = {(cell.region, cell.number): cell for cell in (cells.cells if cells else ())}
    # A region that no blueprint has any more keeps its tenants, and takes no other one.
    capacities = {(region, 1): 0 for level, region in tenants if level is isolation}
    for blueprint in blueprints:
        for group in blueprint.cells:
            if group.isolation is isolation:
                for key in product(blueprint.regions, range(1, group.count + 1)):
                    capacities[key] = max(group.capacity, capacities.get(key, 0))
    events: list[CellEvent] = []
    for (region, number), capacity in sorted(capacities.items()):
        cell = known.get((region, number))
        if cell is None or cell.capacity != capacity:
            first = tenants.get((isolation, region), 0) if number == 1 else 0
            present = cell.tenants if cell else first
            events.append(
                CellOpened(isolation=isolation, region=region, number=number, capacity=capacity, tenants=present)
            )
    return events


def emptiest(cells: Cells | None, isolation: Isolation, region: str) -> int:
    """Returns the number of the cell of a region with the most free places. Raises RegionFullError."""
    fitting = [cell for cell in (cells.of(region) if cells else ()) if cell.free]
    if not fitting:
        raise RegionFullError(_full(cells, isolation, region))
    return max(fitting, key=lambda each: (each.free, -each.number)).number


def place_changes(before: Environment | None, after: Environment | None) -> list[CellPlaceTaken | CellPlaceFreed]:
    """Returns the places that a tenant gets and leaves when its environment becomes `after`.

    A tenant has a place from its plan on, and until nothing of it is in the cell: a purge frees it, too.
    """
    environment = after or before
    if environment is None:
        return []
    old, new = before.cells if before else frozenset(), after.cells if after else frozenset()
    of = {"region": environment.region, "tenant_id": environment.tenant_id, "environment_id": environment.id}
    taken = [CellPlaceTaken(isolation=level, number=number, **of) for level, number in sorted(new - old)]
    freed = [CellPlaceFreed(isolation=level, number=number, **of) for level, number in sorted(old - new)]
    return [*taken, *freed]


def drain(cells: Cells | None, isolation: Isolation, region: str, number: int, reason: str) -> list[CellEvent]:
    """Stops a cell from taking new tenants; those in it stay. Raises CellUnknownError."""
    if existing(cells, isolation, region, number).drained is not None:
        return []
    return [CellDrained(isolation=isolation, region=region, number=number, reason=reason)]


def reopen(cells: Cells | None, isolation: Isolation, region: str, number: int, reason: str) -> list[CellEvent]:
    """Lets a drained cell take new tenants again. Raises CellUnknownError."""
    if existing(cells, isolation, region, number).drained is None:
        return []
    return [CellReopened(isolation=isolation, region=region, number=number, reason=reason)]


def evolve(cells: Cells | None, event: CellEvent) -> Cells:
    """Returns the cells after `event`."""
    cells = cells or Cells(id=event.isolation)
    at = {(cell.region, cell.number): cell for cell in cells.cells}
    key = event.region, event.number
    match event:
        case CellOpened():
            old = at.get(key) or Cell(event.region, event.number, event.capacity, event.tenants)
            at[key] = replace(old, capacity=event.capacity)
        case CellPlaceTaken():
            at[key] = replace(at[key], tenants=at[key].tenants + 1)
        case CellPlaceFreed():
            at[key] = replace(at[key], tenants=at[key].tenants - 1)
        case CellDrained():
            at[key] = replace(at[key], drained=event.reason)
        case CellReopened():
            at[key] = replace(at[key], drained=None)
        case IsolationBreached():
            at[key] = replace(at[key], breaches=event.breaches, other_breaches=event.others)
        case IsolationRestored():
            at[key] = replace(at[key], breaches=(), other_breaches=0)
        case _:
            assert_never(event)
    return replace(cells, cells=tuple(at[each] for each in sorted(at)))


def existing(cells: Cells | None, isolation: Isolation, region: str, number: int) -> Cell:
    """Returns a cell. Raises CellUnknownError."""
    for cell in cells.of(region) if cells else ():
        if cell.number == number:
            return cell
    found = [id_of(isolation, cell.region, cell.number) for cell in (cells.cells if cells else ())]
    known = ", ".join(found[:MAX_NAMED]) + (", …" if len(found) > MAX_NAMED else "") or "none"
    raise CellUnknownError(f"there is no cell {id_of(isolation, region, number)}; known are {known}")


def _full(cells: Cells | None, isolation: Isolation, region: str) -> str:
    free: dict[str, int] = {}
    for cell in cells.cells if cells else ():
        if cell.free:
            free[cell.region] = free.get(cell.region, 0) + cell.free
    found = [f"{name} ({number})" for name, number in sorted(free.items())]
    elsewhere = ", ".join(found[:MAX_NAMED]) + (", …" if len(found) > MAX_NAMED else "") or "nowhere"
    state = "full or drained"
    if any(cell.breaches for cell in (cells.of(region) if cells else ())):
        state = "full, drained or closed because its tenants are not isolated"
    return f"every {isolation} cell of {region} is {state}; free places are in: {elsewhere}"
