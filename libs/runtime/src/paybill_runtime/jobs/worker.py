"""Worker that runs effects: at least once, under a fenced lease, never inside a transaction."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, cast
from uuid import UUID

from opentelemetry.trace import SpanKind
from paybill_contracts.envelope import Fact, Origin, read_fact
from paybill_contracts.errors import DomainError

from paybill_runtime import clock
from paybill_runtime.database.leases import Leases, partition_lease
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.outbox import change_effect
from paybill_runtime.decisions.outbox_headers import FactColumns, complete
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, reason, single_line
from paybill_runtime.jobs.effects import Effect, Job, JobRegistry, Outcome, Refused, RetryAfter
from paybill_runtime.security.data_keys import DataKeys
from paybill_runtime.telemetry import log_context, span

log = logging.getLogger(__name__)

CONCURRENCY = 16
POLL_S = 0.5

# An effect is due when no earlier one of its tenant is pending. A lease that another process took over claims nothing.
# No tenant is returned twice, and effects are read in order, so that the length of the queue costs nothing.
_DUE = (
    "SELECT e.event_id, e.work, e.tenant, e.partition, e.attempts, l.epoch, o.headers, o.payload, "
    "o.event_id::text, o.aggregate, o.revision, o.tenant, o.subject, o.recorded_at "
    "FROM chassis.effect AS e JOIN chassis.outbox AS o USING (event_id) "
    "JOIN unnest($1::text[], $2::bigint[]) AS l (name, epoch) ON l.name = 'partition-' || e.partition "
    "WHERE e.state = 'pending' AND e.next_at <= $3 AND NOT e.tenant = ANY($4::text[]) "
    "AND EXISTS (SELECT FROM chassis.lease AS held WHERE held.name = l.name AND held.epoch = l.epoch) "
    "AND NOT EXISTS (SELECT FROM chassis.effect AS earlier WHERE earlier.state = 'pending' "
    "AND earlier.tenant = e.tenant AND earlier.position < e.position) "
    "ORDER BY e.position LIMIT $5"
)


class _Due(NamedTuple):
    """An effect that is due, with the fact that requires it."""

    event_id: UUID
    work: str
    tenant: str
    partition: int
    attempts: int
    epoch: int
    headers: str
    payload: bytes
    columns: FactColumns


class Worker:
    """Runs due effects: one of a tenant at a time and in order, many tenants at once."""

    def __init__(
        self,
        service: str,
        jobs: JobRegistry,
        effects: Any,
        database: Database,
        group_commit: GroupCommit,
        leases: Leases,
        keys: DataKeys,
        restore_guard: RestoreGuard,
    ) -> None:
        self._service = service
        self._jobs = jobs
        self._effects = effects
        self._database = database
        self._group_commit = group_commit
        self._leases = leases
        self._keys = keys
        self._restore_guard = restore_guard
        self._wake = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._served: deque[str] = deque(maxlen=CONCURRENCY)
        leases.on_change(self._wake.set)

    def wake(self) -> None:
        """Signals that facts were committed, which may require effects."""
        self._wake.set()

    async def run(self) -> None:
        """Starts effects that are due, until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._start_due()
                except DatabaseUnavailableError as error:
                    log.warning("effects pause: %s", error)
                # All due effects have started, or all slots are used; every change of that sets the event.
                await clock.wait_for_event(self._wake, POLL_S)
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_due(self) -> None:
        slots = CONCURRENCY - len(self._running)
        held = self._leases.held_of(map(partition_lease, self._leases.partitions()))
        if slots <= 0 or not held or not self._jobs.effects:
            return
        self._restore_guard.check()
        async with self._database.direct() as connection:
            found = await connection.fetch(
                _DUE, list(held), list(held.values()), clock.now(), list(self._running), slots + len(self._served)
            )
        # Tenants that were not served recently come first: a tenant with many effects does not delay the others.
        due = [_Due._make((*row[:8], FactColumns._make(row[8:]))) for row in map(tuple, found)]
        rows = sorted(due, key=lambda row: row.tenant in self._served)[:slots]
        for row in rows:
            self._served.append(row.tenant)
            task = asyncio.create_task(self._one(row))
            self._running[row.tenant] = task
            task.add_done_callback(partial(self._finished, row.tenant))

    def _finished(self, tenant: str, _: asyncio.Task[None]) -> None:
        self._running.pop(tenant, None)
        self._wake.set()

    async def _one(self, row: _Due) -> None:
        headers = complete(row.headers, row.columns)
        with log_context(row.tenant, headers.get("traceparent", "")):
            try:
                await self._attempt(row, headers)
            except (DatabaseUnavailableError, LeaseLostError) as error:
                log.warning("the effect %s of %s is interrupted: %s", row.work, row.event_id, error)
                await asyncio.sleep(POLL_S)

    async def _attempt(self, row: _Due, headers: Mapping[str, str]) -> None:
        try:
            fact = read_fact(row.columns.subject, headers, row.payload)
            effect = self._jobs.effects[fact.event.TYPE]
        except (DomainError, KeyError) as error:
            # A newer version required it, or the function was removed by mistake: it waits, and operators see it.
            log.error("no effect %s here for %s: %s", row.work, row.event_id, error)  # noqa: TRY400
            detail = f"this version of the service has no effect {row.work}"
            await self._later(row, row.attempts, clock.MAX_BACKOFF_S, detail)
            return
        with span(f"effect {row.work}", fact.origin.traceparent, SpanKind.CLIENT) as traceparent:
            origin = Origin(fact.id, fact.origin.correlation, f"service:{self._service}", traceparent)
            job = self._job(row, fact, traceparent)
            try:
                await self._run(row, effect, job, origin)
            except (DatabaseUnavailableError, LeaseLostError):
                raise
            except RetryAfter as error:
                await self._later(row, row.attempts, error.after_s, single_line(str(error)))
            except Exception as error:  # noqa: BLE001  # every failure of another system is retried or recorded
                await self._failed(row, effect, job, origin, error)

    def _job(self, row: _Due, fact: Fact, traceparent: str) -> Job[Any]:
        logger = logging.getLogger(f"effect.{row.work}")
        attempt = row.attempts + 1
        return Job(fact.event, fact.id, attempt, row.tenant, traceparent, logger, self._keys, self._database)

    async def _run(self, row: _Due, effect: Effect, job: Job[Any], origin: Origin) -> None:
        ended = False
        async with aclosing(cast("AsyncGenerator[Outcome]", effect.run(job, self._effects))) as outcomes:
            async for outcome in outcomes:
                await self._commit(row, outcome, origin, "done" if outcome.last else "")
                ended = outcome.last
        if not ended:
            await self._end(row, "done", row.attempts + 1)

    async def _failed(self, row: _Due, effect: Effect, job: Job[Any], origin: Origin, error: Exception) -> None:
        attempts = row.attempts + 1
        detail = single_line(str(error)) if isinstance(error, Refused) else reason(error)
        if not isinstance(error, Refused) and attempts < effect.attempts:
            log.warning("the effect %s failed (attempt %d of %d): %s", row.work, attempts, effect.attempts, detail)
            await self._later(row, attempts, clock.backoff_s(attempts), detail)
            return
        log.error("the effect %s failed permanently: %s", row.work, detail, exc_info=error)
        if effect.failed is None:
            await self._end(row, "failed", attempts, detail)
            return
        try:
            await self._commit(row, effect.failed(job, detail), origin, "failed", detail)
        except (DatabaseUnavailableError, LeaseLostError):
            raise
        except Exception as inner:
            log.exception("the failure of the effect %s cannot be recorded", row.work)
            await self._later(row, attempts, clock.backoff_s(attempts), reason(inner))

    async def _commit(self, row: _Due, outcome: Outcome, origin: Origin, state: str, detail: str = "") -> None:
        """Records an outcome; with a `state`, the effect ends in the same transaction."""
        extra = [outcome.extra_statements] if outcome.extra_statements is not None else []
        if state:
            extra.append(partial(change_effect, row.event_id, row.work, _ending(state, row.attempts + 1, detail)))
        await self._group_commit.decide(
            Decision(origin, outcome.decide, outcome.writes, outcome.reads, _lease(row), extra)
        )

    async def _end(self, row: _Due, state: str, attempts: int, detail: str = "") -> None:
        await self._update(row, _ending(state, attempts, detail))

    async def _later(self, row: _Due, attempts: int, after_s: float, detail: str) -> None:
        next_at = clock.now() + timedelta(seconds=after_s)
        await self._update(row, {"attempts": attempts, "next_at": next_at, "reason": detail})

    async def _update(self, row: _Due, columns: Mapping[str, Any]) -> None:
        """Changes the row of an effect under its lease."""
        statement = Statement()
        statement.fence(_lease(row).items())
        change_effect(row.event_id, row.work, columns, statement)
        async with self._database.direct(committing=True) as connection:
            await statement.execute(connection)


def _lease(row: _Due) -> dict[str, int]:
    """Returns the lease under which the effect was claimed."""
    return {partition_lease(row.partition): row.epoch}


def _ending(state: str, attempts: int, detail: str) -> Mapping[str, Any]:
    return {"state": state, "attempts": attempts, "reason": detail or None}
