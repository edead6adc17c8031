"""Inbox of webhooks: its table, and the queries that read it for the sync queue."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Stored
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.jobs.kinds import ClaimedJob
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Index,
    LargeBinary,
    Select,
    Table,
    Text,
    and_,
    select,
    text,
    tuple_,
)

from paybill_billing.database import Base
from paybill_billing.providers import sync_queue
from paybill_billing.subscriptions.domain.subscriptions import subscription_id
from paybill_billing.subscriptions.tables import OWNERS
from paybill_billing.webhooks import domain
from paybill_billing.webhooks.domain import DismissedCustomer, MessageState

WEBHOOKS = Table(
    "webhooks",
    Base.metadata,
    Column("provider", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("api_version", Text),
    Column("livemode", Boolean, nullable=False),
    Column("object_type", Text),
    Column("object_id", Text),
    Column("customer", Text),
    Column("target", Text),
    Column("traceparent", Text, nullable=False),
    Column("body", LargeBinary),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("done_at", DateTime(timezone=True)),
    Column("quarantine", Text),
)
"""Verified messages, each stored once.

traceparent: empty when the redelivery poll fetched it. target: the object in the sync queue, null for none. body:
encrypted, and deleted after 30 days. quarantine: why the message is not processed.
"""
Index("webhooks_waiting_idx", WEBHOOKS.c.provider, WEBHOOKS.c.target, postgresql_where=WEBHOOKS.c.done_at.is_(None))
Index("webhooks_body_idx", WEBHOOKS.c.received_at, postgresql_where=WEBHOOKS.c.body.is_not(None))

REFUSED_WEBHOOKS = Table(
    "refused_webhooks",
    Base.metadata,
    Column("provider", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Column("source", Text),
    Column("detail", Text, nullable=False),
)
"""Requests that were refused, counted by reason; nothing of their content is stored. source: address of the last."""


class DismissedCustomerRow(Base, table=True):
    """A customer of a provider whose objects are dismissed."""

    __tablename__ = "dismissed_customers"


DISMISSED_CUSTOMERS = Stored("dismissed-customer", DismissedCustomerRow, DismissedCustomer, domain.evolve)
STATES = (DISMISSED_CUSTOMERS,)

DISMISSED_OBJECTS = Table(
    "dismissed_objects",
    Base.metadata,
    Column("customer", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
)
"""Syncs of objects that were dismissed, counted by customer (`<provider>/<customer>`)."""

DISMISSED = text(
    "SELECT d.id, d.state->>'reason' AS reason, coalesce(o.count, 0) AS objects, o.last_at "
    "FROM dismissed_customers AS d LEFT JOIN dismissed_objects AS o ON o.customer = d.id "
    "WHERE d.state->>'active' = 'true' ORDER BY d.id LIMIT :limit"
)
DISMISSED_AMONG = text("SELECT id FROM dismissed_customers WHERE id = ANY(:ids) AND state->>'active' = 'true'")
"""Returns those of the customers (`<provider>/<customer>`) that are dismissed."""

DELIVERY_COLUMNS = {
    "event_id": "text",
    "type": "text",
    "created": "timestamptz",
    "api_version": "text",
    "livemode": "boolean",
    "object_type": "text",
    "object_id": "text",
    "customer": "text",
    "target": "text",
    "quarantine": "text",
}
_COLUMNS = {"provider": "text", "traceparent": "text", "body": "bytea", "received_at": "timestamptz"} | DELIVERY_COLUMNS
_NAMES = ", ".join(_COLUMNS)
_ARRAYS = ", ".join(f"${place}::{type_}[]" for place, type_ in enumerate(_COLUMNS.values(), start=1))
STORE_MESSAGES = (
    f"WITH received AS (SELECT * FROM unnest({_ARRAYS}) AS r ({_NAMES})), "  # noqa: S608  # names and types are those above
    f"stored AS (INSERT INTO webhooks ({_NAMES}, done_at) "
    "SELECT *, CASE WHEN target IS NULL OR quarantine IS NOT NULL THEN received_at END FROM received "
    "ORDER BY provider, event_id "
    "ON CONFLICT DO NOTHING RETURNING provider, target, customer, received_at, quarantine) "
    f"{sync_queue.enqueue_received('stored')}"
)
"""Stores messages once each and queues their targets. Parameters: an array for each column of a message."""

WAITING_SINCE = text(
    "SELECT target, min(received_at) AS since FROM webhooks "
    "WHERE provider = :provider AND target = ANY(:targets) AND done_at IS NULL GROUP BY target"
)
"""Arrival of the first message about each of some objects that must be fetched."""

COUNT_REFUSED = text(
    "INSERT INTO refused_webhooks AS r (provider, reason, count, first_at, last_at, source, detail) "
    "VALUES (:provider, :reason, :count, :last_at, :last_at, :source, :detail) "
    "ON CONFLICT (provider, reason) DO UPDATE SET count = r.count + excluded.count, "
    "last_at = greatest(r.last_at, excluded.last_at), source = excluded.source, detail = excluded.detail"
)
REFUSED = text(
    "SELECT r.*, a.accepted_at, (SELECT max(received_at) FROM webhooks AS w WHERE w.provider = r.provider "
    "AND w.body IS NOT NULL AND w.quarantine IS NULL AND w.traceparent = '' "
    "AND w.received_at > coalesce(a.accepted_at, r.first_at)) AS undelivered_at FROM refused_webhooks AS r "
    "LEFT JOIN LATERAL (SELECT w.received_at AS accepted_at FROM webhooks AS w WHERE w.provider = r.provider "
    "AND w.body IS NOT NULL AND w.quarantine IS NULL AND w.traceparent <> '' ORDER BY w.received_at DESC LIMIT 1) AS a "
    "ON true WHERE :provider = '' OR provider = :provider ORDER BY last_at DESC, reason LIMIT :limit"
)
"""Refusals by reason, the latest first, each with the time of the provider's last accepted message, and with the time
since then at which the redelivery poll last fetched one that the provider could not deliver."""

KNOWN = text("SELECT event_id FROM webhooks WHERE provider = :provider AND event_id = ANY(:ids)")
BODIES = text(
    "SELECT event_id, created, object_id, body FROM webhooks "
    "WHERE provider = :provider AND event_id = ANY(:ids) ORDER BY created, event_id"
)
DELETE_BODIES = text("UPDATE webhooks SET body = NULL WHERE body IS NOT NULL AND received_at < :before")
DELETE_DONE = text(
    "DELETE FROM webhooks WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhooks WHERE done_at IS NOT NULL "
    "AND received_at < :before LIMIT :limit))"
)
"""Deletes messages that were processed or quarantined, and received before a time."""
# One query reads all that a sync needs: the messages, their customers, the accounts of those, and our revision.
TASK = text(
    f"SELECT w.ids, w.types, w.traceparent, w.customers, {OWNERS} AS owners, "  # noqa: S608  # our own text
    "(SELECT revision FROM subscriptions WHERE id = :subscription) AS revision FROM ("
    "SELECT array_agg(event_id ORDER BY created, event_id) AS ids, "
    "array_agg(type ORDER BY created, event_id) AS types, "
    "(array_agg(traceparent ORDER BY created, event_id))[1] AS traceparent, "
    "array_agg(DISTINCT provider || '/' || customer) FILTER (WHERE customer IS NOT NULL) AS customers "
    "FROM webhooks WHERE provider = :provider AND target = :target AND done_at IS NULL) AS w"
)


class Owner(NamedTuple):
    """The tenant of a customer. is_gone: it left, or is leaving. has_debt: the customer owed something."""

    tenant_id: str
    is_gone: bool
    has_debt: bool


@dataclass(frozen=True, slots=True)
class SyncTask:
    """Object to fetch, with its open messages in the order of their creation.

    customers, owners: `<provider>/<customer>` of the messages, and the owner of each that has an account.
    revision: of our subscription when the task was read; the fetch is stale when it has changed.
    """

    job: ClaimedJob
    provider: str
    target: str
    event_ids: tuple[str, ...]
    event_types: tuple[str, ...]
    traceparent: str | None
    customers: frozenset[str]
    owners: dict[str, Owner]
    revision: int


async def sync_task(context: ServiceContext, provider: str, job: ClaimedJob) -> SyncTask:
    """Returns the task of a job."""
    target = job.key
    values = {"provider": provider, "target": target, "subscription": subscription_id(provider, target)}
    row = (await context.rows(TASK, values))[0]
    return SyncTask(
        job=job,
        provider=provider,
        target=target,
        event_ids=tuple(row.ids or ()),
        event_types=tuple(row.types or ()),
        traceparent=row.traceparent,
        customers=frozenset(row.customers or ()),
        owners={
            customer: Owner(tenant_id, is_gone == "true", has_debt == "true")
            for customer, tenant_id, is_gone, has_debt in row.owners
        },
        revision=row.revision or 0,
    )


def finish(task: SyncTask, now: datetime, statement: Statement) -> None:
    """Marks the messages of a task as done and removes it from the queue."""
    at, provider, ids = map(statement.value, (now, task.provider, list(task.event_ids)))
    statement.add(f"UPDATE webhooks SET done_at = {at} WHERE provider = {provider} AND event_id = ANY({ids})")  # noqa: S608
    task.job.finish(statement)


def dismiss(task: SyncTask, customer: str, now: datetime, statement: Statement) -> None:
    """Ends a task of a customer that is not ours, and counts it. customer: `<provider>/<customer>`."""
    finish(task, now, statement)
    of, at = map(statement.value, (customer, now))
    statement.add(
        f"INSERT INTO dismissed_objects AS o (customer, count, last_at) VALUES ({of}, 1, {at}) "  # noqa: S608
        "ON CONFLICT (customer) DO UPDATE SET count = o.count + 1, last_at = excluded.last_at"
    )


def retarget(task: SyncTask, target: str, now: datetime, statement: Statement) -> None:
    """Assigns the messages of a task to another object and queues that instead."""
    to, provider, ids = map(statement.value, (target, task.provider, list(task.event_ids)))
    statement.add(f"UPDATE webhooks SET target = {to} WHERE provider = {provider} AND event_id = ANY({ids})")  # noqa: S608
    task.job.finish(statement)
    sync_queue.enqueue_sync(task.provider, target, now, statement)


def messages(
    *, provider: str | None, target: str | None, state: MessageState | None, after: str | None, limit: int
) -> Select[Any]:
    """Returns the query for the messages of the last 30 days, newest first. after: `<provider>/<event>`."""
    message = WEBHOOKS.c
    order = (message.received_at, message.provider, message.event_id)
    # The index by time holds the messages with a body, which are those of the last 30 days.
    query = select(WEBHOOKS).where(message.body.is_not(None)).order_by(*(column.desc() for column in order))
    if provider is not None:
        query = query.where(message.provider == provider)
    if target is not None:
        query = query.where(message.target == target)
    if state is not None:
        query = query.where(_has_state(state))
    if after is not None:
        last_provider, _slash, last_id = after.partition("/")
        last = select(*order).where(and_(message.provider == last_provider, message.event_id == last_id))
        query = query.where(tuple_(*order) < last.scalar_subquery())
    return query.limit(limit)


def _has_state(state: MessageState) -> ColumnElement[bool]:
    message = WEBHOOKS.c
    match state:
        case MessageState.QUARANTINED:
            return message.quarantine.is_not(None)
        case MessageState.WAITING:
            return message.done_at.is_(None)
        case MessageState.DONE:
            return and_(message.done_at.is_not(None), message.quarantine.is_(None))
