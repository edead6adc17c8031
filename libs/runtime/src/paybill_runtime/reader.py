"""Stream to decisions: a batch of messages, one transaction, every message handled once and none blocking another tenant's."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from opentelemetry.trace import SpanKind
from paybill_contracts.errors import DomainError
from paybill_contracts.event import PARTITIONS, latest_event
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock, parking
from paybill_runtime.connection import Bus, Subscription
from paybill_runtime.database import Database
from paybill_runtime.decide import Decider
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, is_collision
from paybill_runtime.feed import Feed
from paybill_runtime.hearing import Hearing, Incoming, lease_of, received
from paybill_runtime.leases import Leases
from paybill_runtime.store import Store, fence
from paybill_runtime.streams import EVENTS, INTAKE
from paybill_runtime.telemetry import span, tenant_var
from paybill_runtime.unit import Unit, moment

log = logging.getLogger(__name__)

PAUSE_S = 0.5

_SEED = text(
    "INSERT INTO chassis.position (stream, partition, sequence) SELECT :stream, unnest(CAST(:partitions AS smallint[])), 0 "
    "ON CONFLICT DO NOTHING"
)
_POSITIONS = text(
    "SELECT partition, sequence FROM chassis.position WHERE stream = :stream AND partition = ANY(:partitions)"
)
_ADVANCE = text(
    "UPDATE chassis.position SET sequence = :sequence "
    "WHERE stream = :stream AND partition = ANY(:partitions) AND sequence < :sequence"
)
_INBOX = text(
    "INSERT INTO chassis.inbox (event_id, sequence) SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:sequences AS bigint[])) "
    "ON CONFLICT DO NOTHING RETURNING event_id"
)


class Handling:
    """Handles messages inside transactions; used by the reader for new ones and by the parking loop for old ones."""

    def __init__(self, service: str, hearing: Hearing, database: Database, store: Store, decider: Decider) -> None:
        self.service = service
        self.hearing = hearing
        self.database = database
        self._store = store
        self._decider = decider
        self.committed: Callable[[], None] = lambda: None

    async def batch(
        self, items: Sequence[Incoming], held: Mapping[str, int], partitions: Sequence[int], upto: int
    ) -> None:
        """All of `items` in one transaction, with the position; one by one when they cannot share one."""
        stream = items[0].stream
        try:
            async with self.database.transaction() as connection:
                await self._handle(connection, items, held)
                await connection.execute(_ADVANCE, {"stream": stream, "partitions": list(partitions), "sequence": upto})
            self.committed()
        except IntegrityError as error:
            if len(items) == 1:
                await self._apart(items[0], held, error, partitions, upto)
                return
            for item in items:
                await self.batch([item], held, partitions, item.sequence)

    async def _apart(
        self, item: Incoming, held: Mapping[str, int], error: IntegrityError, partitions: Sequence[int], upto: int
    ) -> None:
        """A message whose own writes violate a constraint: a rule's refusal, or something to park."""
        refusal = self._decider.conflict(error)
        item.error = refusal if isinstance(refusal, DomainError) else None
        async with self.database.transaction() as connection:
            await self._handle(connection, [item], held, broken=None if item.error else error)
            await connection.execute(
                _ADVANCE, {"stream": item.stream, "partitions": list(partitions), "sequence": upto}
            )
        self.committed()

    async def _handle(
        self,
        connection: AsyncConnection,
        items: Sequence[Incoming],
        held: Mapping[str, int],
        broken: Exception | None = None,
    ) -> None:
        await fence(connection, held)
        fresh = await _unseen(connection, items)
        blocked = await parking.blocked(connection, {item.tenant for item in fresh})
        unit = Unit(clock.now())
        failures: dict[UUID, Exception] = {}
        await self._load(connection, unit, fresh, failures)
        parked: list[tuple[Incoming, str]] = []
        refused: list[Incoming] = []
        for item in fresh:
            if item.tenant in blocked:
                parked.append((item, "an earlier fact of this tenant waits"))
                continue
            failure = broken or failures.get(item.id) or self.attempt(unit, item)
            if failure is None:
                continue
            if isinstance(failure, DomainError) and item.stream == INTAKE:
                refused.append(item)
            else:
                log.error("%s %s is parked", item.subject, item.id, exc_info=failure)
                parked.append((item, parking.reason(failure)))
                blocked.add(item.tenant)
        await self._store.save(connection, unit)
        await parking.park(connection, parked, unit.now)
        await parking.quarantine(connection, refused, unit.now)

    async def _load(
        self, connection: AsyncConnection, unit: Unit, items: Sequence[Incoming], failures: dict[UUID, Exception]
    ) -> None:
        writes, reads = set(), set()
        for item in items:
            try:
                writes.update(item.keys("writes"))
                reads.update(item.keys("reads"))
            except Exception as error:  # noqa: BLE001  # it fails this message, which is parked with it
                failures[item.id] = error
        await self._store.load(connection, unit, writes, reads)

    def attempt(self, unit: Unit, item: Incoming) -> Exception | None:
        """Let the handler decide on `unit`. A refusal is recorded as a fact; what else it raised is returned."""
        if item.origin is None:
            self._note_refusal(unit, item)
            return item.error
        token = tenant_var.set(item.tenant)
        try:
            with span(f"hear {item.subject.split('.', 3)[-1]}", item.origin.traceparent, SpanKind.CONSUMER) as here:
                origin = type(item.origin)(item.origin.cause, item.origin.correlation, item.origin.actor, here)
                try:
                    with unit.attempt(origin):
                        item.run(unit, moment(unit.now, self.service, str(item.id)))
                except DomainError as error:
                    item.error = error
                    unit.origin = origin
                    self._note_refusal(unit, item)
                    return error if item.stream == INTAKE else None
                except Exception as error:  # noqa: BLE001  # the caller parks the message with it
                    return error
                return None
        finally:
            tenant_var.reset(token)

    def _note_refusal(self, unit: Unit, item: Incoming) -> None:
        """Say in the log that a message was refused; one that cannot even be read in EVENTS is parked instead."""
        reason = str(item.error)[:500].translate(_NO_CONTROL)
        if item.stream == INTAKE:
            publisher = item.subject.split(".")[2] if item.subject.count(".") > 1 else "unknown"
            event = latest_event(f"{self.service}.intake_quarantined")(
                quarantine_id=str(item.id), publisher=publisher, subject=item.subject[:500], reason=reason
            )
        elif item.origin is not None and item.error is not None:
            event = latest_event(f"{self.service}.request_refused")(
                refusal_id=clock.new_id(), verb="hear", code=item.error.code, target=f"{item.subject} {reason}"[:500]
            )
        else:
            return
        unit.emit(event)


_NO_CONTROL = dict.fromkeys([*range(32), 127], " ")


async def _unseen(connection: AsyncConnection, items: Sequence[Incoming]) -> list[Incoming]:
    """Those that were never handled; from now on they count as handled."""
    by_id = {item.id: item for item in reversed(items)}
    values = {"ids": list(by_id), "sequences": [item.sequence for item in by_id.values()]}
    new = {row.event_id for row in await connection.execute(_INBOX, values)}
    return sorted((item for id_, item in by_id.items() if id_ in new), key=lambda item: item.sequence)


class Reader:
    """Reads one stream for the partitions that this process owns."""

    def __init__(self, stream: str, handling: Handling, bus: Bus, leases: Leases) -> None:
        self._stream = stream
        self._handling = handling
        self._bus = bus
        self._leases = leases
        self._feed: Feed | None = None
        self._held: dict[str, int] = {}
        self._positions: dict[int, int] = {}
        hearing = handling.hearing
        handlers = hearing.offers if stream == INTAKE else hearing.facts
        self._subscription = Subscription(
            bus,
            stream,
            "paybill.intake.>" if stream == INTAKE else "paybill.events.>",
            [handler.event for _, handler in sorted(handlers.items())],
            lambda messages: [received(hearing, handling.service, message) for message in messages],
            self._hear,
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
            except (
                DatabaseUnavailableError,
                LeaseLostError,
                NatsError,
                JetStreamError,
                OSError,
                TimeoutError,
            ) as error:
                log.warning("reading %s pauses: %s", self._stream, error or type(error).__name__)
                self._changed = True
                await asyncio.sleep(PAUSE_S)
            except Exception as error:
                if not is_collision(error):
                    raise
                self._changed = True

    async def _step(self) -> None:
        if self._changed:
            await self._take_over()
        if self._feed is None or not self._bus.connected.is_set():
            await asyncio.sleep(0.05)
            return
        messages = await self._feed.next(1.0)
        if messages:
            await self._subscription.take(messages)

    async def _hear(self, items: Sequence[Incoming]) -> None:
        ours = [item for item in items if self._wanted(item)]
        upto = items[-1].sequence
        if ours:
            await self._handling.batch(ours, self._held, list(self._positions), upto)
        for partition in self._positions:
            self._positions[partition] = max(self._positions[partition], upto)

    def _wanted(self, item: Incoming) -> bool:
        place = PARTITIONS if self._stream == INTAKE else item.partition
        return place in self._positions and item.sequence > self._positions[place]

    async def _take_over(self) -> None:
        """Read on from where the last owner's last transaction ended."""
        self._changed = False
        if self._feed is not None:
            await self._feed.close()
            self._feed = None
        owned = [PARTITIONS] if self._stream == INTAKE else self._leases.partitions()
        self._held = self._leases.some({lease_of(self._stream, partition) for partition in owned})
        filters = self._filters(owned)
        self._positions = {}
        if not self._held or not filters:
            return
        async with self._handling.database.transaction() as connection:
            await connection.execute(_SEED, {"stream": self._stream, "partitions": owned})
            rows = await connection.execute(_POSITIONS, {"stream": self._stream, "partitions": owned})
            self._positions = {row.partition: row.sequence for row in rows}
        await self._bus.connected.wait()
        self._feed = Feed(self._bus.client, self._stream, filters, min(self._positions.values()) + 1)

    def _filters(self, owned: Sequence[int]) -> list[str]:
        if self._stream == INTAKE:
            return ["paybill.intake.>"] if self._handling.hearing.offers else []
        tokens = ["*"] if len(owned) == PARTITIONS else [str(partition) for partition in owned]
        return [
            f"paybill.events.{token}.{type_}.*" for token in tokens for type_ in sorted(self._handling.hearing.facts)
        ]


__all__ = ["EVENTS", "INTAKE", "Handling", "Reader"]
