"""Timers: jobs whose time is derived from the states, so that a timer cannot be lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from paybill_contracts.envelope import Origin

from paybill_runtime import clock
from paybill_runtime.database.leases import Leases, partition_lease
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.job_rows import Priority, request_jobs
from paybill_runtime.decisions.journeys import journeys
from paybill_runtime.errors import DatabaseUnavailableError
from paybill_runtime.jobs.effects import DueJob, Timer
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.telemetry import span

log = logging.getLogger(__name__)

MAX_AT_ONCE = 256
"""Jobs of one timer that are requested at once."""
MIN_INTERVAL_S = 0.25
"""Least time between two queries for timers, however much is committed."""
MAX_INTERVAL_S = 30.0
"""Longest time between two queries: a backstop for states that a process changed before it died."""


class Timers:
    """Requests a job for every timer that is due. Any replica may: a timer has one job, which checks its state."""

    def __init__(
        self,
        timers: Sequence[Timer | DueJob],
        service: str,
        database: Database,
        group_commit: GroupCommit,
        leases: Leases,
        jobs_requested: Callable[[str], Awaitable[None]],
    ) -> None:
        """jobs_requested: as of ServiceContext."""
        self._timers = {_kind(timer): timer for timer in timers}
        self._service = service
        self._database = database
        self._group_commit = group_commit
        self._leases = leases
        self._jobs_requested = jobs_requested
        self._wake = asyncio.Event()
        leases.on_change(self.wake)

    def wake(self) -> None:
        """Signals that a transaction was committed, which may set a timer."""
        self._wake.set()

    def kinds(self) -> Sequence[Kind]:
        """Returns a kind of jobs for each timer."""
        timers = [(name, timer) for name, timer in self._timers.items() if isinstance(timer, Timer)]
        return [Kind(name, partial(self._fire, timer), derived=True, after=self.wake) for name, timer in timers]

    async def run(self) -> None:
        """Requests the jobs of due timers, until cancelled."""
        while True:
            self._wake.clear()
            delay_s = MAX_INTERVAL_S
            try:
                delay_s = await self.request_due()
            except DatabaseUnavailableError as error:
                log.warning("timers pause: %s", error)
            await asyncio.sleep(MIN_INTERVAL_S)
            await clock.wait_for_event(self._wake, min(delay_s, MAX_INTERVAL_S))

    async def request_due(self) -> float:
        """Requests the jobs of due timers; returns the seconds until the next timer is due.

        They are under a lease of this process, which runs them, and after its death the next owner.
        """
        own = self._leases.held_of(map(partition_lease, self._leases.partitions()))
        if not own:
            return MAX_INTERVAL_S
        now = clock.now()
        statement = Statement()
        at, time, lease = map(statement.value, (column_time(now), now, min(own)))
        due = " UNION ALL ".join(_due(kind, timer, at, time, lease) for kind, timer in self._timers.items())
        statement.add(request_jobs(f"SELECT * FROM ({due}) AS d ORDER BY kind, key", ""))  # noqa: S608  # names are our own
        queries = ", ".join(
            f"(SELECT min({timer.column}) FROM {timer.stored.table.name} WHERE {timer.column} > $1)"  # noqa: S608  # names are our own
            for timer in self._timers.values()
        )
        async with self._database.direct() as connection:
            requested = await connection.fetch(f"SELECT 1 WHERE EXISTS ({due})", *statement.values)
            if requested:
                await statement.execute(connection)
            row = await connection.fetchrow(f"SELECT {queries}", column_time(now))  # as above
        if requested:
            await self._jobs_requested(min(own))
        times = [datetime.fromisoformat(value).replace(tzinfo=UTC) for value in row if value is not None]
        return min(((time - now).total_seconds() for time in times), default=MAX_INTERVAL_S)

    async def _fire(self, timer: Timer, job: ClaimedJob) -> float | None:
        stored, id_ = timer.stored, job.key
        others = "'{}'::text[]"
        if timer.owner is not None:
            same = f"o.{timer.owner} = t.{timer.owner} AND o.id <> t.id"
            others = f"ARRAY(SELECT o.id FROM {stored.table.name} AS o WHERE {same})"  # noqa: S608  # names are our own
        query = f"SELECT {others} AS others FROM {stored.table.name} AS t WHERE id = $1 AND {timer.column} <= $2"  # noqa: S608  # as above
        async with self._database.direct() as connection:
            row = await connection.fetchrow(query, id_, column_time(clock.now()))
        if row is None:
            return None
        cause = f"timer:{stored.kind}/{id_}"
        begun = await journeys(self._database, [stored.key(id_)])
        with span(f"job {job.kind}", None, links=list(begun.values())) as traceparent:
            origin = Origin(cause, cause, f"service:{self._service}", traceparent)
            extra = [timer.extra_statements(id_, clock.now())] if timer.extra_statements is not None else []
            reads = [stored.key(other) for other in row["others"]]
            count = await self._group_commit.decide(
                Decision(origin, timer.decision(id_, row["others"]), [stored.key(id_)], reads, job.leases, extra)
            )
        if count == 0:
            log.debug("the timer of %s/%s recorded nothing", stored.kind, id_)
            return timer.pause_s
        return None


def _kind(timer: Timer | DueJob) -> str:
    return timer.kind if isinstance(timer, DueJob) else f"timer/{timer.stored.kind}/{timer.column}"


def _due(kind: str, timer: Timer | DueJob, at: str, time: str, lease: str) -> str:
    """Returns the query for the jobs of timers that are due and have none yet. at, time, lease: placeholders."""
    key, limit, priority = "t.id", MAX_AT_ONCE, int(Priority.INTERACTIVE)
    if isinstance(timer, DueJob):
        key, limit, priority = f"'{kind}'::text", 1, int(Priority.BULK)
    return (
        f"(SELECT '{kind}'::text AS kind, {key} AS key, '{kind}/' || {key} AS queue, {lease}::text AS lease, "  # noqa: S608  # names are our own
        f"{priority}::smallint AS priority, {time}::timestamptz AS due FROM {timer.stored.table.name} AS t "
        f"WHERE t.{timer.column} <= {at} AND NOT EXISTS (SELECT FROM chassis.job AS j WHERE j.kind = '{kind}' "
        f"AND j.key = {key} AND j.state = 'pending' AND j.event_id IS NULL) ORDER BY t.{timer.column} LIMIT {limit})"
    )
