"""Ordered consumer: messages of a stream in order, from a sequence on, without waiting for a full batch.

The position is kept in PostgreSQL, so the JetStream consumer is ephemeral and created again after a reconnect, a gap or
missing heartbeats. (FastStream's batch subscriber waits until a batch is full or a deadline passes, a durable consumer
redelivers out of order after a crash, and the ordered consumer of nats-py is a push consumer, whose delivery subject
every account would have to export.) It uses only public methods of nats-py.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from time import monotonic

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from paybill_runtime.clock import wait_for_event
from paybill_runtime.messaging.consumer_creation import create_consumer

log = logging.getLogger(__name__)

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
HEARTBEAT_TIMEOUT_S = 2.5 * HEARTBEAT_S
UNUSED_S = 60
"""Time without a request after which the server deletes a consumer."""
OWNED_S = 45.0
"""Time after a request in which the consumer certainly exists. Then its name may be that of another process."""
RECOUNT_S = 1.0
"""Time without a message after which the pending ones are counted again."""


def stream_sequence(message: Msg) -> int:
    """Returns the message's sequence in the stream, from its reply subject (ADR-15)."""
    return _sequences(message)[0]


def stored_at(message: Msg) -> datetime:
    """Returns the time at which the server stored the message, from its reply subject."""
    return datetime.fromtimestamp(_numbers(message)[2] / 1e9, UTC)


def _sequences(message: Msg) -> tuple[int, int]:
    """Returns stream sequence and consumer sequence."""
    stream, consumer, _ = _numbers(message)
    return stream, consumer


def _numbers(message: Msg) -> tuple[int, int, int]:
    """Returns both sequences and the time in nanoseconds; the longer form has a domain and an account in front."""
    parts = message.reply.split(".")
    first = 5 if len(parts) == 9 else 7  # noqa: PLR2004  # the two forms of ADR-15
    return int(parts[first]), int(parts[first + 1]), int(parts[first + 2])


class OrderedConsumer:
    """The messages of `stream` that match `filters`, from `start` on. Not safe for concurrent calls of `fetch`."""

    def __init__(self, client: Client, stream: str, filters: Sequence[str], start: int, batch: int = 256) -> None:
        self._client = client
        self._stream = stream
        self._filters = list(filters)
        self._next = max(start, 1)
        self._batch = batch
        self._messages: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._credit = 0
        self._delivered = 0
        self._fetched = 0
        self._in_progress = 0
        self._broken = True
        self._reconnects = 0
        self._last_activity = 0.0
        self._requested_at = 0.0
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._requests = 0
        self._consumer = ""

    async def fetch(self, timeout_s: float) -> list[Msg]:
        """Returns at most one batch of messages; empty after `timeout_s`. The previous batch counts as handled."""
        self._in_progress = 0
        deadline = monotonic() + timeout_s
        while not self._messages:
            if self._needs_reopening():
                await self._open()
            self._arrived.clear()
            if self._messages:
                break
            remaining = deadline - monotonic()
            if remaining <= 0:
                return []
            await wait_for_event(self._arrived, min(remaining, 1.0))
        batch = [self._messages.popleft() for _ in range(min(len(self._messages), self._batch))]
        self._in_progress = len(batch)
        self._fetched += self._in_progress
        await self._request()
        return batch

    async def pending(self) -> int:
        """Returns how many matching messages were not fetched yet."""
        if self._needs_reopening():
            await self._open()
        info = await self._client.jetstream().consumer_info(self._stream, self._consumer)
        delivered = info.delivered.consumer_seq if info.delivered else 0
        return (info.num_pending or 0) + delivered - self._fetched

    async def existing(self, timeout_s: float) -> AsyncIterator[list[Msg]]:
        """Yields the batches of matching messages that the stream has now.

        The server counts a message that it cannot read as pending, and leaves it out. Raises TimeoutError when the
        stream does not answer for `timeout_s`.
        """
        remaining, answered = await self.pending(), monotonic()
        while remaining > 0:
            if messages := await self.fetch(RECOUNT_S):
                remaining, answered = remaining - len(messages), monotonic()
                yield messages
            elif (remaining := await self.pending()) > 0 and monotonic() - answered > timeout_s:
                raise TimeoutError("the stream does not answer")

    async def lag(self) -> int | None:
        """Returns `pending` plus the batch in progress; None without a consumer. Safe during `fetch`."""
        return None if self._needs_reopening() else await self.pending() + self._in_progress

    async def close(self) -> None:
        """Unsubscribes, and asks the server to delete the consumer, which else ends a minute after its last use."""
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        self._broken = True
        with contextlib.suppress(NatsError):  # the connection may be closed
            if subscription is not None:
                await subscription.unsubscribe()
            if consumer and self._is_owned():
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}")

    def _needs_reopening(self) -> bool:
        timed_out = self._credit > 0 and monotonic() - self._last_activity > HEARTBEAT_TIMEOUT_S
        return self._broken or timed_out or not self._is_owned()

    def _is_owned(self) -> bool:
        """Returns whether the consumer certainly exists: a server that was restarted has none."""
        unused_s = monotonic() - self._requested_at
        return unused_s < OWNED_S and self._client.stats["reconnects"] == self._reconnects

    async def _open(self) -> None:
        await self.close()
        if self._messages:
            self._next = stream_sequence(self._messages[0])
            self._messages.clear()
        self._credit = self._delivered = self._fetched = 0
        self._reconnects, self._requested_at = self._client.stats["reconnects"], monotonic()
        single = self._filters[0] if len(self._filters) == 1 else None
        self._consumer = await create_consumer(
            self._client,
            self._stream,
            ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next,
                ack_policy=AckPolicy.NONE,
                filter_subject=single,
                filter_subjects=None if single else self._filters,
                inactive_threshold=UNUSED_S,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message)
        self._broken = False
        self._last_activity = monotonic()
        await self._request()

    async def _request(self) -> None:
        """Keeps a pull request open that covers the next batch."""
        if self._credit > self._batch // 2 or self._needs_reopening():
            return
        self._requests += 1
        self._requested_at = monotonic()
        self._credit += self._batch
        request = {"batch": self._batch, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
            json.dumps(request).encode(),
            reply=f"{self._inbox}.{self._requests}",
        )

    async def _on_message(self, message: Msg) -> None:
        self._last_activity = monotonic()
        if not message.reply:
            await self._on_status(message)
            return
        sequence, delivered = _sequences(message)
        if delivered != self._delivered + 1:
            log.warning("a gap in %s before %d; consuming again from %d", self._stream, sequence, self._next)
            self._broken = True
        if self._broken or not self._is_owned():
            self._arrived.set()
            return
        self._delivered = delivered
        self._next = sequence + 1
        self._credit -= 1
        self._messages.append(message)
        # An empty message without headers ends the standing request where it comes from another account.
        self._broken = not (message.data or message.headers)
        self._arrived.set()

    async def _on_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        if status in {"404", "408"}:
            self._credit -= int(headers.get("Nats-Pending-Messages", self._batch))
            self._credit = max(self._credit, 0)
            await self._request()
            return
        log.info("the ordered consumer of %s ended: %s %s", self._stream, status, headers.get("Description", ""))
        self._broken, self._consumer = True, ""
        self._arrived.set()
