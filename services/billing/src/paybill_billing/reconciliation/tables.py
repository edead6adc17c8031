"""Rows of reconciliation runs and drifts."""

from paybill_runtime.decisions.aggregates import Stored, generated
from sqlalchemy import Column, Index, Table, Text
from sqlmodel import col

from paybill_billing.database import Base
from paybill_billing.reconciliation import domain as reconciliation


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
