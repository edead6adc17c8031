"""Reconciliation over HTTP: compare everything with a provider, look at what was found, stop it."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Self
from uuid import uuid4

from fastapi import APIRouter, Path, Query, status
from paybill_contracts.reconciliation import DriftFound, RunId
from paybill_contracts.values import Key, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.problems import Problem
from pydantic import BaseModel, Field
from sqlmodel import col, select

from paybill_billing.database import load_page, load_state, state_column
from paybill_billing.http import Limit, Operator, Viewer
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.reconciliation.domain import Run, Status, UnknownRunError
from paybill_billing.reconciliation.tables import DRIFTS, RUNS, ReconciliationRow, start_run

Provider = Annotated[Key, Path(description="The provider's name, such as `stripe`.")]


class RunView(BaseModel):
    """A comparison with a provider, and how far it is."""

    id: RunId
    provider: str
    repair: Annotated[bool, Field(description="Whether what differs is looked at again, and so repaired.")]
    status: Status
    started_at: datetime
    looked: int
    drifted: int

    @classmethod
    def of(cls, run: Run) -> Self:
        """What is shown of `run`."""
        return cls(
            id=run.id,
            provider=run.provider,
            repair=run.repair,
            status=run.status,
            started_at=run.started_at,
            looked=run.looked,
            drifted=run.drifted,
        )


class Wish(BaseModel):
    """repair: false to be told only (a dry run)."""

    repair: bool = True


class DriftPage(BaseModel):
    """Differences in the order of their ids."""

    drifts: list[DriftFound]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext, listed: frozenset[str], asked: Callable[[], None]) -> APIRouter:
    """The routes, on this edge. listed: the providers that can list what they hold; asked: called when a run starts."""
    routes = APIRouter(prefix="/v1", tags=["reconciliation"])

    @routes.post("/providers/{provider}/reconciliations", status_code=status.HTTP_202_ACCEPTED)
    async def start(provider: Provider, body: Wish, who: Operator) -> RunView:
        """Compare all subscriptions of a provider with ours; what differs is a fact, and repaired if wished.

        It goes on by itself, over restarts, too: follow it at `/v1/reconciliations/{id}`. Refused with
        `reconciliation_runs` while another one of this provider is not over.
        """
        if provider not in listed:
            names = ", ".join(sorted(listed)) or "none is configured"
            raise Problem(404, "unknown_provider", f"{provider} lists nothing to compare; those that do: {names}")
        run_id = f"rec_{uuid4().hex}"
        run = await start_run(
            context,
            who.origin,
            run_id,
            provider,
            repair=body.repair,
            verb="reconcile",
            target=provider,
            idempotency=who.idempotency,
            answer=RunView,
            view=RunView.of,
        )
        asked()
        return run

    @routes.get("/reconciliations")
    async def show_all(_: Viewer, limit: Limit = 50) -> list[RunView]:
        """Reconciliations, the newest first."""
        wanted = select(state_column(ReconciliationRow)).order_by(col(ReconciliationRow.state)["started_at"].desc())
        return [RunView.of(RUNS.load(row.state)) for row in await context.rows(wanted.limit(limit))]

    @routes.get("/reconciliations/{run_id}")
    async def show(run_id: RunId, _: Viewer) -> RunView:
        """One reconciliation, and how far it is."""
        run = await load_state(context, RUNS, run_id)
        if run is None:
            raise UnknownRunError(f"there is no reconciliation {run_id}")
        return RunView.of(run)

    @routes.post("/reconciliations/{run_id}/stop")
    async def stop(run_id: RunId, who: Operator) -> RunView:
        """End a reconciliation where it is; what it has found and repaired stays."""

        def decide(unit: UnitOfWork, _: DecisionContext) -> RunView:
            run = unit.get(RUNS, run_id)
            if run is None:
                raise UnknownRunError(f"there is no reconciliation {run_id}")
            unit.record(RUNS, run_id, reconciliation.stop(run))
            return RunView.of(unit.get(RUNS, run_id) or run)

        return await context.decide(
            who.origin,
            decide,
            writes=[RUNS.key(run_id)],
            verb="stop_reconciliation",
            target=run_id,
            idempotency=who.idempotency,
            response_type=RunView,
        )

    @routes.get("/drifts")
    async def show_drifts(
        _: Viewer,
        run: Annotated[RunId | None, Query(description="Only what this reconciliation found.")] = None,
        tenant: Annotated[TenantId | None, Query(description="Only this tenant's.")] = None,
        after: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
        limit: Limit = 50,
    ) -> DriftPage:
        """Where a provider and we differed, in the order of their ids, a page at a time."""
        drifts, next_ = await load_page(context, DRIFTS, after, limit, run=run, tenant_id=tenant)
        return DriftPage(drifts=[drift.found for drift in drifts], next=next_)

    return routes
