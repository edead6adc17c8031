"""Worker that runs the jobs of a process: at least once, under a fenced lease, never inside a transaction."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from paybill_runtime import clock
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError, reason, single_line
from paybill_runtime.jobs.kinds import SLOTS, AttemptFailedError, ClaimedJob, Kind, Limit, RetryAfter
from paybill_runtime.jobs.queue import JobQueue
from paybill_runtime.telemetry import DURATION_BUCKETS, OUTCOME, log_context, meter

log = logging.getLogger(__name__)

_DURATION = meter.create_histogram(
    "paybill.job.duration",
    "s",
    "Runs of background jobs, by kind and outcome.",
    explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
)

SECURITY_SLOTS = 4
"""Slots that only jobs of the class SECURITY use, beside those that all classes share."""
INTERACTIVE_SLOTS = 4
"""Slots that jobs of the class BULK leave free."""
POLL_S = 30.0
"""Longest time between two claims: a backstop for jobs that another process required and could not announce."""
_MAX_WAIT_S = {Priority.SECURITY: 5.0, Priority.INTERACTIVE: 60.0, Priority.BULK: 300.0}
"""Longest delay of a job that waits for a system that is away, so that it continues soon after its return."""
PAUSE_S = 0.5
"""Pause after a failed claim, or of a job that PostgreSQL interrupted."""


class Worker:
    """Runs jobs that are due: many at once, one of a queue and class at a time, the highest class first."""

    def __init__(self, queue: JobQueue, kinds: Iterable[Kind], leases: Leases, restore_guard: RestoreGuard) -> None:
        self._queue = queue
        self.kinds = {kind.name: kind for kind in kinds}
        self.kept = {name for name, kind in self.kinds.items() if kind.recurring or kind.derived}
        self._leases = leases
        self._restore_guard = restore_guard
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[bool], ClaimedJob] = {}
        self._after = dict.fromkeys(Priority, "")
        self._unknown: set[str] = set()
        self._others_wait = True  # for the end of a running job, as far as this worker knows
        self._skipped = False
        leases.on_change(self._lease_changed)

    def wake(self, kind: str = "") -> None:
        """Signals that a transaction was committed, which may require jobs. kind: the only kind that it requires.

        A kind of which no more may start waits for the end of one of its jobs.
        """
        declared = self._kind(kind)
        if declared is None or self._used()[declared.limit.name] < declared.limit.concurrency:
            self._wake.set()
        else:
            self._others_wait = self._skipped = True

    async def run(self) -> None:
        """Starts jobs that are due, until cancelled."""
        try:
            while True:
                self._wake.clear()
                delay_s = PAUSE_S
                try:
                    delay_s = await self._start_due()
                except DatabaseUnavailableError as error:
                    log.warning("jobs pause: %s", error)
                except Exception:
                    log.exception("jobs cannot be claimed; trying again")
                    await asyncio.sleep(PAUSE_S)
                await clock.wait_for_event(self._wake, delay_s)
        finally:
            tasks = list(self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _lease_changed(self) -> None:
        self._wake.set()
        self._cancel_without_lease()

    def _cancel_without_lease(self) -> None:
        for task in self._exclusive():
            job = self._running[task]
            if not self._leases.certain or self._leases.held_of(job.leases) != job.leases:
                task.cancel()

    async def _start_due(self) -> float:
        """Starts jobs that are due; returns the seconds until it has to be called again."""
        self._cancel_without_lease()
        held = dict(self._leases.held)
        free = {priority: self._free_slots(priority) for priority in Priority}
        classes = [priority for priority in Priority if free[priority] > 0]
        self._others_wait, self._skipped = True, False
        if not held or not classes:
            return POLL_S
        self._restore_guard.check()
        running = list(self._running.values())
        used = self._used()
        full = [
            kind.name
            for kind in self.kinds.values()
            if used[kind.limit.name] >= kind.limit.concurrency or (kind.exclusive and not self._leases.certain)
        ]
        full += self._unknown
        after = {priority: self._after[priority] for priority in classes}
        claim = await self._queue.claim(clock.now(), held, full, running, after, max(free.values()))
        started = 0
        for job in sorted(claim.jobs, key=lambda job: job.priority):
            kind = self._kind(job.kind)
            if self._free_slots(job.priority) <= 0:
                continue
            if kind is not None and used[kind.limit.name] >= kind.limit.concurrency:
                self._wake.set()  # the next claim leaves this kind out, and finds the jobs behind it
                continue
            used[self._limit_of(job)] += 1
            self._after[job.priority] = job.queue
            self._start(job, kind)
            started += 1
        self._others_wait = claim.more or started < len(claim.jobs) or self._skipped
        # A job that is due and did not start waits for the end of another one, which wakes this worker then.
        delay_s = POLL_S if claim.next_s is None else min(claim.next_s, POLL_S)
        return min(delay_s, self._leases.certain_s) if self._exclusive() else delay_s

    def _exclusive(self) -> list[asyncio.Task[bool]]:
        """Returns the running jobs that a lost lease cancels."""
        return [task for task, job in self._running.items() if (kind := self._kind(job.kind)) and kind.exclusive]

    def _used(self) -> Counter[str]:
        """Returns the number of running jobs by the name of their limit."""
        return Counter(map(self._limit_of, self._running.values()))

    def _limit_of(self, job: ClaimedJob) -> str:
        kind = self._kind(job.kind)
        return job.kind if kind is None else kind.limit.name

    def _kind(self, name: str) -> Kind | None:
        """Returns a kind; that of an external system, such as `cancel/stripe`, has a limit of its own."""
        if name not in self.kinds:
            base, _, system = name.partition("/")
            if not system or base not in self.kinds:
                return None
            declared = self.kinds[base]
            limit = Limit(f"{declared.limit.name}/{system}", declared.limit.concurrency)
            self.kinds[name] = replace(declared, name=name, shared_limit=limit)
        return self.kinds[name]

    def _free_slots(self, priority: Priority) -> int:
        running = Counter(job.priority for job in self._running.values())
        free = SLOTS + SECURITY_SLOTS - running.total()
        shared = free - max(SECURITY_SLOTS - running[Priority.SECURITY], 0)
        match priority:
            case Priority.SECURITY:
                return free
            case Priority.INTERACTIVE:
                return shared
            case Priority.BULK:
                return min(shared, SLOTS - INTERACTIVE_SLOTS - running[Priority.BULK])

    def _start(self, job: ClaimedJob, kind: Kind | None) -> None:
        task = asyncio.create_task(self._one(job, kind))
        self._running[task] = job
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[bool]) -> None:
        self._running.pop(task, None)
        if self._others_wait or task.cancelled() or task.exception() is not None or not task.result():
            self._wake.set()

    async def _one(self, job: ClaimedJob, kind: Kind | None) -> bool:
        """Runs one attempt; returns whether the job has ended, so that no time of it has to be waited for."""
        with log_context(job.tenant, ""):
            try:
                return await self._attempt(job, kind)
            except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
                log.warning("the job %s of %s is interrupted: %s", job.kind, job.key, error)
                await asyncio.sleep(PAUSE_S)
            except Exception:
                log.exception("the end of the job %s of %s cannot be stored", job.kind, job.key)
                await asyncio.sleep(PAUSE_S)
            return False

    async def _attempt(self, job: ClaimedJob, kind: Kind | None) -> bool:
        if kind is None:
            # A newer version required it, or its function was removed by mistake: it waits, and operators see it.
            self._unknown.add(job.kind)
            detail = f"this version of the service has no job {job.kind}"
            log.error("%s (%s)", detail, job.key)
            await self._queue.change(job, {"error": detail})
            return False
        began, outcome = time.perf_counter(), "interrupted"
        try:
            again_s = await kind.run(job)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError):
            raise
        except RetryAfter as error:
            outcome = "waits"
            waits, after_s = 0, error.after_s
            if after_s is None:
                waits = job.waits + 1
                after_s = min(kind.backoff_s(waits), _MAX_WAIT_S[job.priority])
            await self._queue.later(job, after_s, job.attempts, single_line(str(error)), error.detail, waits)
        except AttemptFailedError as error:
            outcome = "failed"
            attempts = job.attempts + 1
            after_s = kind.backoff_s(attempts) if error.after_s is None else error.after_s
            await self._queue.later(job, after_s, attempts, single_line(str(error)), error.detail)
        except Exception as error:
            outcome = "failed"
            log.exception("the job %s of %s failed (attempt %d)", job.kind, job.key, job.attempts + 1)
            attempts = job.attempts + 1
            await self._queue.later(job, kind.backoff_s(attempts), attempts, reason(error))
        else:
            if again_s is not None:
                await self._queue.later(job, again_s, 0, None)
            elif not job.ended:
                await self._queue.finish(job)
            kind.after()
            outcome = "done"
            return again_s is None
        finally:
            _DURATION.record(time.perf_counter() - began, {"paybill.job.kind": kind.name, OUTCOME: outcome})
        return False
