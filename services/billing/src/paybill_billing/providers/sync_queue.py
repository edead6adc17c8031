"""Queue of provider objects to fetch and apply."""

from datetime import datetime

from paybill_runtime.decisions.store import Statement
from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, Table, Text

from paybill_billing.database import Base

SYNC_QUEUE = Table(
    "webhook_targets",
    Base.metadata,
    Column("provider", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("customer", Text),
    Column("tries", Integer, nullable=False),
    Column("due", DateTime(timezone=True), nullable=False),
    Column("reason", Text),
)
"""Subscriptions and other objects to be looked at again. `seq` grows with every message, so that whoever has looked can
tell whether more came meanwhile; `reason` says why it waits."""
Index("webhook_targets_due_idx", SYNC_QUEUE.c.due)
NO_ACCOUNT = "no account has this customer"
"""The `reason` of a target that waits for its customer's account to be opened."""


def enqueue_sync(provider: str, target: str, now: datetime, statement: Statement) -> None:
    """Have a subscription looked at, as soon as what the rest of the statement writes is there."""
    row = ", ".join(statement.value(value) for value in (provider, target, now))
    statement.add(
        f"INSERT INTO webhook_targets AS t (provider, target, due, seq, tries) VALUES ({row}, 1, 0) "  # noqa: S608
        "ON CONFLICT (provider, target) DO UPDATE SET seq = t.seq + 1, tries = 0, due = excluded.due, reason = NULL"
    )


LEASE = "webhooks"
