"""Facts that could not be handled: their tenant's queue waits, everybody else goes on, and an operator sees them."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import NotFoundError
from paybill_contracts.event import PARTITIONS, Event
from paybill_contracts.operations import MessageDeadLettered, MessageRedriven, MessageSkipped, service_event
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.leases import INTAKE, Leases
from paybill_runtime.decisions.group_commit import retry_on_conflict
from paybill_runtime.decisions.store import Store, fence
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.errors import (
    DatabaseUnavailableError,
    LeaseLostError,
    is_infrastructure_error,
    is_transaction_conflict,
    reason,
    single_line,
)
from paybill_runtime.messaging.subscriptions import IncomingMessage, headers_json, lease_of, parse_stored
from paybill_runtime.telemetry import log_context

if TYPE_CHECKING:
    from paybill_runtime.messaging.inbox import MessageProcessor

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 300.0
POLL_S = 0.5
MAX_PER_TURN = 100
"""Facts of one queue that are tried before it is another's turn."""
BLOCKED = "an earlier fact of this tenant waits"

_PARK = text(
    "INSERT INTO chassis.parked "
    "(event_id, stream, sequence, partition, tenant, subject, headers, payload, attempts, next_at, reason) VALUES "
    "(:event_id, :stream, :sequence, :partition, :tenant, :subject, :headers, :payload, :attempts, :next_at, :reason) "
    "ON CONFLICT DO NOTHING"
)
_QUARANTINE = text(
    "INSERT INTO chassis.quarantine "
    "(quarantine_id, publisher, subject, headers, payload, reason, sequence, quarantined_at) "
    "VALUES (:id, :publisher, :subject, :headers, :payload, :reason, :sequence, :now) ON CONFLICT DO NOTHING"
)
# From queue to queue by the index, and the first of each: what waits behind it costs nothing.
_HEADS = text(
    "WITH RECURSIVE queue AS ((SELECT partition, tenant FROM chassis.parked WHERE partition = ANY(:partitions) "
    "ORDER BY partition, tenant LIMIT 1) UNION ALL SELECT n.partition, n.tenant FROM queue AS q CROSS JOIN LATERAL "
    "(SELECT p.partition, p.tenant FROM chassis.parked AS p WHERE (p.partition, p.tenant) > (q.partition, q.tenant) "
    "AND p.partition = ANY(:partitions) ORDER BY p.partition, p.tenant LIMIT 1) AS n) "
    "SELECT head.* FROM queue AS q CROSS JOIN LATERAL (SELECT event_id, stream, partition, tenant, dead, next_at "
    "FROM chassis.parked AS p WHERE p.partition = q.partition AND p.tenant = q.tenant ORDER BY sequence LIMIT 1) "
    "AS head WHERE NOT head.dead AND head.next_at <= :now ORDER BY head.next_at LIMIT 64"
)
_NEXT = text(
    "SELECT event_id FROM chassis.parked WHERE partition = :partition AND tenant = :tenant ORDER BY sequence LIMIT 1"
)
_ONE = text("SELECT * FROM chassis.parked WHERE event_id = :id FOR UPDATE")
_DELETE = text("DELETE FROM chassis.parked WHERE event_id = :id")
_LATER = text(
    "UPDATE chassis.parked SET attempts = :attempts, next_at = :next_at, reason = :reason, dead = :dead, "
    "revision = :revision WHERE event_id = :id"
)
_RETRY = text(
    "UPDATE chassis.parked SET dead = false, attempts = 0, next_at = now(), revision = :revision WHERE event_id = :id"
)


class DeadLetterNotFoundError(NotFoundError):
    """No fact waits under this id."""

    code = "dead_letter_not_found"


def backoff_s(attempts: int) -> float:
    """How long to wait after this many attempts: doubling, at most five minutes."""
    return float(min(FIRST_BACKOFF_S * 2.0 ** min(attempts - 1, 30), MAX_BACKOFF_S))


async def enqueue(
    connection: AsyncConnection,
    failed: Sequence[tuple[IncomingMessage, Exception]],
    waiting: Sequence[IncomingMessage],
    now: datetime,
) -> None:
    """Keep messages with the reason, in the transaction that counts them as handled. Only `failed` were tried."""
    rows = [
        _row(item) | {"attempts": 1, "next_at": now + timedelta(seconds=backoff_s(1)), "reason": reason(error)}
        for item, error in failed
    ]
    rows += [_row(item) | {"attempts": 0, "next_at": now, "reason": BLOCKED} for item in waiting]
    if rows:
        await connection.execute(_PARK, rows)


def _row(item: IncomingMessage) -> dict[str, Any]:
    return {
        "event_id": item.id,
        "stream": item.stream,
        "sequence": item.sequence,
        "partition": item.partition,
        "tenant": item.tenant,
        "subject": item.subject.replace("\0", ""),
        "headers": headers_json(item.headers),
        "payload": item.payload,
    }


async def quarantine(connection: AsyncConnection, items: Sequence[IncomingMessage], now: datetime) -> None:
    """Keep what the owner of a type refused, as it came."""
    rows = [
        {
            "id": item.id,
            "publisher": item.publisher,
            "subject": single_line(item.subject),
            "headers": headers_json(item.headers),
            "payload": item.payload,
            "reason": single_line(str(item.error)),
            "sequence": item.sequence,
            "now": now,
        }
        for item in items
    ]
    if rows:
        await connection.execute(_QUARANTINE, rows)


class RetryQueue:
    """Tries parked facts again, each tenant's in order, and lets operators decide about dead ones."""

    def __init__(
        self, processor: "MessageProcessor", store: Store, leases: Leases, on_commit: Callable[[], None]
    ) -> None:
        self._processor = processor
        self._store = store
        self._leases = leases
        self._on_commit = on_commit

    async def run(self) -> None:
        """Look for what is due, for ever."""
        while True:
            try:
                moved = await self.tick()
            except (DatabaseUnavailableError, LeaseLostError) as error:
                log.warning("parked facts wait: %s", error)
                moved = False
            except Exception as error:
                if not is_transaction_conflict(error):
                    raise
                moved = False
            if not moved:
                await asyncio.sleep(POLL_S)

    async def tick(self) -> bool:
        """Try the first parked facts of every queue of ours that is due; whether any queue moved."""
        self._processor.restore_guard.check()
        partitions = self._leases.partitions()
        if self._leases.held_of([INTAKE]):
            partitions.append(PARTITIONS)
        async with self._processor.database.reading() as connection:
            heads = (await connection.execute(_HEADS, {"partitions": partitions, "now": clock.now()})).all()
        moved = False
        for head in heads:
            held = self._leases.held_of([lease_of(head.stream, head.partition)])
            if held:
                moved |= await self._process_queue(head, held)
        return moved

    async def _process_queue(self, head: Row[Any], held: Mapping[str, int]) -> bool:
        """Try a queue from its head on until one fails; whether it moved. Then it is the others' turn."""
        queue = {"partition": head.partition, "tenant": head.tenant}
        id_ = head.event_id
        for place in range(MAX_PER_TURN):
            if not await self._try(id_, held):
                return place > 0
            async with self._processor.database.reading() as connection:
                id_ = (await connection.execute(_NEXT, queue)).scalar_one_or_none()
            if id_ is None:
                break
        return True

    async def _try(self, id_: UUID, held: Mapping[str, int]) -> bool:
        """Handle one again; whether its queue moves on."""
        try:
            return await retry_on_conflict(lambda: self._retry(id_, held))
        except Exception as error:
            if is_infrastructure_error(error):
                raise
            # What its writes violate shows only when they fail, and then nothing else of that transaction can be kept.
            return await self._retry(id_, held, error)

    async def _retry(self, id_: UUID, held: Mapping[str, int], broken: Exception | None = None) -> bool:
        async with self._processor.database.transaction() as connection:
            await fence(connection, held)
            row = (await connection.execute(_ONE, {"id": id_})).one_or_none()
            if row is None or row.dead:
                return row is None
            item = self._read(row)
            failure = self._processor.classify(item, broken) if broken is not None else None
            failure = failure or await self._processor.retry(connection, item)
            if failure is None:
                await connection.execute(_DELETE, {"id": id_})
            else:
                await self._later(connection, row, failure)
        self._on_commit()
        return failure is None

    def _read(self, row: Row[Any]) -> IncomingMessage:
        return parse_stored(
            self._processor.subscriptions,
            self._processor.service,
            row.stream,
            row.sequence,
            row.subject,
            json.loads(row.headers),
            bytes(row.payload),
        )

    async def _later(self, connection: AsyncConnection, row: Row[Any], failure: Exception) -> None:
        attempts, now = row.attempts + 1, clock.now()
        values = {
            "id": row.event_id,
            "attempts": attempts,
            "next_at": now + timedelta(seconds=backoff_s(attempts)),
            "reason": reason(failure),
            "dead": attempts >= MAX_ATTEMPTS,
            "revision": row.revision,
        }
        if values["dead"]:
            values["revision"] += 1
            with log_context(row.tenant, json.loads(row.headers).get("traceparent", "")):
                log.error("%s %s is dead after %d attempts: %s", row.subject, row.event_id, attempts, values["reason"])
            unit = UnitOfWork(
                now, Origin(str(row.event_id), str(row.event_id), f"service:{self._processor.service}", "")
            )
            unit.emit(
                service_event(self._processor.service, MessageDeadLettered)(
                    message_key=str(row.event_id),
                    message_type=single_line(row.subject),
                    message_tenant=row.tenant or None,
                    attempts=attempts,
                    reason=values["reason"],
                ),
                values["revision"],
            )
            await self._store.write(connection, unit)
        await connection.execute(_LATER, values)

    async def redrive(self, id_: UUID, origin: Origin) -> None:
        """Have a parked fact tried again now; raises DeadLetterNotFoundError."""
        said = service_event(self._processor.service, MessageRedriven)(message_key=str(id_), operator=origin.actor)
        await self._operate(id_, origin, said, _RETRY)

    async def skip(self, id_: UUID, origin: Origin, why: str) -> None:
        """Give a parked fact up, so that the tenant's queue goes on; raises DeadLetterNotFoundError."""
        said = service_event(self._processor.service, MessageSkipped)(
            message_key=str(id_), operator=origin.actor, reason=single_line(why)
        )
        await self._operate(id_, origin, said, _DELETE)

    async def _operate(self, id_: UUID, origin: Origin, said: Event, statement: TextClause) -> None:
        async with self._processor.database.transaction() as connection:
            row = (await connection.execute(_ONE, {"id": id_})).one_or_none()
            if row is None:
                raise DeadLetterNotFoundError(f"no parked fact has the id {id_}; it may have been handled by now")
            unit = UnitOfWork(clock.now(), origin)
            unit.emit(said, row.revision + 1)
            await self._store.write(connection, unit)
            await connection.execute(statement, {"id": id_, "revision": row.revision + 1})
        self._on_commit()
