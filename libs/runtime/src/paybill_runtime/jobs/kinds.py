"""Declarations of background jobs: kinds, and the job that a worker has claimed."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from paybill_runtime import clock
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.job_rows import NO_TENANT, Priority, fail_request, finish_request
from paybill_runtime.decisions.outbox_headers import FactColumns

SLOTS = 16
"""Jobs that a process runs at once; SECURITY jobs have slots of their own."""


class RetryAfter(Exception):  # noqa: N818  # not an error: the job waits for another system
    """Raised by a job that waits: it gives its slot back and runs again later. It does not count as an attempt.

    after_s: None for a system that is away, whose next answer nobody knows: the delay grows with every wait, and the
    job is shown as waiting. detail: replaces the detail of the job.
    """

    def __init__(self, after_s: float | None, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.detail = detail


class AttemptFailedError(Exception):
    """Raised by a job whose attempt failed for a known reason, which is stored. It counts as an attempt.

    after_s: delay until the next attempt; by default the backoff of the kind. detail: replaces the detail of the job.
    """

    def __init__(self, reason: str, after_s: float | None = None, detail: str | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.detail = detail


class StoredFact(NamedTuple):
    """A fact as the outbox holds it."""

    headers: str
    payload: bytes
    columns: FactColumns


@dataclass(slots=True)
class ClaimedJob:
    """A job that this process runs. Only this attempt works on its locks while the lease is held.

    leases: fencing tokens that have to be held when its outcome is committed. requests: how often it was requested.
    waits: how often in a row another system was away. fact: the fact that requires it.
    """

    id: UUID
    kind: str
    key: str
    queue: str
    locks: tuple[str, ...]
    priority: Priority
    leases: Mapping[str, int]
    attempts: int
    requests: int
    waits: int
    detail: str | None
    deadline: datetime | None
    event_id: UUID | None
    fact: StoredFact | None
    ended: bool = field(default=False)

    @property
    def tenant(self) -> str:
        """The tenant of the fact that requires it; empty for other jobs."""
        return self.queue if self.event_id is not None and self.queue != NO_TENANT else ""

    def finish(self, statement: Statement) -> None:
        """Ends a requested job in the transaction of its outcome."""
        finish_request(statement, self.id, self.requests, clock.now())
        self.ended = True

    def fail(self, statement: Statement, error: str) -> None:
        """Ends a requested job as failed, in the transaction that reports it. An operator may retry it."""
        columns = {"state": "failed", "attempts": self.attempts + 1, "error": error, "ended_at": clock.now()}
        fail_request(statement, self.id, self.kind, self.key, self.requests, columns)
        self.ended = True


Run = Callable[[ClaimedJob], Awaitable[float | None]]
"""Works on a job; returns the seconds until it has to run again, None at its end."""


class Limit(NamedTuple):
    """A concurrency limit of each process. Kinds of jobs with the same limit share it.

    per: the field of an effect's fact that names the external system: it is a limit of each system.
    """

    name: str
    concurrency: int
    per: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of jobs.

    recurring: one job of the kind, named like it, exists from the start of the service. derived: its jobs follow from
    other tables, and would come again; like recurring ones they cannot be cancelled. concurrency: jobs of the kind
    that a process runs at once. shared_limit: replaces it by the limit of several kinds. exclusive: a running job is
    cancelled when its lease is lost, because two processes together must not call the other system. backoff_s: delay
    after a number of failed attempts. after: called when the end of a job is committed.
    """

    name: str
    run: Run
    lease: str = ""
    priority: Priority = Priority.INTERACTIVE
    concurrency: int = SLOTS
    shared_limit: Limit | None = None
    recurring: bool = False
    derived: bool = False
    exclusive: bool = False
    backoff_s: Callable[[int], float] = clock.backoff_s
    after: Callable[[], None] = lambda: None

    @property
    def limit(self) -> Limit:
        """The concurrency limit of its jobs."""
        return self.shared_limit or Limit(self.name, self.concurrency)
