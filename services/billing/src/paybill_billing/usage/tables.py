"""Tables of publishers, billing periods, meters, distinct-count sets and closed windows."""

from datetime import datetime
from typing import Any

from paybill_runtime.decisions.aggregates import Stored, column_time, generated
from paybill_runtime.http.listing import state_column
from sqlalchemy import Select, select, text
from sqlmodel import col

from paybill_billing.database import Base
from paybill_billing.usage.domain import billing_periods, closed_windows, distinct_counts, publishers, usage


class PublishersRow(Base, table=True):
    """The allow-list of publishers, in a single row."""

    __tablename__ = "publishers"


class BillingPeriodRow(Base, table=True):
    """The billing periods of a tenant. due: when usage is next reported for an invoice."""

    __tablename__ = "billing_periods"

    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class MeterRow(Base, table=True):
    """A meter of a tenant. due: when its next window closes."""

    __tablename__ = "meters"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class DistinctSetRow(Base, table=True):
    """One of the 256 shards of a meter's distinct items in its open windows."""

    __tablename__ = "usage_members"


class ClosedWindowRow(Base, table=True):
    """A window of usage of which at least a part is closed."""

    __tablename__ = "usage_windows"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'", index=True)


PUBLISHERS = Stored("publishers", PublishersRow, publishers.Publishers, publishers.evolve)
BILLING_PERIODS = Stored("billing-period", BillingPeriodRow, billing_periods.BillingPeriod, billing_periods.evolve)
METERS = Stored("meter", MeterRow, usage.Meter, usage.evolve)
DISTINCT_SETS = Stored("usage-members", DistinctSetRow, distinct_counts.DistinctSet, distinct_counts.evolve)
CLOSED_WINDOWS = Stored("usage-window", ClosedWindowRow, closed_windows.ClosedWindow, closed_windows.evolve)
STATES = (PUBLISHERS, BILLING_PERIODS, METERS, DISTINCT_SETS, CLOSED_WINDOWS)
NEXT_WINDOW_DUE = text("SELECT min(due) FROM meters")
NEXT_CUTOFF_DUE = text("SELECT min(due) FROM billing_periods")
CUTOFFS_DUE = text("SELECT id, state::text AS state FROM billing_periods WHERE due <= :at ORDER BY due LIMIT :batch")
METERS_DUE = text("SELECT id, state::text AS state FROM meters WHERE due <= :at ORDER BY due LIMIT :batch")


def meters_of(tenant_id: str, limit: int) -> Select[Any]:
    """Returns the query for the states of a tenant's meters."""
    rows = select(state_column(METERS)).where(col(MeterRow.tenant_id) == tenant_id)
    return rows.order_by(col(MeterRow.id)).limit(limit)


def windows_in_parts(tenant_id: str, since: datetime, limit: int) -> Select[Any]:
    """Returns the query for the states of a tenant's windows that end after `since`, newest first."""
    state = col(ClosedWindowRow.state)
    rows = select(state_column(CLOSED_WINDOWS)).where(col(ClosedWindowRow.tenant_id) == tenant_id)
    rows = rows.where(state["end"].as_string() > column_time(since))
    return rows.order_by(col(ClosedWindowRow.id).desc()).limit(limit)
