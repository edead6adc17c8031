"""Consumer: takes over leased partitions and processes their messages from the committed position on."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.event import PARTITIONS, Event
from paybill_contracts.signing_keys import key_fact_kind

from paybill_runtime.database.arrays import texts
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.restore_guard import LogStateMismatchError
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, is_transaction_conflict, reason
from paybill_runtime.messaging.broker import BatchSubscriber, Broker
from paybill_runtime.messaging.inbox import POSITIONS, SEED_POSITIONS
from paybill_runtime.messaging.known_keys import KEY_SUBJECTS
from paybill_runtime.messaging.message import (
    INTAKE_PARTITION,
    STREAM_PARTITION,
    IncomingMessage,
    lease_of,
    parse_message,
)
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.processor import MessageProcessor
from paybill_runtime.messaging.stream_identity import check_stream_identity
from paybill_runtime.messaging.streams import EVENTS, INTAKE
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.messaging.voided_facts import VoidedFacts
from paybill_runtime.messaging.write_probes import intake_probe

log = logging.getLogger(__name__)

PAUSE_S = 0.5
LAG_TIMEOUT_S = 1.0
"""Time for an answer about the lag: a diagnosis of a NATS that does not answer must not wait for it."""
ALL_POSITIONS_S = 1.0
"""Interval after which partitions without messages advance too, which only shortens the next start."""


@dataclass(frozen=True, slots=True)
class Source:
    """The part of a stream that one consumer reads. `partition`: a fixed one; None for the leased partitions."""

    stream: str
    partition: int | None
    root: str
    types: dict[str, type[Event]]

    def partitions(self, leases: Leases) -> list[int]:
        """Returns the partitions that this process may own."""
        return leases.partitions() if self.partition is None else [self.partition]

    def filters(self, owned: Sequence[int]) -> list[str]:
        """Returns the subjects of the handled events in these partitions, and of the keys that verify them."""
        if self.partition is not None:
            return [f"{self.root}.>"]
        tokens = ["*"] if len(owned) == PARTITIONS else [str(partition) for partition in owned]
        own = [f"{self.root}.{token}.{type_}.*" for token in tokens for type_ in sorted(self.types)]
        return [*own, *KEY_SUBJECTS] if own else []


def sources(subscriptions: Subscriptions) -> dict[str, Source]:
    """Returns what the consumers of a service read, by the name that health checks and lag use."""
    facts = {type_: handler.event for type_, handler in subscriptions.fact_handlers.items()}
    partition = None if subscriptions.stream_handler is None else STREAM_PARTITION
    found = {"reader": Source(EVENTS, partition, "paybill.events", facts)}
    if subscriptions.intake_handlers:
        types = {type_: handler.event for type_, handler in subscriptions.intake_handlers.items()}
        found["intake"] = Source(INTAKE, INTAKE_PARTITION, "paybill.intake", types)
    return found


class Consumer:
    """Consumes one source for the partitions that this process owns."""

    def __init__(
        self, source: Source, processor: MessageProcessor, broker: Broker, leases: Leases, voided: VoidedFacts
    ) -> None:
        self._source = source
        self._name = f"consumer of {source.stream}"
        self._reconnects = 0
        self._processor = processor
        self._broker = broker
        self._leases = leases
        self._voided = voided
        self._ordered_consumer: OrderedConsumer | None = None
        self._held: dict[str, int] = {}
        self._positions: dict[int, int] = {}
        self._all_at = 0.0
        self._probe = intake_probe(processor.service)
        self._subscriber = BatchSubscriber(
            broker,
            source.stream,
            f"{source.root}.>",
            lambda messages: [item for message in messages if (item := self._read(message)) is not None],
            self._handle,
        )
        leases.on_change(self._owners_changed)
        self._changed = True

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self._source.stream

    def _owners_changed(self) -> None:
        self._changed = True

    async def run(self) -> None:
        """Consumes until cancelled. While PostgreSQL or NATS is unavailable it waits, and counts no attempts.

        After a fault it may be called again: it continues at the committed position.
        """
        while True:
            try:
                await self._step()
            except LogStateMismatchError:
                self._changed = True
                await asyncio.sleep(PAUSE_S)
            except (
                DatabaseUnavailableError,
                LeaseLostError,
                NatsError,
                JetStreamError,
                OSError,
                TimeoutError,
            ) as error:
                log.warning("the %s pauses: %s", self._name, reason(error))
                self._changed = True
                await asyncio.sleep(PAUSE_S)
            except Exception as error:
                self._changed = True
                if not is_transaction_conflict(error):
                    raise

    async def lag(self) -> int | None:
        """Returns how many messages are not handled yet; None while that is unknown."""
        if self._ordered_consumer is None or not self._broker.connected.is_set():
            return None
        try:
            async with asyncio.timeout(LAG_TIMEOUT_S):
                return await self._ordered_consumer.lag()
        except (NatsError, JetStreamError, OSError, TimeoutError):
            return None

    async def _step(self) -> None:
        if not self._broker.connected.is_set():
            await asyncio.sleep(0.05)
            return
        # After a reconnect it may be another server, with an older copy of the stream.
        if self._changed or self._reconnects != self._broker.reconnects:
            await self._broker.while_connected(self._resume())
        if self._ordered_consumer is None:
            await asyncio.sleep(0.05)
            return
        messages = await self._broker.while_connected(self._ordered_consumer.fetch(1.0))
        # Positions do not advance past probe messages alone: they are few, and dropped again after a start.
        messages = [message for message in messages if message.subject != self._probe]
        if messages:
            await self._subscriber.process(messages)

    def _read(self, message: Msg) -> IncomingMessage | None:
        """Returns a message with the reason why it is refused, if there is one; None for a key that was learnt."""
        item = parse_message(self._processor.subscriptions, self._processor.service, message)
        if self._source.stream != EVENTS:
            return item
        refusal = self._voided.known_keys.verify(message)
        if refusal is not None:
            item.refuse(refusal)
        elif self._source.partition is None and key_fact_kind(message.subject) is not None:
            return None
        return item

    async def _handle(self, items: Sequence[IncomingMessage]) -> None:
        new = [item for item in items if self._is_new(item)]
        if not new:
            return
        now = asyncio.get_running_loop().time()
        if now >= self._all_at:
            partitions, self._all_at = set(self._positions), now + ALL_POSITIONS_S
        else:
            partitions = {item.partition for item in new}
        leases = (lease_of(self._source.stream, partition) for partition in partitions)
        held = {lease: self._held[lease] for lease in leases}
        positions = {partition: self._positions[partition] for partition in sorted(partitions)}
        await self._processor.process(new, held, positions)
        self._positions |= positions

    def _is_new(self, item: IncomingMessage) -> bool:
        if self._source.stream == EVENTS and self._voided.covers(item.sequence, item.message_id, item.payload):
            log.warning("sequence %d is void and not handled", item.sequence)
            return False
        return item.sequence > self._positions.get(item.partition, item.sequence)

    async def _resume(self) -> None:
        """Starts at the position that the last owner's last transaction committed."""
        self._changed = False
        stream = self._source.stream
        if self._ordered_consumer is not None:
            await self._ordered_consumer.close()
            self._ordered_consumer = None
        owned = self._source.partitions(self._leases)
        self._held = self._leases.held_of({lease_of(stream, partition) for partition in owned})
        filters = self._source.filters(owned)
        self._positions = {}
        if not self._held or not filters:
            self._processor.restore_guard.clear(self._name)
            return
        async with self._processor.database.transaction() as connection:
            await connection.execute(SEED_POSITIONS, {"stream": stream, "partitions": texts(owned)})
            rows = (await connection.execute(POSITIONS, {"stream": stream, "partitions": texts(owned)})).all()
        self._reconnects = self._broker.reconnects
        last = max(rows, key=lambda row: row.sequence)
        last_id = str(last.message) if last.message else None
        with self._processor.restore_guard.checking(self._name):
            await check_stream_identity(self._broker.client, stream, last.sequence, last_id)
        await self._voided.load(self._broker.client)
        self._positions = {row.partition: row.sequence for row in rows}
        start = min(self._positions.values()) + 1
        self._ordered_consumer = OrderedConsumer(self._broker.client, stream, filters, start)
