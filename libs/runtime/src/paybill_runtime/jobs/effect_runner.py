"""Effects as jobs: the calls to other systems that recorded facts require."""

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from opentelemetry.trace import SpanKind
from paybill_contracts.envelope import Fact, Origin, read_fact
from paybill_contracts.errors import DomainError

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.job_rows import change_job
from paybill_runtime.decisions.outbox_headers import complete
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, reason, single_line
from paybill_runtime.jobs.effects import Effect, Job, JobRegistry, Outcome, Refused
from paybill_runtime.jobs.handled_signals import HandledSignals
from paybill_runtime.jobs.kinds import AttemptFailedError, ClaimedJob, Kind, RetryAfter, StoredFact
from paybill_runtime.jobs.queue import JobQueue, ended
from paybill_runtime.security.data_keys import DataKeys
from paybill_runtime.telemetry import DURATION_BUCKETS, OUTCOME, Attributes, log_context, meter, record_failure, span

log = logging.getLogger(__name__)

_WAITS = (DatabaseUnavailableError, LeaseLostError, RetryAfter)
"""Errors after which the attempt does not count."""
_DURATION = meter.create_histogram(
    "paybill.effect.duration",
    "s",
    "Attempts of effects, by effect and outcome.",
    explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
)
_ATTEMPTS = meter.create_histogram(
    "paybill.effect.attempts",
    "{attempt}",
    "Attempts of an effect until it ended, by effect and outcome.",
    explicit_bucket_boundaries_advisory=(1, 2, 3, 5, 8, 13, 21),
)


class EffectRunner:
    """Runs one attempt of an effect and records its outcomes."""

    def __init__(
        self,
        service: str,
        jobs: JobRegistry,
        effects: Any,
        database: Database,
        group_commit: GroupCommit,
        queue: JobQueue,
        keys: DataKeys,
        handled: HandledSignals,
    ) -> None:
        self._service = service
        self._jobs = jobs
        self._effects = effects
        self._database = database
        self._group_commit = group_commit
        self._queue = queue
        self._keys = keys
        self._handled = handled

    def kinds(self) -> Sequence[Kind]:
        """Returns a kind for each effect."""
        effects = {effect.name: effect for effect in self._jobs.effects.values()}
        return [Kind(name, self._run, shared_limit=effects[name].limit) for name in sorted(effects)]

    async def _run(self, claimed: ClaimedJob) -> None:
        if claimed.fact is None:
            raise RetryAfter(clock.MAX_BACKOFF_S, f"the outbox does not hold the fact {claimed.event_id}")
        columns = claimed.fact.columns
        headers = complete(claimed.fact.headers, columns)
        with log_context(claimed.tenant, headers.get("traceparent", "")):
            try:
                fact = read_fact(columns.subject, headers, claimed.fact.payload)
                effect = self._jobs.effects[fact.event.TYPE]
            except (DomainError, KeyError) as error:
                # A newer version required it: it waits, and operators see it.
                log.error("no effect %s here for %s: %s", claimed.kind, claimed.event_id, error)  # noqa: TRY400
                raise RetryAfter(
                    clock.MAX_BACKOFF_S, f"this version of the service has no effect {claimed.kind}"
                ) from error
            began = time.perf_counter()
            with (
                span(
                    f"job {claimed.kind}",
                    fact.origin.traceparent,
                    attributes=lambda: _attributes(claimed),
                    expected=_WAITS,
                ) as parent,
                span(
                    f"effect {effect.name}",
                    parent,
                    SpanKind.CLIENT,
                    attributes=lambda: _attributes(claimed),
                    expected=_WAITS,
                ) as traceparent,
            ):
                origin = Origin(fact.id, fact.origin.correlation, f"service:{self._service}", traceparent)
                job = self._job(claimed.kind, claimed.attempts, fact, traceparent)
                failure, part, outcome = None, None, "done"
                try:
                    await self._record_outcomes(claimed, effect, job, origin)
                except _WAITS:
                    raise
                except Exception as error:  # noqa: BLE001  # every failure of another system is retried or recorded
                    record_failure(type(error).__qualname__)
                    failure = await self._failed(claimed, effect, job, origin, error)
                    part = error.detail if isinstance(error, AttemptFailedError) else None
                    outcome = "failed" if failure is None else "retried"
            _measure(claimed, outcome, time.perf_counter() - began)
            if failure is not None:
                raise AttemptFailedError(failure, detail=part)

    def cancelled(self, kind: str, attempts: int, stored: StoredFact, reason: str) -> Outcome | None:
        """Returns what is recorded when an operator cancels a job of a fact; None when nothing is."""
        fact = read_fact(stored.columns.subject, complete(stored.headers, stored.columns), stored.payload)
        effect = self._jobs.effects.get(fact.event.TYPE)
        if effect is None or effect.cancelled is None:
            return None
        return effect.cancelled(self._job(kind, attempts, fact, fact.origin.traceparent), reason)

    def _job(self, kind: str, attempts: int, fact: Fact, traceparent: str) -> Job[Any]:
        logger = logging.getLogger(f"effect.{kind}")
        tenant, attempt = fact.event.tenant or "", attempts + 1
        resources = self._keys, self._database
        return Job(fact.event, fact.id, attempt, tenant, traceparent, logger, *resources, _handled=self._handled)

    async def _record_outcomes(self, claimed: ClaimedJob, effect: Effect, job: Job[Any], origin: Origin) -> None:
        async with aclosing(cast("AsyncGenerator[Outcome]", effect.run(job, self._effects))) as outcomes:
            async for outcome in outcomes:
                await self._commit(claimed, outcome, origin, "done" if outcome.last else "")

    async def _failed(
        self, claimed: ClaimedJob, effect: Effect, job: Job[Any], origin: Origin, error: Exception
    ) -> str | None:
        """Records the permanent failure of an effect; returns the reason when it is tried again."""
        attempts = claimed.attempts + 1
        detail = single_line(str(error)) if isinstance(error, Refused | AttemptFailedError) else reason(error)
        late = claimed.deadline is not None and clock.now() >= claimed.deadline
        if not isinstance(error, Refused) and attempts < effect.attempts and not late:
            log.warning("the effect %s failed (attempt %d of %d): %s", effect.name, attempts, effect.attempts, detail)
            return detail
        log.error("the effect %s failed permanently: %s", effect.name, detail, exc_info=error)
        if effect.failed is None:
            claimed.ended = True
            await self._queue.change(claimed, ended("failed", attempts, detail))
            return None
        try:
            outcome = effect.failed(job, detail)
            await self._commit(claimed, outcome, origin, "done" if outcome.last else "failed", detail)
        except (DatabaseUnavailableError, LeaseLostError):
            raise
        except Exception as inner:
            log.exception("the failure of the effect %s cannot be recorded", effect.name)
            return reason(inner)
        return None

    async def _commit(
        self, claimed: ClaimedJob, outcome: Outcome, origin: Origin, state: str, detail: str = ""
    ) -> None:
        """Records an outcome; with a `state`, the job ends in the same transaction."""
        extra = [outcome.extra_statements] if outcome.extra_statements is not None else []
        if state:
            columns = ended(state, claimed.attempts + 1, detail)
            extra.append(partial(change_job, job_id=claimed.id, columns=columns))
        await self._group_commit.decide(
            Decision(origin, outcome.decide, outcome.writes, outcome.reads, claimed.leases, extra)
        )
        claimed.ended = bool(state)


def _attributes(job: ClaimedJob) -> Attributes:
    return {"paybill.job.kind": job.kind, "paybill.job.attempt": job.attempts + 1}


def _measure(job: ClaimedJob, outcome: str, took_s: float) -> None:
    attributes = {"paybill.job.kind": job.kind, OUTCOME: outcome}
    _DURATION.record(took_s, attributes)
    if outcome != "retried":
        _ATTEMPTS.record(job.attempts + 1, attributes)
