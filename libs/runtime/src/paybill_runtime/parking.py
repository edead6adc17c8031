"""Facts that could not be handled: their tenant's queue waits, everybody else goes on, and an operator sees them."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError, NotFoundError
from paybill_contracts.event import latest_event
from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, is_collision
from paybill_runtime.hearing import Incoming, headers_text, incoming, lease_of
from paybill_runtime.leases import Leases
from paybill_runtime.store import Store, fence
from paybill_runtime.unit import Unit

if TYPE_CHECKING:
    from paybill_runtime.reader import Handling

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
POLL_S = 0.5

_BLOCKED = text("SELECT DISTINCT tenant FROM chassis.parked WHERE tenant = ANY(:tenants)")
_PARK = text(
    "INSERT INTO chassis.parked (event_id, stream, sequence, partition, tenant, subject, headers, payload, attempts, next_at, "
    "reason) VALUES (:event_id, :stream, :sequence, :partition, :tenant, :subject, :headers, :payload, 1, :next_at, :reason) "
    "ON CONFLICT DO NOTHING"
)
_QUARANTINE = text(
    "INSERT INTO chassis.quarantine (quarantine_id, publisher, subject, headers, payload, reason, sequence, quarantined_at) "
    "VALUES (:id, :publisher, :subject, :headers, :payload, :reason, :sequence, :now) ON CONFLICT DO NOTHING"
)
_HEADS = text(
    "SELECT * FROM (SELECT DISTINCT ON (tenant) * FROM chassis.parked ORDER BY tenant, sequence) AS head "
    "WHERE NOT dead AND next_at <= :now ORDER BY sequence LIMIT 64"
)
_DELETE = text("DELETE FROM chassis.parked WHERE event_id = :id")
_LATER = text(
    "UPDATE chassis.parked SET attempts = :attempts, next_at = :next_at, reason = :reason, dead = :dead, revision = :revision "
    "WHERE event_id = :id"
)
_ONE = text("SELECT * FROM chassis.parked WHERE event_id = :id FOR UPDATE")
_RETRY = text(
    "UPDATE chassis.parked SET dead = false, attempts = 1, next_at = now(), revision = :revision WHERE event_id = :id"
)


class DeadLetterNotFoundError(NotFoundError):
    """No fact waits under this id."""

    code = "dead_letter_not_found"


def reason(error: Exception) -> str:
    """What is shown to an operator: the kind of error and its first line, bounded."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


def delay_s(attempts: int) -> float:
    """How long to wait after this many attempts: doubling, at most five minutes."""
    return float(min(FIRST_DELAY_S * 2 ** (attempts - 1), LONGEST_DELAY_S))


async def blocked(connection: AsyncConnection, tenants: set[str]) -> set[str]:
    """Those of `tenants` whose queue waits."""
    if not tenants:
        return set()
    return {row.tenant for row in await connection.execute(_BLOCKED, {"tenants": sorted(tenants)})}


async def park(connection: AsyncConnection, items: Sequence[tuple[Incoming, str]], now: datetime) -> None:
    """Keep messages with the reason, in the transaction that counts them as handled."""
    for item, why in items:
        await connection.execute(
            _PARK,
            {
                "event_id": item.id,
                "stream": item.stream,
                "sequence": item.sequence,
                "partition": item.partition,
                "tenant": item.tenant,
                "subject": item.subject,
                "headers": headers_text(item.headers),
                "payload": item.payload,
                "next_at": now + timedelta(seconds=FIRST_DELAY_S),
                "reason": why,
            },
        )


async def quarantine(connection: AsyncConnection, items: Sequence[Incoming], now: datetime) -> None:
    """Keep what the owner of a type refused, as it came."""
    for item in items:
        parts = item.subject.split(".")
        await connection.execute(
            _QUARANTINE,
            {
                "id": item.id,
                "publisher": parts[2] if len(parts) > 2 else "",  # noqa: PLR2004  # third token
                "subject": item.subject,
                "headers": headers_text(item.headers),
                "payload": item.payload,
                "reason": str(item.error)[:1000],
                "sequence": item.sequence,
                "now": now,
            },
        )


class Parking:
    """Tries parked facts again, each tenant's in order, and lets operators decide about dead ones."""

    def __init__(self, handling: "Handling", store: Store, leases: Leases, committed: Callable[[], None]) -> None:
        self._handling = handling
        self._store = store
        self._leases = leases
        self._committed = committed

    async def run(self) -> None:
        """Look for what is due, for ever."""
        while True:
            try:
                moved = await self.tick()
            except (DatabaseUnavailableError, LeaseLostError) as error:
                log.warning("parked facts wait: %s", error)
                moved = False
            if not moved:
                await asyncio.sleep(POLL_S)

    async def tick(self) -> bool:
        """Try the first parked fact of every tenant that is due; whether any queue moved."""
        async with self._handling.database.transaction() as connection:
            rows = (await connection.execute(_HEADS, {"now": clock.now()})).all()
        moved = False
        for row in rows:
            held = self._leases.some([lease_of(row.stream, row.partition)])
            if held:
                moved |= await self._try(row, held)
        return moved

    async def _try(self, row: Row[Any], held: dict[str, int]) -> bool:
        item = incoming(
            self._handling.hearing,
            self._handling.service,
            row.stream,
            row.sequence,
            row.subject,
            json.loads(row.headers),
            bytes(row.payload),
        )
        failure: Exception | None
        try:
            failure = await self._handle(item, held)
        except IntegrityError as error:
            failure = error
        except Exception as error:
            if not is_collision(error):
                raise
            return True
        if failure is not None:
            await self._later(row, failure, held)
            return False
        self._committed()
        return True

    async def _handle(self, item: Incoming, held: dict[str, int]) -> Exception | None:
        async with self._handling.database.transaction() as connection:
            await fence(connection, held)
            unit = Unit(clock.now())
            try:
                await self._store.load(connection, unit, item.keys("writes"), item.keys("reads"))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return error
            failure = item.error if item.origin is None else self._handling.attempt(unit, item)
            if isinstance(failure, DomainError) and item.stream == "INTAKE":
                await quarantine(connection, [item], unit.now)
            elif failure is not None:
                return failure
            await connection.execute(_DELETE, {"id": item.id})
            await self._store.save(connection, unit)
        return None

    async def _later(self, row: Row[Any], failure: Exception, held: dict[str, int]) -> None:
        attempts = row.attempts + 1
        dead = attempts >= MAX_ATTEMPTS
        why = reason(failure)
        async with self._handling.database.transaction() as connection:
            await fence(connection, held)
            now = clock.now()
            revision = row.revision + 1 if dead else row.revision
            if dead:
                unit = Unit(now, Origin(str(row.event_id), str(row.event_id), f"service:{self._handling.service}", ""))
                unit.emit(
                    latest_event(f"{self._handling.service}.message_dead_lettered")(
                        message_key=str(row.event_id),
                        message_type=row.subject,
                        message_tenant=row.tenant or None,
                        attempts=attempts,
                        reason=why,
                    ),
                    revision,
                )
                await self._store.save(connection, unit)
                log.error("%s %s is dead after %d attempts: %s", row.subject, row.event_id, attempts, why)
            next_at = now + timedelta(seconds=delay_s(attempts))
            values = {"id": row.event_id, "attempts": attempts, "next_at": next_at, "reason": why, "dead": dead}
            await connection.execute(_LATER, values | {"revision": revision})
        if dead:
            self._committed()

    async def redrive(self, id_: UUID, origin: Origin) -> None:
        """Have a parked fact tried again now; raises DeadLetterNotFoundError."""
        await self._operate(id_, origin, "message_redriven", {}, delete=False)

    async def skip(self, id_: UUID, origin: Origin, why: str) -> None:
        """Give a parked fact up, so that the tenant's queue goes on; raises DeadLetterNotFoundError."""
        await self._operate(id_, origin, "message_skipped", {"reason": why}, delete=True)

    async def _operate(self, id_: UUID, origin: Origin, fact: str, more: dict[str, str], *, delete: bool) -> None:
        async with self._handling.database.transaction() as connection:
            row = (await connection.execute(_ONE, {"id": id_})).one_or_none()
            if row is None:
                raise DeadLetterNotFoundError(
                    f"no parked fact has the id {id_}; list them with `paybill events quarantine`"
                )
            unit = Unit(clock.now(), origin)
            event = latest_event(f"{self._handling.service}.{fact}")
            unit.emit(event(message_key=str(id_), operator=origin.actor, **more), row.revision + 1)
            await self._store.save(connection, unit)
            await connection.execute(
                _DELETE if delete else _RETRY, {"id": id_} | ({} if delete else {"revision": row.revision + 1})
            )
        self._committed()
