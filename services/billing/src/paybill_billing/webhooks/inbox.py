"""Inbox of webhooks: stores messages by group commit before they are acknowledged."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.errors import OverloadedError, is_transaction_conflict

from paybill_billing.providers.port import Delivery
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.webhooks.tables import DELIVERY_COLUMNS, STORE_MESSAGES

log = logging.getLogger(__name__)

MAX_GROUP = 256
MAX_WAITING = 4096
MAX_TRIES = 5

_delivery_values = attrgetter(*DELIVERY_COLUMNS)


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """A verified message with its encrypted body."""

    delivery: Delivery
    provider: str
    traceparent: str
    body: bytes
    received_at: datetime


class WebhookInbox:
    """Stores messages by group commit: all waiting messages share one statement, which also queues their syncs."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._waiting: list[tuple[InboxMessage, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def store(self, message: InboxMessage) -> None:
        """Returns when the message is durable. Raises OverloadedError, DatabaseUnavailableError."""
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError("too many webhooks wait to be stored; send this one again later")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, done))
        if self._writer is None or self._writer.done():
            # Its log lines are about many requests, so it takes over the trace of none.
            self._writer = asyncio.create_task(self._write(), context=Context())
        await done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            began = time.perf_counter()
            error = await self._insert([message for message, _ in group])
            if error is None:
                # One line for all: a line for each costs as much as the rest of the middleware.
                log.info("stored %d webhooks in %.1f ms", len(group), (time.perf_counter() - began) * 1000)
            for _, done in group:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _insert(self, messages: Sequence[InboxMessage]) -> Exception | None:
        unique = {(message.provider, message.delivery.event_id): message for message in messages}
        columns = [list(column) for column in zip(*map(_row, unique.values()), strict=True)]
        for _ in range(MAX_TRIES):
            try:
                async with self._context.database.direct() as connection:
                    await connection.fetch(STORE_MESSAGES, *columns)
                await self._context.jobs_requested(LEASE)
            except Exception as error:  # noqa: BLE001  # any error is the answer to every sender of the group
                if not is_transaction_conflict(error):
                    return error
            else:
                return None
        return OverloadedError("concurrent writes to the same subscriptions collided; send this webhook again later")


def _row(message: InboxMessage) -> tuple[Any, ...]:
    return (
        message.provider,
        message.traceparent,
        message.body,
        message.received_at,
        *_delivery_values(message.delivery),
    )
