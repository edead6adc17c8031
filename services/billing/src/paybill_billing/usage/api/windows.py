"""HTTP of windows: those that are open, by meter, and those that are closed; having one sent or counted again."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, status
from paybill_contracts.metering import MeterId, WindowId
from paybill_contracts.values import TenantId, Timestamp
from paybill_runtime.decisions.context import Caller, Edge
from paybill_runtime.decisions.unit_of_work import Moment, Unit
from sqlmodel import col

from paybill_billing.reading import Reader, Writer, found, page
from paybill_billing.usage.api.views import ClosedWindowPage, ClosedWindowView, MeterPage, MeterView
from paybill_billing.usage.domain import closed_windows
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Status, WindowEvent, existing
from paybill_billing.usage.tables import CLOSED_WINDOWS, METERS, ClosedWindowRow

MAX_PAGE = 500

Decision = Callable[[ClosedWindow], list[WindowEvent]]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]
Window = Annotated[WindowId, Path(description="As `GET /v1/usage/windows` names it.")]


def router(edge: Edge) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1/usage", tags=["usage"])

    async def act(who: Caller, id_: str, verb: str, decision: Decision) -> ClosedWindowView:
        def decide(unit: Unit, _: Moment) -> ClosedWindowView:
            unit.record(CLOSED_WINDOWS, id_, decision(existing(unit.get(CLOSED_WINDOWS, id_), id_)))
            return ClosedWindowView.of(existing(unit.get(CLOSED_WINDOWS, id_), id_))

        return await edge.decide(
            who.origin,
            decide,
            writes=[CLOSED_WINDOWS.key(id_)],
            idempotency=who.idempotency,
            answer=ClosedWindowView,
            verb=verb,
            target=id_,
        )

    @routes.get("/meters")
    async def show_meters(
        _: Reader, tenant_id: TenantId | None = None, after: MeterId | None = None, limit: Limit = 100
    ) -> MeterPage:
        """Meters with their open windows, a page at a time."""
        meters, next_ = await page(edge, METERS, after, limit, tenant_id=tenant_id)
        return MeterPage(meters=[MeterView.of(meter) for meter in meters], next=next_)

    @routes.get("/windows")
    async def show_windows(
        _: Reader,
        tenant_id: TenantId | None = None,
        status: Annotated[Status | None, Query(description="Only those that stand so.")] = None,
        since: Annotated[Timestamp | None, Query(description="Only those that start then or later.")] = None,
        until: Annotated[Timestamp | None, Query(description="Only those that start before.")] = None,
        after: WindowId | None = None,
        limit: Limit = 100,
    ) -> ClosedWindowPage:
        """Closed windows, a page at a time."""
        start = col(ClosedWindowRow.state)["start"].as_string()
        bounds = [start >= _text(since)] if since is not None else []
        bounds += [start < _text(until)] if until is not None else []
        closed, next_ = await page(edge, CLOSED_WINDOWS, after, limit, *bounds, tenant_id=tenant_id, status=status)
        return ClosedWindowPage(windows=[ClosedWindowView.of(window) for window in closed], next=next_)

    @routes.get("/windows/{window_id}")
    async def show_window(window_id: Window, _: Reader) -> ClosedWindowView:
        """One closed window."""
        return ClosedWindowView.of(existing(await found(edge, CLOSED_WINDOWS, window_id), window_id))

    @routes.post("/windows/{window_id}/report", status_code=status.HTTP_202_ACCEPTED)
    async def report(window_id: Window, who: Writer) -> ClosedWindowView:
        """Tell the provider again what was used, after it has refused to hear it. It is counted once."""
        return await act(who, window_id, "report_usage", closed_windows.retry_report)

    @routes.post("/windows/{window_id}/count", status_code=status.HTTP_202_ACCEPTED)
    async def count(window_id: Window, who: Writer) -> ClosedWindowView:
        """Ask the provider what it has counted. It is answered when `answered` is as large as `asked` is now."""
        return await act(who, window_id, "count_usage", closed_windows.request_count)

    return routes


def _text(at: datetime) -> str:
    """As it stands in the state, which compares in the order of time: windows start at full hours."""
    return at.replace(tzinfo=None).isoformat()
