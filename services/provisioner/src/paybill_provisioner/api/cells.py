"""HTTP routes of cells: the shared stacks of each region, listed and drained."""

from typing import Annotated, Self

from fastapi import APIRouter, Path, Query
from paybill_contracts.cells import Breach
from paybill_contracts.inputs import PlainText
from paybill_contracts.placement import Isolation
from paybill_contracts.values import Count, Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.domain import cells
from paybill_provisioner.domain.cells import SHARED, Cell
from paybill_provisioner.tables import CELLS

CellId = Annotated[str, Path(description="Id of the cell.", max_length=100, examples=["pool-eu-central-1"])]


class CellView(BaseModel):
    """A shared stack of a region."""

    id: str
    isolation: Isolation
    region: Key
    number: Count
    tenants: Annotated[Count, Field(description="Tenants that have a place in it, from their plan to their purge.")]
    capacity: Count
    free: Annotated[Count, Field(description="Places for new tenants.")]
    drained: Annotated[str | None, Field(description="Reason why an operator drained it; null when nobody did.")]
    breaches: Annotated[
        list[Breach],
        Field(description="Guarantees of isolation that do not hold: while there is one it takes no new tenant."),
    ]

    @classmethod
    def of(cls, isolation: Isolation, cell: Cell) -> Self:
        """Builds the view of `cell`."""
        return cls(
            id=cells.id_of(isolation, cell.region, cell.number),
            isolation=isolation,
            region=cell.region,
            number=cell.number,
            tenants=cell.tenants,
            capacity=cell.capacity,
            free=cell.free,
            drained=cell.drained,
            breaches=list(cell.breaches),
        )


class CellList(BaseModel):
    """Cells in the order of isolation level, region and number."""

    cells: list[CellView]


class DrainBody(BaseModel):
    """A cell that takes no new tenant, or takes tenants again."""

    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]
    undo: Annotated[bool, Field(description="Let it take new tenants again.")] = False


async def load_cells(context: ServiceContext) -> list[CellView]:
    """Returns the views of all cells."""
    found = {level: await load_state(context, CELLS, level) for level in SHARED}
    return [CellView.of(level, cell) for level, state in found.items() for cell in (state.cells if state else ())]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of cells."""
    routes = Router(prefix="/v1", tags=["cells"])

    @routes.get("/cells")
    async def show_all(
        _: Viewer, region: Annotated[Key | None, Query(description="Only cells of this region.")] = None
    ) -> CellList:
        """Lists the cells with their tenants, capacity and free places."""
        found = await load_cells(context)
        return CellList(cells=[each for each in found if region in {None, each.region}])

    @routes.post("/cells/{cell}/drain")
    async def drain(cell: CellId, body: DrainBody, principal: Operator) -> CellView:
        """Stops a cell from taking new tenants, or with `undo` lets it take them again. Those in it stay. Idempotent.

        Refused with `cell_unknown`.
        """
        isolation, region, number = cells.parse_id(cell)
        act = cells.reopen if body.undo else cells.drain

        def decide(unit: UnitOfWork, _: DecisionContext) -> CellView:
            unit.record(CELLS, isolation, act(unit.get(CELLS, isolation), isolation, region, number, body.reason))
            return CellView.of(isolation, cells.existing(unit.get(CELLS, isolation), isolation, region, number))

        return await context.decide(
            principal.origin,
            decide,
            writes=[CELLS.key(isolation)],
            verb="drain",
            target=cell,
            idempotency=principal.idempotency,
            response_type=CellView,
        )

    return routes
