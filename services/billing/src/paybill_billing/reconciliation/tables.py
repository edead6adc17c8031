"""Rows of reconciliation runs and drifts."""

from collections.abc import Callable
from typing import Any, TypeVar

from paybill_contracts.envelope import Origin
from paybill_runtime.decisions.aggregates import Stored, generated
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from sqlalchemy import Column, Index, Table, Text, text
from sqlmodel import col

from paybill_billing.database import Base
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.reconciliation.domain import Run

T = TypeVar("T")


class ReconciliationRow(Base, table=True):
    """A comparison of all subscriptions of a provider with ours."""

    __tablename__ = "reconciliations"

    provider: str = generated("state->>'provider'", index=True)
    status: str = generated("state->>'status'")


class DriftRow(Base, table=True):
    """A difference that a comparison found."""

    __tablename__ = "drifts"

    run: str | None = generated("state->>'run_id'", index=True)
    tenant_id: str | None = generated("state->>'tenant_id'")


Index(
    "reconciliations_running_key",
    col(ReconciliationRow.provider),
    unique=True,
    postgresql_where=col(ReconciliationRow.status) == "running",
)
RUNS = Stored(
    "reconciliation",
    ReconciliationRow,
    reconciliation.Run,
    reconciliation.evolve,
    conflicts={"reconciliations_running_key": reconciliation.RunningAlreadyError},
)
DRIFTS = Stored("drift", DriftRow, reconciliation.Drift, reconciliation.found)
RECONCILIATION_SEEN = Table(
    "reconciliation_seen",
    Base.metadata,
    Column("run", Text, primary_key=True),
    Column("target", Text, primary_key=True),
)
"""What a provider's list showed to a run that is not over; ours that are not here are looked up one by one."""
STATES = (RUNS, DRIFTS)

RUNNING = text("SELECT state::text AS state FROM reconciliations WHERE provider = :provider AND status = 'running'")


async def start_run(
    context: ServiceContext,
    origin: Origin,
    run_id: str,
    provider: str,
    *,
    repair: bool,
    view: Callable[[Run], T],
    **more: Any,
) -> T:
    """Starts a run and returns its view; the job continues it. Raises RunningAlreadyError."""
    rows = await context.rows(RUNNING, {"provider": provider})
    running = RUNS.load(rows[0].state).id if rows else None

    def decide(unit: UnitOfWork, at: DecisionContext) -> T:
        unit.record(RUNS, run_id, reconciliation.start(run_id, provider, running, repair=repair, now=at.now))
        run = unit.get(RUNS, run_id)
        if run is None:
            raise reconciliation.UnknownRunError(f"{run_id} was not started")
        return view(run)

    return await context.decide(origin, decide, writes=[RUNS.key(run_id)], **more)
