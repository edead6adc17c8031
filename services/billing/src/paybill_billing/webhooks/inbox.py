"""Inbox of webhooks: stores messages by group commit before they are acknowledged, and counts refused ones."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextvars import Context
from dataclasses import asdict, dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.errors import DatabaseUnavailableError, OverloadedError, is_transaction_conflict, single_line
from paybill_runtime.telemetry import TraceLink, exporting, meter

from paybill_billing.providers.port import Delivery
from paybill_billing.providers.sync_queue import LEASE, kind_of
from paybill_billing.subscriptions.tables import ACCOUNTS, ACCOUNTS_OF_CUSTOMERS
from paybill_billing.webhooks.tables import COUNT_REFUSED, DELIVERY_COLUMNS, STORE_MESSAGES

log = logging.getLogger(__name__)

MAX_GROUP = 256
MAX_WAITING = 4096
MAX_TRIES = 5
MAX_REASONS = 64
"""Different pairs of provider and reason that are counted."""
REFUSALS_PAUSE_S = 1.0
_REFUSED = meter.create_counter("paybill.webhooks.refused", "{message}", "Webhooks that were refused, by reason.")

_delivery_values = attrgetter(*DELIVERY_COLUMNS)


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """A verified message with its encrypted body."""

    delivery: Delivery
    provider: str
    traceparent: str
    body: bytes
    received_at: datetime


class MessageOwner(NamedTuple):
    """The tenant of a message, and the begin of its journey."""

    tenant: str
    begun: TraceLink | None


class WebhookInbox:
    """Stores messages by group commit: all waiting messages share one statement, which also queues their syncs."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._waiting: list[tuple[InboxMessage, asyncio.Future[MessageOwner | None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def store(self, message: InboxMessage) -> MessageOwner | None:
        """Returns when the message is durable: its owner, if spans are exported and its customer is known.

        Raises OverloadedError, DatabaseUnavailableError.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError("too many webhooks wait to be stored; send this one again later")
        done: asyncio.Future[MessageOwner | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, done))
        if self._writer is None or self._writer.done():
            # Its log lines are about many requests, so it takes over the trace of none.
            self._writer = asyncio.create_task(self._write(), context=Context())
        return await done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            began = time.perf_counter()
            error = await self._insert([message for message, _ in group])
            if error is None:
                # One line for all: a line for each costs as much as the rest of the middleware.
                log.info("stored %d webhooks in %.1f ms", len(group), (time.perf_counter() - began) * 1000)
            owners = await self._owners([message for message, _ in group]) if exporting() else {}
            for message, done in group:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(owners.get(_customer(message)))
                else:
                    done.set_exception(error)

    async def _owners(self, messages: Sequence[InboxMessage]) -> dict[str, MessageOwner]:
        """Returns the tenants of customers, for the spans of the requests; none of them when they cannot be read."""
        customers = sorted({_customer(message) for message in messages if message.delivery.customer})
        try:
            rows = await self._context.rows(ACCOUNTS_OF_CUSTOMERS, {"customers": customers})
            begun = await self._context.journeys([ACCOUNTS.key(row.id) for row in rows])
            return {row.customer: MessageOwner(row.id, begun.get(ACCOUNTS.key(row.id))) for row in rows}
        except DatabaseUnavailableError:
            return {}
        except Exception:  # the messages are stored, and their senders wait for this answer
            log.exception("the tenants of stored webhooks cannot be read; their spans have none")
            return {}

    async def _insert(self, messages: Sequence[InboxMessage]) -> Exception | None:
        unique = {(message.provider, message.delivery.event_id): message for message in messages}
        columns = [list(column) for column in zip(*map(_row, unique.values()), strict=True)]
        for _ in range(MAX_TRIES):
            try:
                async with self._context.database.direct() as connection:
                    await connection.fetch(STORE_MESSAGES, *columns)
                for provider in {message.provider for message in messages}:
                    await self._context.jobs_requested(LEASE, kind_of(provider))
            except Exception as error:  # noqa: BLE001  # any error is the answer to every sender of the group
                if not is_transaction_conflict(error):
                    return error
            else:
                return None
        return OverloadedError("concurrent writes to the same subscriptions collided; send this webhook again later")


@dataclass(slots=True)
class _Refused:
    count: int
    last_at: datetime
    source: str | None
    detail: str


class RefusalCounts:
    """Counts refused requests by provider and reason, and stores the counts at most once a second.

    Anybody can send such requests, so they cost a bounded amount of memory and of writes, and none of their content is
    kept. The counts of the last second are lost when the process dies.
    """

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._counts: dict[tuple[str, str], _Refused] = {}
        _REFUSED.add(0)
        self._writer: asyncio.Task[None] | None = None

    def add(self, provider: str, reason: str, detail: str, source: str | None) -> None:
        """Counts one request. reason: a stable code; with too many different ones, `other`."""
        key = (provider, reason if (provider, reason) in self._counts or len(self._counts) < MAX_REASONS else "other")
        counted = self._counts.setdefault(key, _Refused(0, self._context.now(), source, detail))
        counted.count += 1
        counted.last_at, counted.source, counted.detail = self._context.now(), source, single_line(detail)
        _REFUSED.add(1, {"paybill.provider": provider, "paybill.reason": key[1]})
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), context=Context())

    async def _write(self) -> None:
        while self._counts:
            await asyncio.sleep(REFUSALS_PAUSE_S)
            counts, self._counts = self._counts, {}
            rows = [
                {"provider": provider, "reason": reason, **asdict(counted)}
                for (provider, reason), counted in sorted(counts.items())
            ]
            try:
                async with self._context.database.transaction() as connection:
                    await connection.execute(COUNT_REFUSED, rows)
            except DatabaseUnavailableError:
                for key, counted in counts.items():
                    self._counts.setdefault(key, _Refused(0, counted.last_at, counted.source, counted.detail))
                    self._counts[key].count += counted.count
            except Exception:
                log.exception("the counts of %d refused webhooks are lost", sum(row["count"] for row in rows))


def _customer(message: InboxMessage) -> str:
    return f"{message.provider}/{message.delivery.customer}"


def _row(message: InboxMessage) -> tuple[Any, ...]:
    return (
        message.provider,
        message.traceparent,
        message.body,
        message.received_at,
        *_delivery_values(message.delivery),
    )
