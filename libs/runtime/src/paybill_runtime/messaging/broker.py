"""The connection to NATS, by FastStream: its broker connects, declares what we hear, and documents it (AsyncAPI).

Fetching, validating each message and the position are ours (`feed`, `reader`): FastStream's default policy terminates a
message whose handler raised, and its batches wait until they are full or a deadline passes. `Subscription` rides on one
private method of a pinned FastStream; `test_broker.py` is the contract with it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import MethodType
from typing import Any, TypeVar

from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.security import NatsUserPassword
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from paybill_contracts.event import Event

from paybill_runtime.errors import reason
from paybill_runtime.messaging.nats_patches import tolerate_malformed_messages

log = logging.getLogger(__name__)
T = TypeVar("T")


class Broker:
    """A connection that keeps trying. `client` is used only while `connected` is set."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self.connected = asyncio.Event()
        self._lost = asyncio.Event()
        self.faststream = NatsBroker(
            url,
            security=NatsUserPassword(user, password) if user else None,
            inbox_prefix=f"_INBOX_{user or 'paybill'}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # nats-py does take parts of a second
            connect_timeout=2,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            error_cb=self._on_error,
            apply_types=False,
            logger=None,  # what it would log, readers and the callbacks above say in a line
        )

    @property
    def client(self) -> Client:
        """The NATS client; raises ConnectionError before the first connection."""
        if not self.connected.is_set():
            raise ConnectionError("no connection to NATS")
        return self.faststream.config.broker_config.connection_state.connection

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again."""
        return int(self.client.stats["reconnects"])

    async def run(self) -> None:
        """Connect, as often as it takes; afterwards the client reconnects by itself."""
        while True:
            try:
                await self.faststream.start()
            except (OSError, NatsError, TimeoutError) as error:
                log.warning("no connection to NATS at %s (%s); trying again", self._url, reason(error))
                await asyncio.sleep(0.5)
            else:
                tolerate_malformed_messages(self.faststream.config.broker_config.connection_state.connection)
                self._set_connected()
                return

    async def close(self) -> None:
        """Flush and leave. Nothing is lost when NATS is away: what was not confirmed is still in the outbox."""
        self.connected.clear()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0  # who leaves at a signal was cancelled before
        try:
            await self.faststream.stop()
        except NatsError as error:
            log.info("left NATS while it was away: %s", reason(error))
        except asyncio.CancelledError:
            # nats-py, closed while it reconnects, cancels a future of its own and lets that be seen here.
            if task is not None and task.cancelling() > cancelled:
                raise
            log.info("left NATS while it was away")

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns. Raises ConnectionError as soon as the connection is lost: its answers will not come."""
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
        log.warning("NATS: %s", reason(error))


Decode = Callable[[Sequence[Msg]], Sequence[Any]]
HandleBatch = Callable[[Sequence[Any]], Awaitable[None]]


class BatchSubscriber:
    """A batch subscriber of FastStream's, fed by us: it decodes with `read` and calls `hear`, which may raise."""

    def __init__(
        self, bus: Broker, stream: str, subject: str, types: Sequence[type[Event]], read: Decode, hear: HandleBatch
    ) -> None:  # what a subscriber is made of
        async def decode(message: StreamMessage[list[Msg]]) -> Sequence[Any]:
            return read(message.raw_message)

        async def heard(batch: Any) -> None:
            await hear(batch)

        # What it hears is for the AsyncAPI document; nothing is validated by it (apply_types=False).
        union: Any = types[0] if types else None
        for type_ in types[1:]:
            union |= type_
        heard.__annotations__["batch"] = list[union]
        self._subscriber = bus.faststream.subscriber(
            subject,
            stream=JStream(stream, declare=False),
            pull_sub=PullSub(batch=True),
            ack_policy=AckPolicy.MANUAL,
            decoder=decode,
            title=f"{stream} as heard here",
        )
        self._subscriber(heard)
        self._subscriber._create_subscription = MethodType(_no_pull_loop, self._subscriber)  # type: ignore[method-assign]  # noqa: SLF001  # the point of this class

    async def process(self, messages: list[Msg]) -> None:
        """Have a batch decoded and heard; raises what `hear` raises, unlike FastStream's own loop."""
        await self._subscriber.process_message(messages)


async def _no_pull_loop(_subscriber: object) -> None:
    """In place of FastStream's pull loop: the reader calls `take`."""
