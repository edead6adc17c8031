"""Rows of the job queue: every statement that writes `chassis.job`, for transactions that require or end a job.

A job is required in the transaction that makes it necessary, and ends in the transaction that records its outcome.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any
from uuid import UUID

from paybill_contracts.envelope import Fact
from paybill_contracts.event import partition_of
from sqlalchemy import text

from paybill_runtime.database.leases import partition_lease
from paybill_runtime.database.statement import STATE_CHANGED, Statement

RESOURCE = "resource"
"""Lock of most jobs of a tenant."""
NO_TENANT = "-"
"""Queue of jobs of facts without a tenant."""


class Priority(IntEnum):
    """Classes of jobs; a lower number goes first. SECURITY has slots of its own."""

    SECURITY = 0
    INTERACTIVE = 1
    BULK = 2


@dataclass(frozen=True, slots=True)
class RequiredJob:
    """A job that a fact requires. `within_s`: after this time a failed attempt is the last one."""

    kind: str
    locks: tuple[str, ...] = (RESOURCE,)
    priority: Priority = Priority.INTERACTIVE
    within_s: float | None = None


RequiredJobs = Callable[[Fact], Iterable[RequiredJob]]
"""Returns the jobs that a fact requires."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job without a fact: one pending job for each kind and key, however often it is requested."""

    kind: str
    key: str
    lease: str
    due: datetime
    queue: str = ""
    priority: Priority = Priority.INTERACTIVE
    detail: str | None = None


_FOR_FACTS = "kind, key, queue, locks, lease, priority, due, deadline, event_id"
_COLUMNS = "kind, key, queue, locks, lease, priority, due"
_REQUEST = "state = 'pending' AND event_id IS NULL"
AGAIN = "attempts = 0, due = excluded.due, error = NULL, priority = least(j.priority, excluded.priority)"
"""Change of a pending job by a new request: it is due at once, as if it were new."""


def require_jobs(statement: Statement, facts: Sequence[Fact], required: RequiredJobs, now: datetime) -> None:
    """Adds the jobs that these facts require."""
    jobs = [(fact, job) for fact in facts for job in required(fact)]
    if not jobs:
        return
    queues = [fact.event.tenant or NO_TENANT for fact, _ in jobs]
    leases = [partition_lease(partition_of(fact.event.tenant)) for fact, _ in jobs]
    for lease in leases:
        statement.wake_owner(lease)
    rows = statement.columns(
        kind=("text", [job.kind for _, job in jobs]),
        key=("text", queues),
        locks=("text", [" ".join(job.locks) for _, job in jobs]),
        lease=("text", leases),
        priority=("smallint", [int(job.priority) for _, job in jobs]),
        within=("double precision", [job.within_s for _, job in jobs]),
        event_id=("uuid", [fact.id for fact, _ in jobs]),
    )
    at = f"{statement.value(now)}::timestamptz"
    statement.add(
        f"INSERT INTO chassis.job ({_FOR_FACTS}, state) SELECT kind, key, key, string_to_array(locks, ' '), "  # noqa: S608  # only our own text
        f"lease, priority, {at}, {at} + make_interval(secs => within), event_id, 'pending' FROM {rows} ORDER BY place"
    )


def request_job(statement: Statement, job: JobRequest, change: str = AGAIN) -> None:
    """Requests a job. change: for a job of this kind and key that is pending; empty to leave it."""
    statement.wake_owner(job.lease)
    values = (job.kind, job.key, job.queue or job.key, job.lease, int(job.priority), job.due, job.detail)
    kind, key, queue, lease, priority, due, detail = map(statement.value, values)
    statement.add(
        request_jobs(
            f"SELECT {kind}::text AS kind, {key}::text AS key, {queue}::text AS queue, {lease}::text AS lease, "
            f"{priority}::smallint AS priority, {due}::timestamptz AS due, 1::bigint AS requests, "
            f"{detail}::text AS detail",
            change,
            detail=True,
        )
    )


def request_jobs(rows: str, change: str = AGAIN, *, detail: bool = False) -> str:
    """Returns the statement that requests jobs.

    change: of jobs that are pending; empty to leave them.
    rows: a query for kind, key, queue, lease, priority and due, ordered by kind and key, which prevents deadlocks; with
    `detail` also for requests and detail.
    """
    columns = f"{_COLUMNS}, requests, detail" if detail else _COLUMNS
    more = ", r.requests, r.detail" if detail else ""
    return (
        f"INSERT INTO chassis.job AS j ({columns}, state) "  # noqa: S608  # only our own text
        f"SELECT r.kind, r.key, r.queue, ARRAY[r.key], r.lease, r.priority, r.due{more}, 'pending' FROM ({rows}) AS r "
        f"ON CONFLICT (kind, key) WHERE {_REQUEST} DO "
        + (f"UPDATE SET requests = j.requests + excluded.requests, {change}" if change else "NOTHING")
    )


def change_job(statement: Statement, job_id: UUID, columns: Mapping[str, Any], requests: int | None = None) -> None:
    """Changes columns of a pending job. requests: only if it was not requested again since."""
    changes = _changes(statement, columns)
    statement.add(f"UPDATE chassis.job SET {changes} WHERE {_pending(statement, job_id, requests)}")  # noqa: S608


def reopen_job(statement: Statement, job_id: UUID, state: str, revision: int, columns: Mapping[str, Any]) -> None:
    """Changes a job in `state` for an operator; a job that changed meanwhile fails as a conflict.

    An attempt that runs just now cannot overwrite the change, because the job counts as requested again.
    """
    changes = _changes(statement, columns)
    id_, before, number = map(statement.value, (job_id, state, revision))
    same = f"job_id = {id_} AND state = {before} AND revision = {number}"
    statement.require(f"SELECT FROM chassis.job WHERE {same} FOR UPDATE", 1, STATE_CHANGED)
    statement.add(f"UPDATE chassis.job SET {changes}, requests = requests + 1, revision = revision + 1 WHERE {same}")  # noqa: S608
    statement.notify()


def finish_request(statement: Statement, job_id: UUID, requests: int, now: datetime) -> None:
    """Removes a job without a fact; one that was requested again since stays, and is due."""
    where = _pending(statement, job_id, None)
    count = statement.value(requests)
    statement.add(f"DELETE FROM chassis.job WHERE {where} AND requests = {count}")  # noqa: S608  # only our own text
    statement.add(
        f"UPDATE chassis.job SET attempts = 0, due = {statement.value(now)}, error = NULL "  # noqa: S608  # as above
        f"WHERE {where} AND requests <> {count}"
    )


def fail_request(
    statement: Statement, job_id: UUID, kind: str, key: str, requests: int, columns: Mapping[str, Any]
) -> None:
    """Ends a job without a fact as failed; one that was requested again since stays, and is due.

    The first failed job of a key is kept for an operator to retry, and later ones are removed.
    """
    changes, where = _changes(statement, columns), _pending(statement, job_id, requests)
    failed = f"EXISTS (SELECT FROM chassis.job AS f WHERE {_failed(statement, kind, key)})"
    statement.add(f"UPDATE chassis.job SET {changes} WHERE {where} AND NOT {failed}")  # noqa: S608  # only our own text
    statement.add(f"DELETE FROM chassis.job WHERE {where} AND {failed}")  # noqa: S608  # as above


def discard_failed(statement: Statement, kind: str, key: str) -> None:
    """Removes the failed job without a fact of a key, after a later one did its work."""
    statement.add(f"DELETE FROM chassis.job AS f WHERE {_failed(statement, kind, key)}")  # noqa: S608  # only our own text


def _failed(statement: Statement, kind: str, key: str) -> str:
    of, value = map(statement.value, (kind, key))
    return f"f.kind = {of} AND f.key = {value} AND f.state = 'failed' AND f.event_id IS NULL"


def _changes(statement: Statement, columns: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {statement.value(value)}" for name, value in columns.items())


def _pending(statement: Statement, job_id: UUID, requests: int | None) -> str:
    same = "" if requests is None else f" AND requests = {statement.value(requests)}"
    return f"job_id = {statement.value(job_id)} AND state = 'pending'{same}"


def wake_requests(
    statement: Statement, kind: str, lease: str, detail: str, now: datetime, without: Sequence[str] = ()
) -> None:
    """Makes the pending jobs of a kind with this detail due; one that runs just now runs again.

    without: keys that the same statement requests, because it may change a row once.
    """
    at, of, value, others = map(statement.value, (now, kind, detail, list(without)))
    statement.add(
        f"UPDATE chassis.job SET due = {at}, attempts = 0, error = NULL, requests = requests + 1 "  # noqa: S608  # only our own text
        f"WHERE kind = {of} AND detail = {value} AND NOT key = ANY({others}) AND {_REQUEST}"
    )
    statement.wake_owner(lease)


RETRY_REQUEST = text(
    "UPDATE chassis.job SET due = :now, attempts = 0, requests = requests + 1 "  # noqa: S608  # only our own text
    f"WHERE kind = :kind AND key = :key AND {_REQUEST} RETURNING *"
)
"""Makes a requested job due; returns its row."""
REQUESTED = text(f"SELECT * FROM chassis.job WHERE kind = :kind AND key = :key AND {_REQUEST}")  # noqa: S608  # as above
"""A requested job."""
UNFAILED_REQUESTS = text(
    f"SELECT key FROM chassis.job WHERE kind = :kind AND key = ANY(:keys) AND {_REQUEST} AND error IS NULL"  # noqa: S608  # as above
)
"""The keys of jobs that are requested and have not failed."""
REQUESTS = text(
    f"SELECT * FROM chassis.job WHERE kind LIKE :kinds AND {_REQUEST} ORDER BY attempts DESC, kind, key LIMIT :limit"  # noqa: S608  # as above
)
"""Requested jobs whose kinds match a pattern, those with the most attempts first."""
REQUESTS_ABOUT = text(
    f"SELECT * FROM chassis.job WHERE kind = :kind AND (detail = :detail OR key = ANY(:keys)) AND {_REQUEST} "  # noqa: S608  # as above
    "ORDER BY attempts DESC, key LIMIT :limit"
)
"""Requested jobs of one kind with a detail, or with one of some keys, those with the most attempts first."""
REQUESTS_WITH_ERROR = text(
    f"SELECT * FROM chassis.job WHERE kind = :kind AND error = :error AND {_REQUEST} "  # noqa: S608  # as above
    "ORDER BY position DESC LIMIT :limit"
)
"""Requested jobs of one kind that failed with an error, the latest first."""
DELETE_ENDED = text(
    "DELETE FROM chassis.job WHERE job_id IN "
    "(SELECT job_id FROM chassis.job WHERE ended_at < :before AND state <> 'failed' LIMIT :limit)"
)
"""Deletes jobs that were done or cancelled before a time; failed ones stay until an operator decides."""
