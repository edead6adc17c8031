"""Stream to decisions: takes over partitions, reads on from their position, hands on what arrives, batch by batch."""

import asyncio
import logging
from collections.abc import Sequence

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.event import PARTITIONS
from sqlalchemy import text

from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.restore_guard import LogStateMismatchError
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, is_transaction_conflict, reason
from paybill_runtime.messaging.broker import BatchSubscriber, Broker
from paybill_runtime.messaging.inbox import MessageProcessor
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.stream_identity import check_stream_identity
from paybill_runtime.messaging.streams import INTAKE
from paybill_runtime.messaging.subscriptions import IncomingMessage, lease_of, parse_message

log = logging.getLogger(__name__)

PAUSE_S = 0.5
ALL_POSITIONS_S = 1.0

_SEED = text(
    "INSERT INTO chassis.position (stream, partition, sequence) "
    "SELECT :stream, unnest(CAST(:partitions AS smallint[])), 0 ON CONFLICT DO NOTHING"
)
_POSITIONS = text(
    "SELECT partition, sequence, message FROM chassis.position WHERE stream = :stream AND partition = ANY(:partitions)"
)


class Consumer:
    """Reads one stream for the partitions that this process owns."""

    def __init__(self, stream: str, processor: MessageProcessor, broker: Broker, leases: Leases) -> None:
        self._stream = stream
        self._name = f"reading {stream}"
        self._reconnects = 0
        self._processor = processor
        self._broker = broker
        self._leases = leases
        self._ordered_consumer: OrderedConsumer | None = None
        self._held: dict[str, int] = {}
        self._positions: dict[int, int] = {}
        self._all_at = 0.0
        hearing = processor.subscriptions
        handlers = hearing.intake_handlers if stream == INTAKE else hearing.fact_handlers
        self._subscription = BatchSubscriber(
            broker,
            stream,
            "paybill.intake.>" if stream == INTAKE else "paybill.events.>",
            [handler.event for _, handler in sorted(handlers.items())],
            lambda messages: [parse_message(hearing, processor.service, message) for message in messages],
            self._handle,
        )
        leases.on_change(self._owners_changed)
        self._changed = True

    def _owners_changed(self) -> None:
        self._changed = True

    async def run(self) -> None:
        """Read and handle, for ever. While PostgreSQL or NATS is away it waits and counts nothing."""
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
                log.warning("reading %s pauses: %s", self._stream, reason(error))
                self._changed = True
                await asyncio.sleep(PAUSE_S)
            except Exception as error:
                if not is_transaction_conflict(error):
                    raise
                self._changed = True

    async def lag(self) -> int | None:
        """How many messages still wait to be heard here or are being heard; None when that cannot be told now."""
        if self._ordered_consumer is None or not self._broker.connected.is_set():
            return None
        try:
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
        if messages:
            await self._subscription.process(messages)

    async def _handle(self, items: Sequence[IncomingMessage]) -> None:
        ours = [item for item in items if self._is_new(item)]
        if ours:
            # Partitions in which nothing came follow now and then: only where reading starts again depends on it.
            now = asyncio.get_running_loop().time()
            if now >= self._all_at:
                partitions, self._all_at = set(self._positions), now + ALL_POSITIONS_S
            else:
                partitions = {item.partition for item in ours}
            held = {lease: self._held[lease] for lease in (lease_of(self._stream, place) for place in partitions)}
            positions = {partition: self._positions[partition] for partition in sorted(partitions)}
            await self._processor.process(ours, held, positions)
            self._positions |= positions

    def _is_new(self, item: IncomingMessage) -> bool:
        return item.sequence > self._positions.get(item.partition, item.sequence)

    async def _resume(self) -> None:
        """Read on from where the last owner's last transaction ended."""
        self._changed = False
        if self._ordered_consumer is not None:
            await self._ordered_consumer.close()
            self._ordered_consumer = None
        owned = [PARTITIONS] if self._stream == INTAKE else self._leases.partitions()
        self._held = self._leases.held_of({lease_of(self._stream, partition) for partition in owned})
        filters = self._filters(owned)
        self._positions = {}
        if not self._held or not filters:
            self._processor.restore_guard.clear(self._name)
            return
        async with self._processor.database.transaction() as connection:
            await connection.execute(_SEED, {"stream": self._stream, "partitions": owned})
            rows = (await connection.execute(_POSITIONS, {"stream": self._stream, "partitions": owned})).all()
        self._reconnects = self._broker.reconnects
        last = max(rows, key=lambda row: row.sequence)
        with self._processor.restore_guard.checking(self._name):
            await check_stream_identity(
                self._broker.client, self._stream, last.sequence, str(last.message) if last.message else None
            )
        self._positions = {row.partition: row.sequence for row in rows}
        self._ordered_consumer = OrderedConsumer(
            self._broker.client, self._stream, filters, min(self._positions.values()) + 1
        )

    def _filters(self, owned: Sequence[int]) -> list[str]:
        if self._stream == INTAKE:
            return ["paybill.intake.>"] if self._processor.subscriptions.intake_handlers else []
        tokens = ["*"] if len(owned) == PARTITIONS else [str(partition) for partition in owned]
        return [
            f"paybill.events.{token}.{type_}.*"
            for token in tokens
            for type_ in sorted(self._processor.subscriptions.fact_handlers)
        ]
