"""HTTP routes of windows: open windows by meter, closed windows, and requests to report or count one again."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, status
from paybill_contracts.metering import MeterId, WindowId
from paybill_contracts.values import TenantId, Timestamp
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import load_page, load_state
from paybill_runtime.http.router import Router
from sqlmodel import col

from paybill_billing.http import Operator, Viewer
from paybill_billing.usage.api.views import ClosedWindowPage, ClosedWindowView, MeterPage, MeterView
from paybill_billing.usage.domain import closed_windows
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Status, WindowEvent, existing
from paybill_billing.usage.tables import CLOSED_WINDOWS, METERS, ClosedWindowRow

MAX_PAGE = 500

Decision = Callable[[ClosedWindow], list[WindowEvent]]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of results.")]
Window = Annotated[WindowId, Path(description="The `id` in `GET /v1/usage/windows`.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1/usage", tags=["usage"])

    async def act(caller: Caller, id_: str, verb: str, decision: Decision) -> ClosedWindowView:
        def decide(unit: UnitOfWork, _: DecisionContext) -> ClosedWindowView:
            unit.record(CLOSED_WINDOWS, id_, decision(existing(unit.get(CLOSED_WINDOWS, id_), id_)))
            return ClosedWindowView.of(existing(unit.get(CLOSED_WINDOWS, id_), id_))

        return await context.decide(
            caller.origin,
            decide,
            writes=[CLOSED_WINDOWS.key(id_)],
            idempotency=caller.idempotency,
            response_type=ClosedWindowView,
            verb=verb,
            target=id_,
        )

    @routes.get("/meters")
    async def show_meters(
        _: Viewer, tenant_id: TenantId | None = None, after: MeterId | None = None, limit: Limit = 100
    ) -> MeterPage:
        """Lists meters with their open windows, one page at a time."""
        meters, next_ = await load_page(context, METERS, after, limit, tenant_id=tenant_id)
        return MeterPage(meters=[MeterView.of(meter) for meter in meters], next=next_)

    @routes.get("/windows")
    async def show_windows(
        _: Viewer,
        tenant_id: TenantId | None = None,
        status: Annotated[Status | None, Query(description="Only windows with this status.")] = None,
        since: Annotated[Timestamp | None, Query(description="Only windows that start at this time or later.")] = None,
        until: Annotated[Timestamp | None, Query(description="Only windows that start before this time.")] = None,
        after: WindowId | None = None,
        limit: Limit = 100,
    ) -> ClosedWindowPage:
        """Lists closed windows, one page at a time."""
        start = col(ClosedWindowRow.state)["start"].as_string()
        bounds = [start >= column_time(since)] if since is not None else []
        bounds += [start < column_time(until)] if until is not None else []
        closed, next_ = await load_page(
            context, CLOSED_WINDOWS, after, limit, *bounds, tenant_id=tenant_id, status=status
        )
        return ClosedWindowPage(windows=[ClosedWindowView.of(window) for window in closed], next=next_)

    @routes.get("/windows/{window_id}")
    async def show_window(window_id: Window, _: Viewer) -> ClosedWindowView:
        """Shows one closed window."""
        return ClosedWindowView.of(existing(await load_state(context, CLOSED_WINDOWS, window_id), window_id))

    @routes.post("/windows/{window_id}/report", status_code=status.HTTP_202_ACCEPTED)
    async def report(window_id: Window, caller: Operator) -> ClosedWindowView:
        """Reports a window's value to the provider again after a failure. The provider counts it once."""
        return await act(caller, window_id, "report_usage", closed_windows.retry_report)

    @routes.post("/windows/{window_id}/count", status_code=status.HTTP_202_ACCEPTED)
    async def count(window_id: Window, caller: Operator) -> ClosedWindowView:
        """Requests the provider's count of a window. It has arrived when `answered` reaches the returned `asked`."""
        return await act(caller, window_id, "count_usage", closed_windows.request_count)

    return routes
