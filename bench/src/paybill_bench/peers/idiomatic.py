"""The hop as in the guides: a FastStream subscriber, a SQLModel session per message, a polled outbox.

No tracing and no sealing, unlike Paybill's hop.
"""

import asyncio
import logging
import uuid
from datetime import UTC, datetime
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.nats.security import NatsUserPassword
from nats.js.api import ConsumerConfig
from pydantic import AwareDatetime, BaseModel
from sqlalchemy import JSON, Column, DateTime, Index, LargeBinary
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from paybill_bench.access import INPUT_SUBJECT, PEER_CONSUMER, from_command_line, output_subject

POLL_S = 0.05
ROUND = 500
PULLED = 100
"""Messages of one request; each is handled alone, as in the guides."""


class Sealed(BaseModel):
    """A sealed value; this hop only forwards it."""

    key: str
    sealed: str


class Metered(BaseModel):
    """The consumed fact, and with a running total the published one."""

    tenant_id: str
    subscription_id: str
    plan: str
    meter: str
    quantity: int
    unit_price_minor: int
    currency: str
    region: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    reported_by: str
    contact: Sealed


class Inbox(SQLModel, table=True):
    """Handled messages."""

    id: uuid.UUID = Field(primary_key=True)


class Usage(SQLModel, table=True):
    """The state: one row per tenant."""

    tenant_id: str = Field(primary_key=True)
    revision: int = 0
    quantity: int = 0
    last: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class Outbox(SQLModel, table=True):
    """Facts to be published."""

    position: int | None = Field(default=None, primary_key=True)
    id: uuid.UUID
    subject: str
    headers: dict[str, str] = Field(sa_column=Column(JSON, nullable=False))
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    published_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))


Index("outbox_waiting", col(Outbox.position), postgresql_where=col(Outbox.published_at).is_(None))


Sessions = async_sessionmaker[AsyncSession]


def consume(broker: NatsBroker, sessions: Sessions) -> None:
    """Registers the subscriber."""

    @broker.subscriber(
        INPUT_SUBJECT,
        stream=JStream("EVENTS", declare=False),
        durable=PEER_CONSUMER,
        config=ConsumerConfig(name=PEER_CONSUMER),
        pull_sub=PullSub(batch_size=PULLED),  # a push consumer cannot deliver into another account
        inbox_prefix=b"_INBOX_tenant.",
        ack_policy=AckPolicy.NACK_ON_ERROR,  # the default would terminate failing messages
    )
    async def metered(event: Metered, message: NatsMessage) -> None:
        id_ = uuid.UUID(message.headers["ce-id"])
        async with sessions() as session, session.begin():
            if await session.get(Inbox, id_) is not None:
                return
            session.add(Inbox(id=id_))
            usage = await session.get(Usage, event.tenant_id, with_for_update=True)
            if usage is None:
                usage = Usage(tenant_id=event.tenant_id, last={})
                session.add(usage)
            usage.revision += 1
            usage.quantity += event.quantity
            usage.last = event.model_dump(mode="json")
            session.add(_output(event, usage.quantity, id_, output_subject(message.raw_message.subject)))


def _output(event: Metered, quantity: int, cause: uuid.UUID, subject: str) -> Outbox:
    id_ = uuid.uuid4()
    headers = {
        "Nats-Msg-Id": str(id_),
        "Content-Type": "application/json",
        "ce-id": str(id_),
        "ce-type": "tenant.hop_noted",
        "pb-cause": str(cause),
        "pb-tenant": event.tenant_id,
    }
    payload = event.model_copy(update={"quantity": quantity}).model_dump_json().encode()
    return Outbox(id=id_, subject=subject, headers=headers, payload=payload)


async def relay(broker: NatsBroker, sessions: Sessions) -> None:
    """Publishes pending rows one by one, and polls every 50 ms."""
    pending = select(Outbox).where(col(Outbox.published_at).is_(None)).order_by(col(Outbox.position)).limit(ROUND)
    while True:
        async with sessions() as session, session.begin():
            rows = (await session.exec(pending)).all()
            for row in rows:
                await broker.publish(row.payload, row.subject, headers=row.headers, stream="EVENTS")
                row.published_at = datetime.now(UTC)
        if len(rows) < ROUND:
            await asyncio.sleep(POLL_S)


async def _main() -> None:
    access = from_command_line()
    logging.getLogger("faststream").setLevel(logging.WARNING)
    engine = create_async_engine(access.engine_url("asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    broker = NatsBroker(
        access.nats_url,
        security=NatsUserPassword(access.nats_user, access.nats_password),
        inbox_prefix=f"_INBOX_{access.nats_user}",
        log_level=logging.DEBUG,
    )
    sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    consume(broker, sessions)
    async with asyncio.TaskGroup() as tasks:
        app = FastStream(broker)
        app.after_startup(lambda: tasks.create_task(relay(broker, sessions)))
        await app.run()


if __name__ == "__main__":
    asyncio.run(_main())
