"""Inbox of webhooks."""

from sqlalchemy import Boolean, Column, DateTime, Index, LargeBinary, Table, Text

from paybill_billing.database import Base

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
"""Every verified message of a provider, once. `target` is the subscription, or `<kind>/<id>` of another object, that is
looked at because of it, null for none; `body` is sealed, and gone after 30 days; `quarantine` is why nothing is done.
"""
Index("webhooks_waiting_idx", WEBHOOKS.c.provider, WEBHOOKS.c.target, postgresql_where=WEBHOOKS.c.done_at.is_(None))
Index("webhooks_body_idx", WEBHOOKS.c.received_at, postgresql_where=WEBHOOKS.c.body.is_not(None))
