"""What is done with messages inside a transaction: each handled once, and what fails is set apart from the rest."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from opentelemetry.trace import SpanKind
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.operations import IntakeQuarantined, RequestRefused, said_by
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock, parking
from paybill_runtime.database import Database
from paybill_runtime.decide import Decider, settled
from paybill_runtime.errors import is_nobodys_fault, line_of
from paybill_runtime.hearing import Hearing, Incoming
from paybill_runtime.state import Key
from paybill_runtime.store import Store, fence
from paybill_runtime.streams import INTAKE
from paybill_runtime.telemetry import about, meter, span
from paybill_runtime.unit import Unit, moment

log = logging.getLogger(__name__)

_HEARD = meter.create_counter("paybill.messages.heard", "{message}", "Messages handled, by what came of them.")
_ADVANCE = text(
    "UPDATE chassis.position SET sequence = :sequence "
    "WHERE stream = :stream AND partition = ANY(:partitions) AND sequence < :sequence"
)
_INBOX = text(
    "INSERT INTO chassis.inbox (event_id, sequence) "
    "SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:sequences AS bigint[])) ON CONFLICT DO NOTHING RETURNING event_id"
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
        """All of `items` in one transaction, with the position; one by one when they cannot share one.

        Raises what is no message's fault: LeaseLostError, DatabaseUnavailableError, collisions that do not end.
        """
        try:
            await settled(lambda: self._commit(items, held, partitions, upto))
        except Exception as error:
            if is_nobodys_fault(error):
                raise
            if len(items) == 1:
                await self._commit(items, held, partitions, upto, self.blame(items[0], error))
                return
            for item in items:
                await self.batch([item], held, partitions, upto if item is items[-1] else item.sequence)

    def blame(self, item: Incoming, error: Exception) -> Exception | None:
        """Why `item`, whose writes raised `error`, has to be parked; None when a rule refuses it, as it now knows."""
        refusal = self._decider.conflict(error) if isinstance(error, IntegrityError) else None
        item.error = refusal
        return error if refusal is None else None

    async def again(self, connection: AsyncConnection, item: Incoming) -> Exception | None:
        """Handle one message that was parked; why it has to stay there, if it has to."""
        unit = Unit(clock.now())
        failures = await self._load(connection, unit, [item])
        failure = failures.get(item.id) or self._attempt(unit, item)
        if failure is None:
            await self._store.save(connection, unit)
            await parking.quarantine(connection, _refused([item]), unit.now)
        return failure

    async def _commit(
        self,
        items: Sequence[Incoming],
        held: Mapping[str, int],
        partitions: Sequence[int],
        upto: int,
        broken: Exception | None = None,
    ) -> None:
        values = {"stream": items[0].stream, "partitions": list(partitions), "sequence": upto}
        async with self.database.transaction() as connection:
            await fence(connection, held)
            await self._handle(connection, items, broken)
            await connection.execute(_ADVANCE, values)
        self.committed()

    async def _handle(
        self, connection: AsyncConnection, items: Sequence[Incoming], broken: Exception | None = None
    ) -> None:
        fresh = await _unseen(connection, items)
        blocked = await parking.blocked(connection, {item.queue for item in fresh})
        unit = Unit(clock.now())
        failures = await self._load(connection, unit, fresh if broken is None else [])
        failures |= {} if broken is None else {item.id: broken for item in fresh}
        waiting: list[Incoming] = []
        failed: list[tuple[Incoming, Exception]] = []
        for item in fresh:
            if item.queue in blocked:
                waiting.append(item)
                continue
            failure = failures.get(item.id) or self._attempt(unit, item)
            if failure is not None:
                with about(item.tenant, item.origin.traceparent):
                    log.error("%s %s is parked", line_of(item.subject), item.id, exc_info=failure)
                failed.append((item, failure))
                blocked.add(item.queue)
        await self._store.save(connection, unit)
        await parking.park(connection, failed, waiting, unit.now)
        await parking.quarantine(connection, _refused(fresh), unit.now)
        for outcome, count in (("failed", len(failed)), ("waiting", len(waiting))):
            _HEARD.add(count, {"outcome": outcome})
        _HEARD.add(len(fresh) - len(failed) - len(waiting), {"outcome": "handled"})

    async def _load(self, connection: AsyncConnection, unit: Unit, items: Sequence[Incoming]) -> dict[UUID, Exception]:
        """Lock and load what all of them need; the failures of those that cannot even say what that is."""
        failures: dict[UUID, Exception] = {}
        writes: set[Key] = set()
        reads: set[Key] = set()
        for item in items:
            try:
                writes.update(item.keys("writes"))
                reads.update(item.keys("reads"))
            except Exception as error:  # noqa: BLE001  # it fails this message, which is parked with it
                failures[item.id] = error
        await self._store.load(connection, unit, writes, reads)
        return failures

    def _attempt(self, unit: Unit, item: Incoming) -> Exception | None:
        """Let the handler decide on `unit`; why the message has to be parked, if it has to.

        A rule's refusal ends the message: it is recorded as a fact, and `item.error` holds it.
        """
        name = f"hear {line_of(item.subject.split('.', 3)[-1])}"
        with (
            about(item.tenant, item.origin.traceparent),
            span(name, item.origin.traceparent, SpanKind.CONSUMER) as here,
        ):
            origin = replace(item.origin, traceparent=here)
            try:
                with unit.attempt(origin):
                    item.run(unit, moment(unit.now, self.service, str(item.id)))
            except DomainError as error:
                # What is not ready yet is tried again; a fact that cannot be read waits for a newer version of us.
                if isinstance(error, RetryLaterError) or (item.argument is None and item.stream != INTAKE):
                    return error
                item.error = error
                with unit.attempt(origin):
                    self._note_refusal(unit, item, error)
            except Exception as error:  # noqa: BLE001  # the caller parks the message with it
                return error
            return None

    def _note_refusal(self, unit: Unit, item: Incoming, error: DomainError) -> None:
        if item.stream == INTAKE:
            unit.emit(
                said_by(self.service, IntakeQuarantined)(
                    quarantine_id=str(item.id),
                    publisher=item.publisher,
                    subject=line_of(item.subject),
                    reason=line_of(str(error)),
                )
            )
        else:
            unit.emit(
                said_by(self.service, RequestRefused)(
                    refusal_id=clock.new_id(),
                    verb="hear",
                    code=error.code,
                    target=line_of(f"{item.subject} {error}"),
                )
            )


def _refused(items: Sequence[Incoming]) -> list[Incoming]:
    return [item for item in items if item.stream == INTAKE and item.error is not None]


async def _unseen(connection: AsyncConnection, items: Sequence[Incoming]) -> list[Incoming]:
    """Those that were never handled; from now on they count as handled."""
    by_id = {item.id: item for item in reversed(items)}
    values = {"ids": list(by_id), "sequences": [item.sequence for item in by_id.values()]}
    new = {row.event_id for row in await connection.execute(_INBOX, values)}
    return sorted((item for id_, item in by_id.items() if id_ in new), key=lambda item: item.sequence)
