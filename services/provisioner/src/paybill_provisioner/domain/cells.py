"""Cells: shared stacks with a capacity per region. A tenant gets a place in the emptiest one that takes tenants."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from paybill_contracts.blueprints import Blueprint
from paybill_contracts.cells import CellDrained, CellOpened, CellPlaceFreed, CellPlaceTaken, CellReopened
from paybill_contracts.errors import DomainError, NotFoundError
from paybill_contracts.placement import Isolation

CellEvent = CellOpened | CellPlaceTaken | CellPlaceFreed | CellDrained | CellReopened

SHARED = (Isolation.POOL, Isolation.BRIDGE)
"""Isolation levels that have cells."""


class RegionFullError(DomainError):
    """No cell of the region takes another tenant."""

    code = "region_full"


class CellUnknownError(NotFoundError):
    """The region has no such cell."""

    code = "cell_unknown"


@dataclass(frozen=True, slots=True)
class Cell:
    """A shared stack. tenants: number of those that have a place in it; drained: it takes no other one."""

    region: str
    number: int
    capacity: int
    tenants: int = 0
    drained: bool = False

    @property
    def free(self) -> int:
        """Places for new tenants."""
        return 0 if self.drained else max(self.capacity - self.tenants, 0)


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells of an isolation level, in the order of region and number."""

    id: Isolation
    cells: tuple[Cell, ...] = ()

    def of(self, region: str) -> Iterator[Cell]:
        """Yields the cells of a region."""
        return (cell for cell in self.cells if cell.region == region)


def opened(
    cells: Cells | None,
    isolation: Isolation,
    blueprints: Iterable[Blueprint],
    tenants: Mapping[tuple[Isolation, str], int],
) -> list[CellEvent]:
    """Opens the cells that the blueprints in force have, and changes capacities. No cell is ever closed.

    tenants: number by isolation level and region of those in the first cell of an installation that had no cells.
    """
    known = {(cell.region, cell.number): cell for cell in (cells.cells if cells else ())}
    events: list[CellEvent] = []
    for blueprint in blueprints:
        for group in blueprint.cells:
            if group.isolation is not isolation:
                continue
            for region in blueprint.regions:
                for number in range(1, group.count + 1):
                    cell = known.get((region, number))
                    if cell is None or cell.capacity != group.capacity:
                        first = tenants.get((isolation, region), 0) if number == 1 else 0
                        events.append(
                            CellOpened(
                                isolation=isolation,
                                region=region,
                                number=number,
                                capacity=group.capacity,
                                tenants=cell.tenants if cell else first,
                            )
                        )
    return events


def place_taken(
    cells: Cells | None, isolation: Isolation, region: str, tenant_id: str, environment_id: str
) -> CellPlaceTaken:
    """Gives the tenant a place in the emptiest cell of its region. Raises RegionFullError."""
    fitting = [cell for cell in (cells.of(region) if cells else ()) if cell.free]
    if not fitting:
        raise RegionFullError(_full(cells, isolation, region))
    cell = max(fitting, key=lambda each: (each.free, -each.number))
    return CellPlaceTaken(
        isolation=isolation, region=region, number=cell.number, tenant_id=tenant_id, environment_id=environment_id
    )


def drain(cells: Cells | None, isolation: Isolation, region: str, number: int, reason: str) -> list[CellEvent]:
    """Stops a cell from taking new tenants. Raises CellUnknownError."""
    cell = _existing(cells, isolation, region, number)
    if cell.drained:
        return []
    return [CellDrained(isolation=isolation, region=region, number=number, reason=reason)]


def reopen(cells: Cells | None, isolation: Isolation, region: str, number: int) -> list[CellEvent]:
    """Lets a drained cell take new tenants again. Raises CellUnknownError."""
    cell = _existing(cells, isolation, region, number)
    return [CellReopened(isolation=isolation, region=region, number=number)] if cell.drained else []


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
            at[key] = replace(at[key], drained=True)
        case CellReopened():
            at[key] = replace(at[key], drained=False)
        case _:
            assert_never(event)
    return replace(cells, cells=tuple(at[each] for each in sorted(at)))


def _existing(cells: Cells | None, isolation: Isolation, region: str, number: int) -> Cell:
    for cell in cells.of(region) if cells else ():
        if cell.number == number:
            return cell
    known = ", ".join(f"{cell.region} {cell.number}" for cell in (cells.cells if cells else ())) or "none"
    raise CellUnknownError(f"there is no {isolation} cell {number} in {region}; known are {known}")


def _full(cells: Cells | None, isolation: Isolation, region: str) -> str:
    free: dict[str, int] = {}
    for cell in cells.cells if cells else ():
        if cell.free:
            free[cell.region] = free.get(cell.region, 0) + cell.free
    elsewhere = ", ".join(f"{name} ({number})" for name, number in sorted(free.items())) or "nowhere"
    return (
        f"every {isolation} cell of {region} is full or drained; free places are in: {elsewhere}; "
        "publish a blueprint with more cells"
    )
