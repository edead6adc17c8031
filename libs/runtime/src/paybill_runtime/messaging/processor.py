"""Processes batches of messages in one transaction; a message that fails is isolated and moved to the retry queue."""

import logging
from collections.abc import Mapping, Sequence

from opentelemetry.trace import SpanKind
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_contracts.operations import IntakeQuarantined, RequestRefused, service_event
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.database.retry import retry_on_conflict
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.group_commit import GroupCommit, OnCommit
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import UnitOfWork, decision_context
from paybill_runtime.errors import is_infrastructure_error, single_line
from paybill_runtime.jobs.handled_signals import HandledSignals
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.messaging import retry_queue
from paybill_runtime.messaging.inbox import HandledBatch, Lookup, Queue
from paybill_runtime.messaging.message import IncomingMessage
from paybill_runtime.messaging.publication_spans import messaging_attributes
from paybill_runtime.messaging.publisher_limits import Admission, admission_of, report
from paybill_runtime.messaging.refused_facts import RefusedFacts
from paybill_runtime.messaging.streams import INTAKE
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import OUTCOME, Attributes, annotate, log_context, meter, record_failure, span

log = logging.getLogger(__name__)

_HANDLED = meter.create_counter("paybill.messages.handled", "{message}", "Messages of the stream, by outcome.")


def _ignore_commit(*, requires_jobs: bool) -> None:  # its caller names it
    """Does nothing."""


class MessageProcessor:
    """Handles messages inside transactions: new ones of the consumer, and old ones of the retry queue."""

    def __init__(
        self,
        service: str,
        subscriptions: Subscriptions,
        database: Database,
        store: Store,
        group_commit: GroupCommit,
        restore_guard: RestoreGuard,
        settings: ServiceSettings,
        incidents: Incidents | None = None,
    ) -> None:
        self.service = service
        self._settings = settings
        self.subscriptions = subscriptions
        self.database = database
        self._store = store
        self._group_commit = group_commit
        self.restore_guard = restore_guard
        self._refused = RefusedFacts(incidents)
        self.on_commit: OnCommit = _ignore_commit
        self.handled = HandledSignals()

    def kinds(self) -> list[Kind]:
        """Returns the kind of the job that reports messages beyond the limits of publishers, if any are accepted."""
        has_intake = bool(self.subscriptions.intake_handlers)
        return [report(self.service, self.database, self._group_commit)] if has_intake else []

    async def process(
        self, items: Sequence[IncomingMessage], held: Mapping[str, int], positions: dict[int, int]
    ) -> None:
        """Handles `items` in one transaction with the positions; one by one when the transaction fails.

        positions: of each partition before the batch; updated to the committed ones.
        Raises infrastructure errors: LeaseLostError, DatabaseUnavailableError, conflicts that persist.
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
        """Returns the failure of `item`, whose writes raised `error`; None for a refusal, which `item` then holds."""
        refusal = self._group_commit.domain_error_for(error)
        item.error = refusal
        return error if refusal is None else None

    async def retry(self, connection: AsyncConnection, item: IncomingMessage) -> Exception | None:
        """Handles a message of the retry queue again; returns its failure."""
        unit = UnitOfWork(clock.now())
        admission = await admission_of(connection, self._settings, [item], unit.now)
        writes, reads, failures = _keys([item])
        await self._store.load(connection, unit, writes, reads)
        failure = failures.get(item.id) or self._attempt(unit, item, admission)
        if failure is None:
            await self._store.write(connection, unit, extra_statements=[admission.record])
            await retry_queue.quarantine(connection, _quarantined([item], admission), unit.now)
        return failure

    async def _commit(
        self,
        items: Sequence[IncomingMessage],
        held: Mapping[str, int],
        positions: dict[int, int],
        failure: Exception | None = None,
    ) -> None:
        self.restore_guard.check()
        unit = UnitOfWork(clock.now())
        first = {item.id: item for item in reversed(items)}
        writes, reads, failures = _keys(items)
        writes |= self._refused.keys(items)
        lookup = Lookup(first, {item.queue for item in first.values()})
        async with self.database.direct() as connection:
            rows = await self._store.load(connection, unit, writes, reads, lookup.queries)
            admission = await admission_of(connection, self._settings, items, unit.now)
        handled, blocked = lookup.result(rows)
        new = sorted((first[id_] for id_ in first.keys() - handled), key=lambda item: item.sequence)
        failures |= {} if failure is None else {item.id: failure for item in new}
        waiting, failed = self._decide(unit, new, blocked, failures, admission)
        last = items[-1]
        behind = {partition: at for partition, at in positions.items() if at < last.sequence}
        # What was left out may be sent again.
        ids = {item.id: item.sequence for item in new if item.id not in admission.ids}
        batch = HandledBatch(last.stream, ids, behind, last.sequence, last.message_id)
        quarantined = _quarantined(new, admission)
        if failed or waiting or quarantined or admission.ids:
            async with self.database.transaction() as transaction:
                await self._store.write(transaction, unit, held.items(), [batch.record, admission.record])
                requires_jobs = True
                await retry_queue.enqueue(transaction, failed, waiting, unit.now)
                await retry_queue.quarantine(transaction, quarantined, unit.now)
        else:
            async with self.database.direct(committing=True) as connection:
                extra = [batch.record, admission.record]
                requires_jobs = await self._store.write(connection, unit, held.items(), extra)
        positions.update(dict.fromkeys(behind, last.sequence))
        self.on_commit(requires_jobs=requires_jobs)
        self.handled.announce(item.id for item in new)
        for outcome, count in (("failed", len(failed)), ("waiting", len(waiting))):
            _HANDLED.add(count, {OUTCOME: outcome})
        _HANDLED.add(len(new) - len(failed) - len(waiting), {OUTCOME: "handled"})

    def _decide(
        self,
        unit: UnitOfWork,
        items: Sequence[IncomingMessage],
        blocked: set[Queue],
        failures: Mapping[str, Exception],
        admission: Admission,
    ) -> tuple[list[IncomingMessage], list[tuple[IncomingMessage, Exception]]]:
        """Returns the messages that wait behind others of their queue, and those that failed, with the reason."""
        waiting: list[IncomingMessage] = []
        failed: list[tuple[IncomingMessage, Exception]] = []
        for item in items:
            if item.refusal is not None:
                self._refused.report(unit, item)
                continue
            if item.stream == INTAKE and not admission.admits(item):
                continue
            if item.queue in blocked:
                waiting.append(item)
                continue
            failure = failures.get(item.id) or self._attempt(unit, item, admission)
            if failure is not None:
                with log_context(item.tenant, item.origin.traceparent):
                    log.error("%s %s is moved to the retry queue", single_line(item.subject), item.id, exc_info=failure)
                failed.append((item, failure))
                blocked.add(item.queue)
        return waiting, failed

    def _attempt(self, unit: UnitOfWork, item: IncomingMessage, admission: Admission) -> Exception | None:
        """Calls the handler on `unit`; returns the failure for the retry queue.

        A domain error is not a failure: the refusal is recorded as a fact, and `item.error` holds it.
        """
        origin, event = item.origin, item.event
        name = f"handle {event.TYPE}" if event is not None else "handle an unreadable message"
        with (
            log_context(item.tenant, origin.traceparent),
            span(name, origin.traceparent, SpanKind.CONSUMER, lambda: _attributes(item, self.service)) as traceparent,
        ):
            origin = Origin(origin.cause, origin.correlation, origin.actor, traceparent)
            try:
                with unit.savepoint(origin):
                    item.handle(unit, decision_context(unit.now, self.service, item.id))
            except DomainError as error:
                # A fact that cannot be read waits for a newer version of the service.
                if isinstance(error, RetryLaterError) or (item.argument is None and item.stream != INTAKE):
                    record_failure(error.code)
                    return error
                item.error = error
                annotate({OUTCOME: "refused", "paybill.refusal": error.code})
                if item.stream != INTAKE or admission.admits_refused(item):
                    with unit.savepoint(origin):
                        self._record_refusal(unit, item, error)
            except Exception as error:  # noqa: BLE001  # the caller moves the message to the retry queue
                record_failure(type(error).__qualname__)
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
                    verb="hear",  # a value of a published event
                    code=error.code,
                    target=single_line(f"{item.subject} {error}"),
                )
            )


def _attributes(item: IncomingMessage, service: str) -> Attributes:
    return messaging_attributes("process", "handle", item.subject, item.id) | {
        "messaging.destination.subscription.name": service,
        "paybill.correlation": item.origin.correlation,
    }


def _quarantined(items: Sequence[IncomingMessage], admission: Admission) -> list[IncomingMessage]:
    kept = [item for item in items if item.id not in admission.ids]
    return [item for item in kept if item.refusal is not None or (item.stream == INTAKE and item.error is not None)]


def _keys(items: Sequence[IncomingMessage]) -> tuple[set[Key], set[Key], dict[str, Exception]]:
    """Returns the keys that all of them write and read, and the failures of messages whose keys cannot be computed."""
    failures: dict[str, Exception] = {}
    writes: set[Key] = set()
    reads: set[Key] = set()
    for item in items:
        try:
            writes.update(item.keys("writes"))
            reads.update(item.keys("reads"))
        except Exception as error:  # noqa: BLE001  # it fails only this message
            failures[item.id] = error
    return writes, reads, failures
