"""Queue of background jobs: claims, ends and lists them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import ConflictError, NotFoundError
from paybill_contracts.operations import JobCancelled, JobRetried, service_event
from sqlalchemy import Row, TextClause, text

from paybill_runtime import clock
from paybill_runtime.database.arrays import texts
from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.context import DELETE_RESPONSES
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.job_rows import (
    DELETE_ENDED,
    JobRequest,
    Priority,
    change_job,
    finish_request,
    reopen_job,
    request_job,
)
from paybill_runtime.decisions.outbox_headers import FactColumns
from paybill_runtime.decisions.refused_messages import DELETE_REFUSED
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import constraint_of, is_transaction_conflict, single_line
from paybill_runtime.jobs.effects import Outcome
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, StoredFact
from paybill_runtime.jobs.listing import COLUMNS, JobFilter, list_jobs
from paybill_runtime.settings import ServiceSettings

CLEANUP_INTERVAL_S = 3600.0
CANDIDATES = 32
"""Due jobs of a queue that a claim looks at: those behind them wait for one of these."""
DELETED_AT_ONCE = 5000

# Of every queue the first job that is due, whose locks are free, and that no earlier job blocks. Queues are found one
# after the other in the index, from the one after the last claimed on: the length of a queue costs nothing, and no
# queue waits for the second job of another. A lease that another process took over claims nothing.
_NEXT_QUEUE = (
    "SELECT queue FROM chassis.job WHERE state = 'pending' AND priority = c.priority AND queue > {after} "
    "AND due <= $5 ORDER BY queue LIMIT 1"
)
_CLAIM = (
    "SELECT job.* FROM (SELECT * FROM unnest($1::text[]::smallint[], $2::text[]) AS u (priority, after) WHERE EXISTS "  # noqa: S608
    "(SELECT FROM chassis.job WHERE state = 'pending' AND priority = u.priority AND due <= $5)) AS c "
    "CROSS JOIN LATERAL ("
    "WITH RECURSIVE "
    f"later (queue) AS (({_NEXT_QUEUE.format(after='c.after')}) UNION ALL "
    f"SELECT n.queue FROM later CROSS JOIN LATERAL ({_NEXT_QUEUE.format(after='later.queue')}) AS n), "
    f"earlier (queue) AS (({_NEXT_QUEUE.format(after=chr(39) * 2)}) UNION ALL "
    f"SELECT n.queue FROM earlier CROSS JOIN LATERAL ({_NEXT_QUEUE.format(after='earlier.queue')}) AS n "
    "WHERE n.queue <= c.after) "
    "SELECT first.* FROM (SELECT queue FROM later UNION ALL SELECT queue FROM earlier WHERE queue <= c.after) AS q "
    "CROSS JOIN LATERAL (SELECT j.job_id, j.kind, j.key, j.queue, j.locks, j.priority, j.lease, l.epoch, j.attempts, "
    "j.requests, j.waits, j.detail, j.deadline, j.event_id FROM (SELECT * FROM chassis.job WHERE state = 'pending' "
    f"AND priority = c.priority AND queue = q.queue AND due <= $5 ORDER BY position LIMIT {CANDIDATES}) AS j "
    "JOIN unnest($3::text[], $4::text[]::bigint[]) AS l (name, epoch) ON l.name = j.lease "
    "WHERE NOT j.kind = ANY($6::text[]) AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS r (queue, held) "
    "WHERE r.queue = j.queue AND r.held = ANY(j.locks)) "
    "AND NOT EXISTS (SELECT FROM chassis.job AS e WHERE e.state = 'pending' AND e.queue = j.queue "
    "AND e.position < j.position AND e.locks && j.locks) "
    "AND EXISTS (SELECT FROM chassis.lease AS held WHERE held.name = l.name AND held.epoch = l.epoch) "
    "ORDER BY j.position LIMIT 1) AS first "
    "WHERE NOT EXISTS (SELECT FROM unnest($10::text[]::smallint[], $11::text[]) AS b (priority, queue) "
    "WHERE b.priority = c.priority AND b.queue = q.queue) LIMIT $7) AS job"
)
_NEXT_DUE = (
    "SELECT min(due) FROM generate_series(0, 2) AS c (priority) CROSS JOIN LATERAL (SELECT due FROM chassis.job "
    "WHERE state = 'pending' AND priority = c.priority AND due > $5 ORDER BY due LIMIT 1) AS n"
)
# Jobs that are due and do not run; one that runs and was requested again since is one of them.
_DUE = (
    "SELECT count(*) FROM generate_series(0, 2) AS c (priority) CROSS JOIN LATERAL (SELECT FROM chassis.job AS j "
    "WHERE state = 'pending' AND priority = c.priority AND due <= $5 AND NOT EXISTS (SELECT FROM "
    "unnest($12::text[]::uuid[], $13::text[]::bigint[]) AS r (job_id, requests) "
    "WHERE r.job_id = j.job_id AND r.requests = j.requests) LIMIT $7 + 1) AS n"
)
_CLAIM_AND_COUNT = (
    f"SELECT n.next_due, n.amount, job.* FROM (SELECT ({_NEXT_DUE}) AS next_due, ({_DUE}) AS amount) AS n "  # noqa: S608  # only our own text
    f"LEFT JOIN ({_CLAIM}) AS job ON true"
)
_FACTS = (
    "SELECT event_id, headers, payload, event_id::text, aggregate, revision, tenant, subject, recorded_at "
    "FROM chassis.outbox WHERE event_id = ANY($1::text[]::uuid[])"
)
_ONE = text(f"SELECT {COLUMNS}, revision FROM chassis.job WHERE job_id = :id")  # noqa: S608  # columns of the list


class JobNotFoundError(NotFoundError):
    """No job has this id; a finished one may be deleted by now."""

    code = "job_not_found"


class JobEndedError(ConflictError):
    """The job is done, or it was cancelled."""

    code = "job_ended"


class JobChangedError(ConflictError):
    """The job changed while the operator's decision was stored."""

    code = "job_changed"


class JobRecurringError(ConflictError):
    """The job belongs to the service and runs again and again."""

    code = "job_recurring"


Ends = Callable[[str, int, StoredFact, str], Outcome | None]
"""Returns the outcome of a cancelled job, by its kind, its attempts, its fact and the reason; None without one."""


class Claim(NamedTuple):
    """Jobs that may start. next_s: seconds until another is due, if one is. more: others are due, and have to wait."""

    jobs: list[ClaimedJob]
    next_s: float | None
    more: bool


class JobQueue:
    """Reads and changes the jobs of one service."""

    def __init__(self, service: str, database: Database, group_commit: GroupCommit) -> None:
        self._service = service
        self._database = database
        self._group_commit = group_commit

    async def claim(
        self,
        now: datetime,
        leases: Mapping[str, int],
        full: Collection[str],
        running: Collection[ClaimedJob],
        after: Mapping[Priority, str],
        limit: int,
    ) -> Claim:
        """Returns jobs that may start, at most `limit` of each class.

        full: kinds of which no more may start. after: the classes, each with the queue that was served last.
        running: jobs whose locks, and whose queue in their class, are in use.
        """
        held = [(job.queue, lock) for job in running for lock in job.locks]
        async with self._database.direct() as connection:
            rows = await connection.fetch(
                _CLAIM_AND_COUNT,
                *(texts(after), list(after.values()), list(leases), texts(leases.values()), now, list(full), limit),
                *([queue for queue, _ in held], [lock for _, lock in held]),
                *(texts(job.priority for job in running), [job.queue for job in running]),
                *(texts(job.id for job in running), texts(job.requests for job in running)),
            )
            due, amount = rows[0]["next_due"], rows[0]["amount"]
            rows = [row for row in rows if row["job_id"] is not None]
            ids = [row["event_id"] for row in rows if row["event_id"] is not None]
            found = await connection.fetch(_FACTS, texts(ids)) if ids else []
        facts = _by_id(found)
        jobs = [
            ClaimedJob(
                id=row["job_id"],
                kind=row["kind"],
                key=row["key"],
                queue=row["queue"],
                locks=tuple(row["locks"]),
                priority=Priority(row["priority"]),
                leases={row["lease"]: row["epoch"]},
                attempts=row["attempts"],
                requests=row["requests"],
                waits=row["waits"],
                detail=row["detail"],
                deadline=row["deadline"],
                event_id=row["event_id"],
                fact=facts.get(row["event_id"]),
            )
            for row in rows
        ]
        return Claim(jobs, None if due is None else max((due - now).total_seconds(), 0.0), amount > len(jobs))

    async def finish(self, job: ClaimedJob) -> None:
        """Ends a job: one that a fact requires is done, another one is removed unless it was requested again."""
        if job.event_id is None:
            await self._execute(job, partial(finish_request, job_id=job.id, requests=job.requests, now=clock.now()))
        else:
            await self.change(job, ended("done", job.attempts + 1))

    async def later(
        self,
        job: ClaimedJob,
        after_s: float,
        attempts: int,
        error: str | None,
        detail: str | None = None,
        waits: int = 0,
    ) -> None:
        """Makes a job due again; one that was requested again since is due at once. detail: None to keep it."""
        due = clock.now() + timedelta(seconds=after_s)
        columns: dict[str, Any] = {"attempts": attempts, "due": due, "error": error, "waits": waits}
        if detail is not None:
            columns["detail"] = detail
        await self.change(job, columns, job.requests)

    async def change(self, job: ClaimedJob, columns: Mapping[str, Any], requests: int | None = None) -> None:
        """Changes columns of a job under its lease. Raises LeaseLostError, DatabaseUnavailableError."""
        await self._execute(job, partial(change_job, job_id=job.id, columns=columns, requests=requests))

    async def _execute(self, job: ClaimedJob, add: Any) -> None:
        statement = Statement()
        statement.fence(job.leases.items())
        add(statement)
        async with self._database.direct(committing=True) as connection:
            await statement.execute(connection)

    async def request_recurring(self, kinds: Iterable[Kind]) -> None:
        """Requests the jobs that exist as long as the service; one that is pending keeps its time."""
        statement = Statement()
        for kind in kinds:
            if kind.recurring:
                request = JobRequest(kind.name, kind.name, kind.lease, clock.now(), priority=kind.priority)
                request_job(statement, request, "")
        async with self._database.direct(committing=True) as connection:
            await statement.execute(connection)

    def cleanup(self, settings: ServiceSettings) -> Kind:
        """Returns the kind of the job that deletes ended jobs, old responses to idempotency keys and old refusals."""

        async def run(_: ClaimedJob) -> float:
            await self.delete_ended(timedelta(days=settings.job_retention_days))
            await self.delete_responses(timedelta(days=settings.idempotency_retention_days))
            await self.delete_refused(timedelta(days=settings.quarantine_retention_days))
            return CLEANUP_INTERVAL_S

        return Kind("delete_ended_jobs", run, RELAY, Priority.BULK, recurring=True)

    async def delete_ended(self, retention: timedelta) -> int:
        """Deletes jobs that ended before, a part at a time; returns their number."""
        return await self._delete(DELETE_ENDED, retention)

    async def delete_responses(self, retention: timedelta) -> int:
        """Deletes older responses to requests with an Idempotency-Key, a part at a time; returns their number."""
        return await self._delete(DELETE_RESPONSES, retention)

    async def delete_refused(self, retention: timedelta) -> int:
        """Deletes older messages of the quarantine, a part at a time; returns their number. Their facts stay."""
        return await self._delete(DELETE_REFUSED, retention)

    async def _delete(self, statement: TextClause, retention: timedelta) -> int:
        values = {"before": clock.now() - retention, "limit": DELETED_AT_ONCE}
        deleted = 0
        while True:
            async with self._database.transaction() as connection:
                count = (await connection.execute(statement, values)).rowcount
            deleted += count
            if count < DELETED_AT_ONCE:
                return deleted

    async def list(
        self, state: JobFilter, kind: str, tenant: str, after: str, limit: int
    ) -> Sequence[tuple[Row[Any], str]]:
        """Returns a page of jobs with their cursors; see `list_jobs`."""
        return await list_jobs(self._database, state, kind, tenant, after, limit)

    async def job(self, id_: UUID) -> Row[Any]:
        """Returns a job. Raises JobNotFoundError."""
        async with self._database.reading() as connection:
            row = (await connection.execute(_ONE, {"id": id_})).one_or_none()
        if row is None:
            raise JobNotFoundError(f"there is no job {id_}; finished jobs are deleted after a time")
        return row

    async def retry(self, id_: UUID, origin: Origin) -> Any:
        """Makes a job due now, with all attempts again. Raises JobNotFoundError, JobEndedError."""
        row = await self.job(id_)
        if row.state == "done":
            raise JobEndedError(f"the job {id_} is done; there is nothing to retry")
        event = service_event(self._service, JobRetried)(job_id=str(id_), kind=row.kind, operator=origin.actor)
        changes = {"state": "pending", "due": clock.now(), "attempts": 0, "waits": 0, "error": None, "ended_at": None}
        return await self._operate(row, origin, event, changes)

    async def cancel(self, id_: UUID, origin: Origin, reason: str, kept: Collection[str], ends: Ends) -> Any:
        """Ends a job without another attempt; an attempt that runs ends by itself. kept: kinds that stay.

        ends: the outcome that is recorded with it.

        Raises JobNotFoundError, JobEndedError, JobRecurringError.
        """
        row = await self.job(id_)
        if row.kind in kept:
            raise JobRecurringError(f"{row.kind} runs as long as the service; it cannot be cancelled")
        if row.state in {"done", "cancelled"}:
            raise JobEndedError(f"the job {id_} is {row.state}")
        event = service_event(self._service, JobCancelled)(
            job_id=str(id_), kind=row.kind, operator=origin.actor, reason=single_line(reason)
        )
        outcome = None
        if row.event_id is not None:
            async with self._database.direct() as connection:
                found = _by_id(await connection.fetch(_FACTS, texts([row.event_id])))
            if stored := found.get(row.event_id):
                outcome = ends(
                    row.kind, row.attempts, stored, f"{origin.actor} cancelled its job: {single_line(reason)}"
                )
        return await self._operate(row, origin, event, {"state": "cancelled", "ended_at": clock.now()}, outcome)

    async def _operate(
        self, row: Row[Any], origin: Origin, event: Any, changes: Mapping[str, Any], outcome: Outcome | None = None
    ) -> Any:
        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            unit.emit(event, row.revision + 1)
            if outcome is not None:
                outcome.decide(unit, at)

        extra = [partial(reopen_job, job_id=row.job_id, state=row.state, revision=row.revision, columns=changes)]
        writes, reads = (outcome.writes, outcome.reads) if outcome is not None else ((), ())
        try:
            await self._group_commit.decide(Decision(origin, decide, writes, reads, extra_statements=extra))
        except Exception as error:
            if constraint_of(error) == "job_key_idx":
                raise JobEndedError(f"another job {row.kind} of {row.key} is pending; retry that one") from error
            if is_transaction_conflict(error):
                raise JobChangedError(f"the job {row.job_id} changed meanwhile; show it, and decide again") from error
            raise
        # It is not read again: by now it may be done and deleted.
        return SimpleNamespace(**{**row._asdict(), **changes})


def ended(state: str, attempts: int, error: str | None = None) -> dict[str, Any]:
    """Returns the columns of a job that ended as `done` or `failed`."""
    return {"state": state, "attempts": attempts, "error": error or None, "ended_at": clock.now()}


def _by_id(rows: Iterable[Any]) -> dict[UUID, StoredFact]:
    return {row[0]: StoredFact(row[1], row[2], FactColumns._make(row[3:])) for row in map(tuple, rows)}
