"""HTTP of reconciliation: start, show and stop runs, and show drifts."""

from datetime import datetime
from typing import Annotated, Self
from uuid import uuid4

from fastapi import APIRouter, Path, Query, status
from paybill_contracts.reconciliation import DriftFound, RunId
from paybill_contracts.values import Key, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.http import Operator, Viewer
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.reconciliation.domain import Run, Status, UnknownRunError
from paybill_billing.reconciliation.tables import DRIFTS, RUNS, newest_runs, start_run

Provider = Annotated[Key, Path(description="The provider's name, such as `stripe`.")]


class RunView(BaseModel):
    """A run and its progress."""

    id: RunId
    provider: str
    repair: Annotated[bool, Field(description="Queues every drifted subscription for a sync, which repairs it.")]
    status: Status
    started_at: datetime
    looked: int
    drifted: int

    @classmethod
    def of(cls, run: Run) -> Self:
        """Returns the view of `run`."""
        return cls(
            id=run.id,
            provider=run.provider,
            repair=run.repair,
            status=run.status,
            started_at=run.started_at,
            looked=run.compared,
            drifted=run.drifted,
        )


class StartBody(BaseModel):
    """repair: False for a dry run, which only records the drifts."""

    repair: bool = True


class DriftPage(BaseModel):
    """Drifts in the order of their ids."""

    drifts: list[DriftFound]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext, listing: frozenset[str]) -> APIRouter:
    """Returns the routes. listing: providers that list their subscriptions."""
    routes = Router(prefix="/v1", tags=["reconciliation"], problems={404: ("unknown_provider",)})

    @routes.post("/providers/{provider}/reconciliations", status_code=status.HTTP_202_ACCEPTED)
    async def start(provider: Provider, body: StartBody, principal: Operator) -> RunView:
        """Starts a run, which compares all subscriptions of a provider with ours and records the drifts.

        It runs in the background and survives restarts; `/v1/reconciliations/{id}` shows its progress. Refused with
        `reconciliation_runs` while another run of this provider has not ended.
        """
        if provider not in listing:
            names = ", ".join(sorted(listing)) or "none is configured"
            raise Problem(
                404,
                "unknown_provider",
                f"{provider} cannot list subscriptions; providers that can: {names}",
            )
        run_id = f"rec_{uuid4().hex}"
        return await start_run(
            context,
            principal.origin,
            run_id,
            provider,
            repair=body.repair,
            verb="reconcile",
            target=provider,
            idempotency=principal.idempotency,
            response_type=RunView,
            view=RunView.of,
        )

    @routes.get("/reconciliations")
    async def show_all(_: Viewer, limit: Limit = 50) -> list[RunView]:
        """Returns the runs, newest first."""
        return [RunView.of(RUNS.load(row.state)) for row in await context.rows(newest_runs(limit))]

    @routes.get("/reconciliations/{run_id}")
    async def show(run_id: RunId, _: Viewer) -> RunView:
        """Returns a run and its progress."""
        run = await load_state(context, RUNS, run_id)
        if run is None:
            raise UnknownRunError(f"there is no reconciliation {run_id}")
        return RunView.of(run)

    @routes.post("/reconciliations/{run_id}/stop")
    async def stop(run_id: RunId, principal: Operator) -> RunView:
        """Stops a run; its drifts and repairs stay."""

        def decide(unit: UnitOfWork, _: DecisionContext) -> RunView:
            run = unit.get(RUNS, run_id)
            if run is None:
                raise UnknownRunError(f"there is no reconciliation {run_id}")
            unit.record(RUNS, run_id, reconciliation.stop(run))
            return RunView.of(unit.get(RUNS, run_id) or run)

        return await context.decide(
            principal.origin,
            decide,
            writes=[RUNS.key(run_id)],
            verb="stop_reconciliation",
            target=run_id,
            idempotency=principal.idempotency,
            response_type=RunView,
        )

    @routes.get("/drifts")
    async def show_drifts(
        _: Viewer,
        run: Annotated[RunId | None, Query(description="Only drifts of this run.")] = None,
        tenant: Annotated[TenantId | None, Query(description="Only drifts of this tenant.")] = None,
        after: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
        limit: Limit = 50,
    ) -> DriftPage:
        """Returns the drifts in the order of their ids, a page at a time."""
        drifts, next_ = await load_page(context, DRIFTS, after, limit, run=run, tenant_id=tenant)
        return DriftPage(drifts=[drift.found for drift in drifts], next=next_)

    return routes
