"""Connection to NATS through FastStream, and delivery of batches to its subscribers.

Fetching, validation of each message and positions are ours (`ordered_consumer`, `consumer`): FastStream's default
policy terminates a message whose handler raised, and its batches wait until they are full or a deadline passes. So the
broker connects and is never started: only a started broker makes JetStream consumers. `test_broker.py` is the contract.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.security import NatsUserPassword
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from paybill_runtime.errors import reason
from paybill_runtime.messaging.consumer_creation import consumers_by_identity
from paybill_runtime.messaging.nats_patches import tolerate_malformed_messages
from paybill_runtime.messaging.streams import EVENTS

log = logging.getLogger(__name__)
T = TypeVar("T")
ANSWER_TIMEOUT_S = 2.0
"""Time for an answer of NATS: a diagnosis of one that is hung must not wait for it."""


class Broker:
    """A connection that is restored without limit. Use `client` only while `connected` is set.

    last_error: what the server reported last, such as a subject that this user may not publish to.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self.connected = asyncio.Event()
        self._lost = asyncio.Event()
        self.last_error = ""
        self._client: Client | None = None
        self.faststream = NatsBroker(
            url,
            security=NatsUserPassword(user, password) if user else None,
            inbox_prefix=f"_INBOX_{user or 'paybill'}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # nats-py accepts fractions of a second
            connect_timeout=2,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            error_cb=self._on_error,
            apply_types=False,
            logger=None,  # the callbacks above and the consumers log the same in one line
        )

    @property
    def client(self) -> Client:
        """The NATS client. Raises ConnectionError before the first connection."""
        if self._client is None or not self.connected.is_set():
            raise ConnectionError("no connection to NATS")
        return self._client

    @property
    def reconnects(self) -> int:
        """The number of reconnects."""
        return int(self.client.stats["reconnects"])

    async def run(self) -> None:
        """Connects, with retries until it succeeds; afterwards the client reconnects by itself."""
        while True:
            try:
                self._client = await self.faststream.connect()
            except (OSError, NatsError, TimeoutError) as error:
                log.warning("no connection to NATS at %s (%s); retrying", self._url, reason(error))
                await asyncio.sleep(0.5)
            else:
                tolerate_malformed_messages(self._client)
                self._set_connected()
                return

    async def consumers(self, stream: str) -> int:
        """Returns how many consumers this login has on a stream. Raises ConnectionError and errors of NATS."""
        return (await consumers_by_identity(self.client, stream))[self.client.options["user"]]

    async def answers(self) -> bool:
        """Returns whether NATS answers a request now: the connections of one that is hung stay open for a minute."""
        try:
            await self.client.jetstream(timeout=ANSWER_TIMEOUT_S).stream_info(EVENTS)
        except APIError:
            return True
        except (NatsError, OSError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Flushes and closes. Nothing is lost when NATS is unavailable: unconfirmed facts are still in the outbox."""
        self.connected.clear()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0  # greater than 0 when a signal stops the process
        try:
            await self.faststream.stop()
        except NatsError as error:
            log.info("closed the connection while NATS was unavailable: %s", reason(error))
        except asyncio.CancelledError:
            # nats-py, closed while it reconnects, cancels a future of its own, and the cancellation propagates to here.
            if task is not None and task.cancelling() > cancelled:
                raise
            log.info("closed the connection while NATS was unavailable")

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`. Raises ConnectionError as soon as the connection is lost."""
        task, lost = asyncio.create_task(work), asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionError("the connection to NATS was lost")
            return task.result()
        finally:
            lost.cancel()
            task.cancel()

    async def _on_disconnect(self) -> None:
        self._set_disconnected()
        log.warning("the connection to NATS is lost; facts wait in the outbox")

    async def _on_reconnect(self) -> None:
        self._set_connected()
        log.info("connected to NATS again")

    def _set_connected(self) -> None:
        self._lost.clear()
        self.connected.set()

    def _set_disconnected(self) -> None:
        self.connected.clear()
        self._lost.set()

    async def _on_error(self, error: Exception) -> None:
        self.last_error = reason(error)
        log.warning("NATS: %s", self.last_error)


Decode = Callable[[Sequence[Msg]], Sequence[Any]]
HandleBatch = Callable[[Sequence[Any]], Awaitable[None]]


class BatchSubscriber:
    """A batch subscriber of FastStream that is not started: decodes with `decode` and calls `handle`.

    It is not in the AsyncAPI document, which lists each type of event (`subscriptions`).
    """

    def __init__(self, broker: Broker, stream: str, subject: str, decode: Decode, handle: HandleBatch) -> None:
        async def decode_batch(message: StreamMessage[list[Msg]]) -> Sequence[Any]:
            return decode(message.raw_message)

        async def handle_batch(batch: Any) -> None:
            await handle(batch)

        self._subscriber = broker.faststream.subscriber(
            subject,
            stream=JStream(stream, declare=False),
            pull_sub=PullSub(batch=True),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            decoder=decode_batch,
            include_in_schema=False,
        )
        self._subscriber(handle_batch)
        self._subscriber.schema()  # connects decoder and handler, which otherwise `start` does

    async def process(self, messages: list[Msg]) -> None:
        """Decodes and handles a batch. Raises the errors of `handle`, unlike FastStream's own loop."""
        await self._subscriber.process_message(messages)
