"""Rows of reconciliation runs and drifts."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from paybill_contracts.envelope import Origin
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Stored, generated
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import state_column
from sqlalchemy import Column, Index, Select, Table, Text, select, text
from sqlmodel import col

from paybill_billing.database import Base
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.reconciliation.domain import Run

T = TypeVar("T")


class ReconciliationRow(Base, table=True):
    """A reconciliation run."""

    __tablename__ = "reconciliations"

    provider: str = generated("state->>'provider'", index=True)
    status: str = generated("state->>'status'")


class DriftRow(Base, table=True):
    """A drift that a run found."""

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
DRIFTS = Stored("drift", DriftRow, reconciliation.Drift, reconciliation.evolve_drift)
LISTED_OBJECTS = Table(
    "reconciliation_seen",
    Base.metadata,
    Column("run", Text, primary_key=True),
    Column("target", Text, primary_key=True),
)
"""Subscriptions in the provider's list, by running run. The run fetches our other subscriptions one by one."""
STATES = (RUNS, DRIFTS)

RUNNING = text("SELECT state::text AS state FROM reconciliations WHERE provider = :provider AND status = 'running'")
UNLISTED_SUBSCRIPTIONS = text(
    "SELECT s.id, s.state->'subscription'->>'provider_subscription' AS provider_subscription FROM subscriptions AS s "
    "WHERE s.state->'subscription'->>'provider' = :provider AND s.access <> 'ended' AND s.id > :after "
    "AND NOT EXISTS (SELECT FROM reconciliation_seen AS r "
    "WHERE r.run = :run AND r.target = s.state->'subscription'->>'provider_subscription') ORDER BY s.id LIMIT :limit"
)
"""Our subscriptions that the provider's list does not contain."""
LAST_START = text(
    "SELECT coalesce((SELECT max(state->>'started_at')::timestamptz FROM reconciliations WHERE provider = :provider), "
    "(SELECT min(received_at) FROM webhooks WHERE provider = :provider)) AS started_at"
)
"""Start of the newest run; before the first run, the time of the first webhook."""


def kind_of(provider: str) -> str:
    """Returns the kind of the job that runs the reconciliations of a provider."""
    return f"reconciliation/{provider}"


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

    kind = kind_of(provider)
    request = JobRequest(kind, kind, LEASE, context.now(), priority=Priority.BULK)
    return await context.decide(
        origin,
        decide,
        writes=[RUNS.key(run_id)],
        extra_statements=lambda statement: _begin(statement, request),
        **more,
    )


def _begin(statement: Statement, request: JobRequest) -> None:
    """Requests the job of a run, and deletes the notes of runs that were stopped."""
    request_job(statement, request)
    statement.add(
        "DELETE FROM reconciliation_seen WHERE run NOT IN (SELECT id FROM reconciliations WHERE status = 'running')"
    )


def note_listed(statement: Statement, run_id: str, ids: Sequence[str], *, done: bool) -> None:
    """Notes the subscriptions of a page of the provider's list; deletes the notes when the run is done."""
    if done:
        statement.add(f"DELETE FROM reconciliation_seen WHERE run = {statement.value(run_id)}")  # noqa: S608  # our text
    elif ids:
        rows = statement.columns(target=("text", sorted(set(ids))))
        statement.add(
            f"INSERT INTO reconciliation_seen (run, target) SELECT {statement.value(run_id)}::text, target FROM {rows} "  # noqa: S608
            "ON CONFLICT DO NOTHING"
        )


def newest_runs(limit: int) -> Select[Any]:
    """Returns the query for the states of the newest runs."""
    started_at = col(ReconciliationRow.state)["started_at"]
    return select(state_column(RUNS)).order_by(started_at.desc()).limit(limit)
