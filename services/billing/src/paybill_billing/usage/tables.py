"""Tables of publishers, meters, distinct-count sets and closed windows."""

from paybill_runtime.decisions.aggregates import Stored, generated

from paybill_billing.database import Base
from paybill_billing.usage.domain import closed_windows, distinct_counts, publishers, usage


class PublishersRow(Base, table=True):
    """The allow-list of publishers, in a single row."""

    __tablename__ = "publishers"


class MeterRow(Base, table=True):
    """A meter of a tenant. due: when its next window closes."""

    __tablename__ = "meters"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class DistinctSetRow(Base, table=True):
    """One of the 256 shards of a meter's distinct items in its open windows."""

    __tablename__ = "usage_members"


class ClosedWindowRow(Base, table=True):
    """A closed window of usage."""

    __tablename__ = "usage_windows"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'", index=True)


PUBLISHERS = Stored("publishers", PublishersRow, publishers.Publishers, publishers.evolve)
METERS = Stored("meter", MeterRow, usage.Meter, usage.evolve)
DISTINCT_SETS = Stored("usage-members", DistinctSetRow, distinct_counts.DistinctSet, distinct_counts.evolve)
CLOSED_WINDOWS = Stored("usage-window", ClosedWindowRow, closed_windows.ClosedWindow, closed_windows.evolve)
STATES = (PUBLISHERS, METERS, DISTINCT_SETS, CLOSED_WINDOWS)
