"""The inbox of providers' messages: durable before it is acknowledged, each once, many to a statement."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from paybill_runtime.database.pool import Database
from paybill_runtime.errors import OverloadedError, is_transaction_conflict

from paybill_billing.providers.port import Delivery
from paybill_billing.providers.sync_queue import NO_ACCOUNT

MAX_GROUP = 256
MAX_WAITING = 4096
MAX_TRIES = 5

_OF_DELIVERY = {
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
_TYPES = {"provider": "text", "traceparent": "text", "body": "bytea", "received_at": "timestamptz", **_OF_DELIVERY}
_of_delivery = attrgetter(*_OF_DELIVERY)
_NAMES = ", ".join(_TYPES)
_GIVEN = ", ".join(f"${place}::{type_}[]" for place, type_ in enumerate(_TYPES.values(), start=1))
# One more message of a customer that we do not know changes nothing: its account will wake it.
# Locked in the order of their names, so that two processes that keep messages of one subscription cannot deadlock.
_KEEP = (
    f"WITH given AS (SELECT * FROM unnest({_GIVEN}) AS g ({_NAMES})), "  # noqa: S608  # names and types are those above
    f"kept AS (INSERT INTO webhooks ({_NAMES}, done_at) "
    "SELECT *, CASE WHEN target IS NULL OR quarantine IS NOT NULL THEN received_at END FROM given "
    "ORDER BY provider, event_id "
    "ON CONFLICT DO NOTHING RETURNING provider, target, customer, received_at, quarantine) "
    "INSERT INTO webhook_targets AS t (provider, target, seq, customer, tries, due) "
    "SELECT provider, target, count(*), max(customer), 0, max(received_at) FROM kept "
    "WHERE target IS NOT NULL AND quarantine IS NULL "
    "GROUP BY provider, target ORDER BY provider, target "
    "ON CONFLICT (provider, target) DO UPDATE SET seq = t.seq + excluded.seq, "
    f"due = CASE WHEN t.reason = '{NO_ACCOUNT}' THEN t.due ELSE excluded.due END"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A message as it is kept; `body` is sealed."""

    delivery: Delivery
    provider: str
    traceparent: str
    body: bytes
    received_at: datetime


class Inbox:
    """Keeps messages by group commit: all that wait share one statement, and each is answered when it is durable.

    kept: called after every such commit for each provider that sent some, for whoever finds out what they mean.
    """

    def __init__(self, database: Database, kept: Callable[[str], None]) -> None:
        self._database = database
        self._kept = kept
        self._waiting: list[tuple[Kept, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, message: Kept) -> None:
        """Return once it is durable. Raises OverloadedError, DatabaseUnavailableError."""
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError("too many messages wait to be kept; send it again later")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            error = await self._stored([message for message, _ in group])
            for provider in {message.provider for message, _ in group}:
                self._kept(provider)
            for _, done in group:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _stored(self, messages: Sequence[Kept]) -> Exception | None:
        unique = {(message.provider, message.delivery.event_id): message for message in messages}
        columns = [list(column) for column in zip(*map(_row, unique.values()), strict=True)]
        for _ in range(MAX_TRIES):
            try:
                async with self._database.direct() as connection:
                    await connection.fetch(_KEEP, *columns)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is every waiting sender's answer
                if not is_transaction_conflict(error):
                    return error
            else:
                return None
        return OverloadedError("others change the same subscriptions; send it again later")


def _row(message: Kept) -> tuple[Any, ...]:
    return (
        message.provider,
        message.traceparent,
        message.body,
        message.received_at,
        *_of_delivery(message.delivery),
    )
