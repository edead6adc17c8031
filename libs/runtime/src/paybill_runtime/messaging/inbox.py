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
from paybill_runtime.decisions.group_commit import GroupCommit, retry_on_conflict
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import HandledBatch, Queue, Store
from paybill_runtime.decisions.unit_of_work import UnitOfWork, decision_context
from paybill_runtime.errors import is_infrastructure_error, single_line
from paybill_runtime.messaging import retry_queue
from paybill_runtime.messaging.streams import INTAKE
from paybill_runtime.messaging.subscriptions import IncomingMessage, Subscriptions
from paybill_runtime.telemetry import log_context, meter, span

log = logging.getLogger(__name__)

_HANDLED = meter.create_counter("paybill.messages.heard", "{message}", "Messages handled, by what came of them.")


class MessageProcessor:
    """Handles messages inside transactions; used by the reader for new ones and by the parking loop for old ones."""

    def __init__(
        self,
        service: str,
        subscriptions: Subscriptions,
        database: Database,
        store: Store,
        group_commit: GroupCommit,
        restore_guard: RestoreGuard,
    ) -> None:  # what it brings together
        self.service = service
        self.subscriptions = subscriptions
        self.database = database
        self._store = store
        self._group_commit = group_commit
        self.restore_guard = restore_guard
        self.on_commit: Callable[[], None] = lambda: None

    async def process(
        self, items: Sequence[IncomingMessage], held: Mapping[str, int], positions: dict[int, int]
    ) -> None:
        """All of `items` in one transaction, with the positions; one by one when they cannot share one.

        positions: where each partition has been read to; those behind the last item are moved there, as is committed.
        Raises what is no message's fault: LeaseLostError, DatabaseUnavailableError, collisions that do not end.
        """
        try:
            await retry_on_conflict(lambda: self._commit(items, held, positions))
        except Exception as error:
            if is_infrastructure_error(error):
                raise
            if len(items) == 1:
                await self._commit(items, held, positions, self.classify(items[0], error))
                return
            for item in items:
                await self.process([item], held, positions)

    def classify(self, item: IncomingMessage, error: Exception) -> Exception | None:
        """Why `item`, whose writes raised `error`, has to be parked; None when a rule refuses it, as it now knows."""
        refusal = self._group_commit.domain_error_for(error)
        item.error = refusal
        return error if refusal is None else None

    async def retry(self, connection: AsyncConnection, item: IncomingMessage) -> Exception | None:
        """Handle one message that was parked; why it has to stay there, if it has to."""
        unit = UnitOfWork(clock.now())
        writes, reads, failures = _keys([item])
        await self._store.load(connection, unit, writes, reads)
        failure = failures.get(item.id) or self._attempt(unit, item)
        if failure is None:
            await self._store.write(connection, unit)
            await retry_queue.quarantine(connection, _refused([item]), unit.now)
        return failure

    async def _commit(
        self,
        items: Sequence[IncomingMessage],
        held: Mapping[str, int],
        positions: dict[int, int],
        broken: Exception | None = None,
    ) -> None:
        self.restore_guard.check()
        unit = UnitOfWork(clock.now())
        first = {item.id: item for item in reversed(items)}
        writes, reads, failures = _keys(items)
        async with self.database.direct() as connection:
            known = await self._store.load(
                connection, unit, writes, reads, first, {item.queue for item in first.values()}
            )
        fresh = sorted((first[id_] for id_ in first.keys() - known.handled), key=lambda item: item.sequence)
        failures |= {} if broken is None else {item.id: broken for item in fresh}
        waiting, failed = self._decide(unit, fresh, known.blocked, failures)
        last = items[-1]
        behind = {partition: at for partition, at in positions.items() if at < last.sequence}
        heard = HandledBatch(last.stream, {item.id: item.sequence for item in fresh}, behind, last.sequence, last.id)
        refused = _refused(fresh)
        if failed or waiting or refused:
            async with self.database.transaction() as connection:
                await self._store.write(connection, unit, held.items(), heard)
                await retry_queue.enqueue(connection, failed, waiting, unit.now)
                await retry_queue.quarantine(connection, refused, unit.now)
        else:
            async with self.database.direct(committing=True) as connection:
                await self._store.write(connection, unit, held.items(), heard)
        positions.update(dict.fromkeys(behind, last.sequence))
        self.on_commit()
        for outcome, count in (("failed", len(failed)), ("waiting", len(waiting))):
            _HANDLED.add(count, {"outcome": outcome})
        _HANDLED.add(len(fresh) - len(failed) - len(waiting), {"outcome": "handled"})

    def _decide(
        self, unit: UnitOfWork, items: Sequence[IncomingMessage], blocked: set[Queue], failures: Mapping[str, Exception]
    ) -> tuple[list[IncomingMessage], list[tuple[IncomingMessage, Exception]]]:
        """Those that have to wait behind others, and those that failed, with the reason."""
        waiting: list[IncomingMessage] = []
        failed: list[tuple[IncomingMessage, Exception]] = []
        for item in items:
            if item.queue in blocked:
                waiting.append(item)
                continue
            failure = failures.get(item.id) or self._attempt(unit, item)
            if failure is not None:
                with log_context(item.tenant, item.origin.traceparent):
                    log.error("%s %s is parked", single_line(item.subject), item.id, exc_info=failure)
                failed.append((item, failure))
                blocked.add(item.queue)
        return waiting, failed

    def _attempt(self, unit: UnitOfWork, item: IncomingMessage) -> Exception | None:
        """Let the handler decide on `unit`; why the message has to be parked, if it has to.

        A rule's refusal ends the message: it is recorded as a fact, and `item.error` holds it.
        """
        origin, event = item.origin, item.event
        name = f"hear {event.TYPE}" if event is not None else "hear what cannot be read"
        with log_context(item.tenant, origin.traceparent), span(name, origin.traceparent, SpanKind.CONSUMER) as here:
            origin = Origin(origin.cause, origin.correlation, origin.actor, here)
            try:
                with unit.savepoint(origin):
                    item.handle(unit, decision_context(unit.now, self.service, item.id))
            except DomainError as error:
                # What is not ready yet is tried again; a fact that cannot be read waits for a newer version of us.
                if isinstance(error, RetryLaterError) or (item.argument is None and item.stream != INTAKE):
                    return error
                item.error = error
                with unit.savepoint(origin):
                    self._record_refusal(unit, item, error)
            except Exception as error:  # noqa: BLE001  # the caller parks the message with it
                return error
            return None

    def _record_refusal(self, unit: UnitOfWork, item: IncomingMessage, error: DomainError) -> None:
        if item.stream == INTAKE:
            unit.emit(
                service_event(self.service, IntakeQuarantined)(
                    quarantine_id=item.id,
                    publisher=item.publisher,
                    subject=single_line(item.subject),
                    reason=single_line(str(error)),
                )
            )
        else:
            unit.emit(
                service_event(self.service, RequestRefused)(
                    refusal_id=clock.new_id(),
                    verb="hear",
                    code=error.code,
                    target=single_line(f"{item.subject} {error}"),
                )
            )


def _refused(items: Sequence[IncomingMessage]) -> list[IncomingMessage]:
    return [item for item in items if item.stream == INTAKE and item.error is not None]


def _keys(items: Sequence[IncomingMessage]) -> tuple[set[Key], set[Key], dict[str, Exception]]:
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
