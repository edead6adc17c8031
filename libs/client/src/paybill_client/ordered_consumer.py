"""Ordered consumer: the messages of one filter of a stream, in order, after a position; no batch waits to be full.

The JetStream consumer is ephemeral and has no acknowledgements: after a reconnect, a gap or missing heartbeats it is
created again behind the last message that was received.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from time import monotonic

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from paybill_client.consumer_creation import create_consumer
from paybill_client.errors import OlderLogError

log = logging.getLogger(__name__)

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
HEARTBEAT_TIMEOUT_S = 2.5 * HEARTBEAT_S
UNUSED_S = 60
"""Time without a request after which the server deletes a consumer."""
OWNED_S = 45.0
"""Time after its creation in which a consumer certainly exists. Then its name may be that of another process."""
RENEW_S = 30.0
MISSING_S = 10.0
"""Time for which a replica of the stream can be behind after a failover."""


class OrderedConsumer:
    """The messages of `stream` on `subjects` after the sequence `position`. Not safe for concurrent calls.

    renew_s: interval at which the consumer is created again: NATS checks the right to read only then.
    missing_s: time for which the message at the position may be missing.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        stream: str,
        subjects: str,
        position: int,
        batch: int,
        *,
        renew_s: float = RENEW_S,
        missing_s: float = MISSING_S,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._stream = stream
        self._subjects = subjects
        self._position = position
        self._batch = batch
        self._renew_s = renew_s
        self._missing_s = missing_s
        self._messages: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._credit = 0
        self._delivered = 0
        self._reconnects = 0
        self._last_activity = 0.0
        self._opened_at = 0.0
        self._broken = True
        self._repeated = 0
        self._other_log = False
        self._missing_since: float | None = None
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._consumer = ""

    async def fetch(self, timeout_s: float) -> list[Msg]:
        """Returns at most one batch of messages; empty after `timeout_s`. Raises OlderLogError and errors of NATS."""
        deadline = monotonic() + timeout_s
        while not self._messages:
            if self._client.is_closed:
                raise ConnectionClosedError
            if self._other_log:
                raise self._older_log()
            if self._needs_reopening():
                await self._open()
            self._arrived.clear()
            remaining = deadline - monotonic()
            if remaining <= 0:
                return []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._arrived.wait()
        batch = [self._messages.popleft() for _ in range(min(len(self._messages), self._batch))]
        await self._request()
        return batch

    def _needs_reopening(self) -> bool:
        now = monotonic()
        timed_out = now - self._last_activity > HEARTBEAT_TIMEOUT_S or now - self._opened_at > self._renew_s
        return self._broken or timed_out or not self._is_owned()

    def _is_owned(self) -> bool:
        """Returns whether the consumer certainly exists: a server that was restarted has none."""
        age_s = monotonic() - self._opened_at
        return age_s < OWNED_S and self._client.stats["reconnects"] == self._reconnects

    async def _open(self) -> None:
        """Creates the consumer at the last received message, so that the log is known to contain it still."""
        with contextlib.suppress(NatsError):  # it may have been closed with its connection
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            if self._consumer and self._is_owned():
                await self._client.publish(f"{self._prefix}.CONSUMER.DELETE.{self._stream}.{self._consumer}")
        self._broken, self._consumer = True, ""
        self._credit = self._delivered = 0
        self._reconnects, self._opened_at = self._client.stats["reconnects"], monotonic()
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_message)
        self._consumer, pending = await create_consumer(
            self._client,
            self._prefix,
            self._stream,
            ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=max(self._position, 1),
                ack_policy=AckPolicy.NONE,
                filter_subject=self._subjects,
                inactive_threshold=UNUSED_S,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        if self._position and not pending:
            now = monotonic()
            self._missing_since = self._missing_since or now
            self._other_log = now - self._missing_since >= self._missing_s
            return
        self._missing_since = None
        self._repeated = self._position
        self._broken = False
        self._last_activity = monotonic()
        await self._request()

    async def _request(self) -> None:
        """Keeps a pull request open that covers the next batch."""
        if self._credit > self._batch // 2 or self._needs_reopening():
            return
        self._credit += self._batch
        request = {"batch": self._batch, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        subject = f"{self._prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._client.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    async def _on_message(self, message: Msg) -> None:
        if message.subject != self._inbox and not message.reply:
            return  # a status of an earlier consumer
        self._last_activity = monotonic()
        if not message.reply:
            await self._on_status(message.headers or {})
            return
        metadata = message.metadata
        if metadata.consumer != self._consumer or self._broken or not self._is_owned():
            return
        self._credit -= 1
        if metadata.sequence.consumer != self._delivered + 1:
            log.warning("a gap in %s behind %d; reading again from there", self._stream, self._position)
            self._broken = True
        else:
            self._delivered += 1
            self._receive(message, metadata.sequence.stream)
        self._arrived.set()

    def _receive(self, message: Msg, sequence: int) -> None:
        if self._repeated:
            self._other_log = sequence != self._repeated
            self._repeated = 0
            return
        self._position = sequence
        self._messages.append(message)
        if not message.data and not message.headers:
            # Between NATS accounts, such a message ends the answers to the pull request (nats-server #3180).
            self._broken = True

    async def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status == "100":
            return
        if status in {"404", "408"}:
            self._credit = max(self._credit - int(headers.get("Nats-Pending-Messages", self._batch)), 0)
            await self._request()
            return
        log.info("the consumer of %s ended: %s %s", self._stream, status, headers.get("Description", ""))
        self._broken, self._consumer = True, ""
        self._arrived.set()

    def _older_log(self) -> OlderLogError:
        return OlderLogError(
            f"the log has no event at {self._position}: it was restored from an older copy, or is another one",
            "restore the right copy, or choose a position that the log contains",
        )
