"""What is done with messages inside a transaction: each handled once, and what fails is set apart from the rest."""

import logging
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.trace import SpanKind
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.operations import IntakeQuarantined, RequestRefused, service_event
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.group_commit import Decider, settled
from paybill_runtime.decisions.restore_guard import Agreement
from paybill_runtime.decisions.store import Heard, Queue, Store
from paybill_runtime.decisions.unit_of_work import Unit, moment
from paybill_runtime.errors import is_nobodys_fault, line_of
from paybill_runtime.messaging import retry_queue
from paybill_runtime.messaging.streams import INTAKE
from paybill_runtime.messaging.subscriptions import Hearing, Incoming
from paybill_runtime.telemetry import about, meter, span

log = logging.getLogger(__name__)

_HEARD = meter.create_counter("paybill.messages.heard", "{message}", "Messages handled, by what came of them.")


class Handling:
    """Handles messages inside transactions; used by the reader for new ones and by the parking loop for old ones."""

    def __init__(
        self, service: str, hearing: Hearing, database: Database, store: Store, decider: Decider, agreement: Agreement
    ) -> None:  # what it brings together
        self.service = service
        self.hearing = hearing
        self.database = database
        self._store = store
        self._decider = decider
        self.agreement = agreement
        self.committed: Callable[[], None] = lambda: None

    async def batch(self, items: Sequence[Incoming], held: Mapping[str, int], positions: dict[int, int]) -> None:
        """All of `items` in one transaction, with the positions; one by one when they cannot share one.

        positions: where each partition has been read to; those behind the last item are moved there, as is committed.
        Raises what is no message's fault: LeaseLostError, DatabaseUnavailableError, collisions that do not end.
        """
        try:
            await settled(lambda: self._commit(items, held, positions))
        except Exception as error:
            if is_nobodys_fault(error):
                raise
            if len(items) == 1:
                await self._commit(items, held, positions, self.blame(items[0], error))
                return
            for item in items:
                await self.batch([item], held, positions)

    def blame(self, item: Incoming, error: Exception) -> Exception | None:
        """Why `item`, whose writes raised `error`, has to be parked; None when a rule refuses it, as it now knows."""
        refusal = self._decider.conflict(error)
        item.error = refusal
        return error if refusal is None else None

    async def again(self, connection: AsyncConnection, item: Incoming) -> Exception | None:
        """Handle one message that was parked; why it has to stay there, if it has to."""
        unit = Unit(clock.now())
        writes, reads, failures = _keys([item])
        await self._store.look(connection, unit, writes, reads)
        failure = failures.get(item.id) or self._attempt(unit, item)
        if failure is None:
            await self._store.write(connection, unit)
            await retry_queue.quarantine(connection, _refused([item]), unit.now)
        return failure

    async def _commit(
        self,
        items: Sequence[Incoming],
        held: Mapping[str, int],
        positions: dict[int, int],
        broken: Exception | None = None,
    ) -> None:
        self.agreement.insist()
        unit = Unit(clock.now())
        first = {item.id: item for item in reversed(items)}
        writes, reads, failures = _keys(items)
        async with self.database.direct() as connection:
            known = await self._store.look(
                connection, unit, writes, reads, first, {item.queue for item in first.values()}
            )
        fresh = sorted((first[id_] for id_ in first.keys() - known.handled), key=lambda item: item.sequence)
        failures |= {} if broken is None else {item.id: broken for item in fresh}
        waiting, failed = self._decide(unit, fresh, known.parked, failures)
        last = items[-1]
        behind = {partition: at for partition, at in positions.items() if at < last.sequence}
        heard = Heard(last.stream, {item.id: item.sequence for item in fresh}, behind, last.sequence, last.id)
        refused = _refused(fresh)
        if failed or waiting or refused:
            async with self.database.transaction() as connection:
                await self._store.write(connection, unit, held.items(), heard)
                await retry_queue.park(connection, failed, waiting, unit.now)
                await retry_queue.quarantine(connection, refused, unit.now)
        else:
            async with self.database.direct(committing=True) as connection:
                await self._store.write(connection, unit, held.items(), heard)
        positions.update(dict.fromkeys(behind, last.sequence))
        self.committed()
        for outcome, count in (("failed", len(failed)), ("waiting", len(waiting))):
            _HEARD.add(count, {"outcome": outcome})
        _HEARD.add(len(fresh) - len(failed) - len(waiting), {"outcome": "handled"})

    def _decide(
        self, unit: Unit, items: Sequence[Incoming], blocked: set[Queue], failures: Mapping[str, Exception]
    ) -> tuple[list[Incoming], list[tuple[Incoming, Exception]]]:
        """Those that have to wait behind others, and those that failed, with the reason."""
        waiting: list[Incoming] = []
        failed: list[tuple[Incoming, Exception]] = []
        for item in items:
            if item.queue in blocked:
                waiting.append(item)
                continue
            failure = failures.get(item.id) or self._attempt(unit, item)
            if failure is not None:
                with about(item.tenant, item.origin.traceparent):
                    log.error("%s %s is parked", line_of(item.subject), item.id, exc_info=failure)
                failed.append((item, failure))
                blocked.add(item.queue)
        return waiting, failed

    def _attempt(self, unit: Unit, item: Incoming) -> Exception | None:
        """Let the handler decide on `unit`; why the message has to be parked, if it has to.

        A rule's refusal ends the message: it is recorded as a fact, and `item.error` holds it.
        """
        origin, event = item.origin, item.event
        name = f"hear {event.TYPE}" if event is not None else "hear what cannot be read"
        with about(item.tenant, origin.traceparent), span(name, origin.traceparent, SpanKind.CONSUMER) as here:
            origin = Origin(origin.cause, origin.correlation, origin.actor, here)
            try:
                with unit.attempt(origin):
                    item.run(unit, moment(unit.now, self.service, item.id))
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
                service_event(self.service, IntakeQuarantined)(
                    quarantine_id=item.id,
                    publisher=item.publisher,
                    subject=line_of(item.subject),
                    reason=line_of(str(error)),
                )
            )
        else:
            unit.emit(
                service_event(self.service, RequestRefused)(
                    refusal_id=clock.new_id(),
                    verb="hear",
                    code=error.code,
                    target=line_of(f"{item.subject} {error}"),
                )
            )


def _refused(items: Sequence[Incoming]) -> list[Incoming]:
    return [item for item in items if item.stream == INTAKE and item.error is not None]


def _keys(items: Sequence[Incoming]) -> tuple[set[Key], set[Key], dict[str, Exception]]:
    """What all of them write and read, and the failures of those that cannot even say what that is."""
    failures: dict[str, Exception] = {}
    writes: set[Key] = set()
    reads: set[Key] = set()
    for item in items:
        try:
            writes.update(item.keys("writes"))
            reads.update(item.keys("reads"))
        except Exception as error:  # noqa: BLE001  # it fails this message, which is parked with it
            failures[item.id] = error
    return writes, reads, failures
