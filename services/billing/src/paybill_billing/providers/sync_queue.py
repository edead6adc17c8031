"""Queue of provider objects that must be fetched: its table, and every statement that writes it."""

from datetime import datetime
from typing import Any

from paybill_runtime.database.statement import Statement
from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, Select, Table, Text, TextClause, select, text

from paybill_billing.database import Base

LEASE = "webhooks"
"""Lease of the process that calls the providers: several together would exceed their rate limits."""

NO_ACCOUNT = "no account has this customer"
"""The `reason` of an entry that waits until the account of its customer is open."""

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
"""Objects to fetch, one row each. target: a subscription, or `<kind>/<id>` of another object. seq: grows with every
request, so that a finished sync detects newer ones. reason: the failure of the last sync."""
Index("webhook_targets_due_idx", SYNC_QUEUE.c.due)

PENDING = text(
    "SELECT target FROM webhook_targets WHERE provider = :provider AND target = ANY(:ids) AND reason IS NULL"
)
"""Objects whose sync is queued and has not failed."""
RETRY_NOW = text(
    "UPDATE webhook_targets SET due = :now, tries = 0 WHERE provider = :provider AND target = :target RETURNING *"
)
ENQUEUE_ALL = text(
    "INSERT INTO webhook_targets (provider, target, seq, tries, due) "
    "SELECT :provider, target, 1, 0, :now FROM unnest(CAST(:targets AS text[])) AS n (target) ORDER BY target "
    "ON CONFLICT DO NOTHING"
)
"""Queues objects that are not in the queue; the others keep their backoff."""
POSTPONE = text(
    "UPDATE webhook_targets SET tries = :tries, due = :due, reason = :reason, customer = coalesce(:customer, customer) "
    "WHERE provider = :provider AND target = :target AND seq = :seq"
)


def waiting(limit: int) -> Select[Any]:
    """Returns the query for the queued objects, those with the most attempts first."""
    entry = SYNC_QUEUE.c
    return select(SYNC_QUEUE).order_by(entry.tries.desc(), entry.provider, entry.target).limit(limit)


def wake(entries: str) -> TextClause:
    """Returns the statement that makes entries due. entries: a query for their (provider, target)."""
    return text(
        f"UPDATE webhook_targets SET due = :now, tries = 0, reason = NULL WHERE (provider, target) IN ({entries})"  # noqa: S608  # our own text
    )


def enqueue_received(messages: str) -> str:
    """Returns the statement that queues the targets of stored messages.

    messages: a table with provider, target, customer, received_at, quarantine. A further message of a customer without
    an account does not make its entry due: the account will. The order of the names prevents deadlocks.
    """
    return (
        "INSERT INTO webhook_targets AS t (provider, target, seq, customer, tries, due) "  # noqa: S608  # our own text
        f"SELECT provider, target, count(*), max(customer), 0, max(received_at) FROM {messages} "
        "WHERE target IS NOT NULL AND quarantine IS NULL "
        "GROUP BY provider, target ORDER BY provider, target "
        "ON CONFLICT (provider, target) DO UPDATE SET seq = t.seq + excluded.seq, "
        f"due = CASE WHEN t.reason = '{NO_ACCOUNT}' THEN t.due ELSE excluded.due END"
    )


def enqueue_sync(provider: str, target: str, now: datetime, statement: Statement) -> None:
    """Queues an object in the transaction of the statement."""
    row = ", ".join(statement.value(value) for value in (provider, target, now))
    statement.add(
        f"INSERT INTO webhook_targets AS t (provider, target, due, seq, tries) VALUES ({row}, 1, 0) "  # noqa: S608
        "ON CONFLICT (provider, target) DO UPDATE SET seq = t.seq + 1, tries = 0, due = excluded.due, reason = NULL"
    )


def finish_sync(provider: str, target: str, seq: int, now: datetime, statement: Statement) -> None:
    """Removes an entry in the transaction of the statement. An entry with newer requests stays, and is due."""
    at, of, name, number = map(statement.value, (now, provider, target, seq))
    where = f"provider = {of} AND target = {name}"
    statement.add(f"DELETE FROM webhook_targets WHERE {where} AND seq = {number}")  # noqa: S608  # only our own text
    statement.add(
        f"UPDATE webhook_targets SET tries = 0, due = {at}, reason = NULL WHERE {where} AND seq <> {number}"  # noqa: S608
    )
