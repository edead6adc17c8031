"""Rows of publishers, meters, distinct-count sets and closed windows."""

from paybill_runtime.decisions.aggregates import Stored, generated

from paybill_billing.database import Base
from paybill_billing.usage.domain import closed_windows, distinct_counts, publishers, usage


class PublishersRow(Base, table=True):
    """Who may report usage: one row."""

    __tablename__ = "publishers"


class MeterRow(Base, table=True):
    """All that a tenant used of one thing. `due` is when the next of its windows closes."""

    __tablename__ = "meters"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class DistinctSetRow(Base, table=True):
    """Which different things were used in the open windows of a meter: one of 256 shards."""

    __tablename__ = "usage_members"


class ClosedWindowRow(Base, table=True):
    """A window of usage that is over."""

    __tablename__ = "usage_windows"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'", index=True)


PUBLISHERS = Stored("publishers", PublishersRow, publishers.Publishers, publishers.evolve)
METERS = Stored("meter", MeterRow, usage.Meter, usage.evolve)
DISTINCT_SETS = Stored("usage-members", DistinctSetRow, distinct_counts.DistinctSet, distinct_counts.evolve)
CLOSED_WINDOWS = Stored("usage-window", ClosedWindowRow, closed_windows.ClosedWindow, closed_windows.evolve)
STATES = (PUBLISHERS, METERS, DISTINCT_SETS, CLOSED_WINDOWS)
