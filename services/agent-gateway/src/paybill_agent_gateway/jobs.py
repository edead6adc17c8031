"""Background jobs: unknown outcomes are claimed, and what belongs to tenants that do not run is ended."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial

from paybill_contracts.agent_tenants import AgentTenantChanged, AgentTenantStatus
from paybill_contracts.agents import AgentEnded, EndReason
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import RetryLaterError
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import DueJob, Job, JobRegistry, Outcome, Timer
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.telemetry import child

from paybill_agent_gateway.act import Gate, settle_unknown
from paybill_agent_gateway.domain import agents, run_ends
from paybill_agent_gateway.domain.agents import SERVICE
from paybill_agent_gateway.domain.outcomes import claimed
from paybill_agent_gateway.domain.runs import ApprovalStatus, Run, RunEvent
from paybill_agent_gateway.tables import AGENTS, CLAIM_DATABASES, CLAIMS_DUE, CLAIMS_LEFT, RUNS

log = logging.getLogger(__name__)

CLAIM = "claim"
TIMERS: tuple[Timer | DueJob, ...] = (
    Timer(RUNS, "due", run_ends.on_time),
    Timer(AGENTS, "due", agents.on_time),
    DueJob(RUNS, "claim_due", CLAIM),
)
PAGE = 100
RETRY_S = 5.0
"""Pause before an unknown outcome is claimed again whose database cannot be asked."""
DATABASES_AT_ONCE = 8
CLAIMS_AT_ONCE = 3
"""Claims at once in one database. With all databases at once, most connections are left to calls."""
DATABASE_S = 10.0
"""Time after which a database is left until the next try: one that is away delays no later claim of the others."""

JOBS = JobRegistry()


def kinds(gate: Gate) -> Sequence[Kind]:
    """Returns the kinds of jobs beside effects and timers."""
    return [Kind(CLAIM, partial(claim_due, gate))]


async def claim_due(gate: Gate, job: ClaimedJob) -> float | None:
    """Settles the writes whose outcomes are unknown; returns the pause while some cannot be settled."""
    origin = Origin(f"job:{job.id}", f"job:{job.id}", SERVICE, child(None))
    now, limit = column_time(gate.context.now()), asyncio.Semaphore(DATABASES_AT_ONCE)

    async def settle(database: str) -> None:
        async with limit:
            await _settle_database(gate, database, now, origin)

    async with asyncio.TaskGroup() as group:
        for row in await gate.context.rows(CLAIM_DATABASES, {"now": now}):
            group.create_task(settle(row.database))
    if not await gate.context.rows(CLAIMS_LEFT, {"now": now}):
        return None
    return RETRY_S


async def _settle_database(gate: Gate, database: str, now: str, origin: Origin) -> None:
    """Settles the writes in one database, as far as it answers in time."""
    clock, closed = asyncio.get_running_loop().time, set[str]()
    end, values = clock() + DATABASE_S, {"now": now, "limit": PAGE, "database": database}
    while rows := await gate.context.rows(CLAIMS_DUE, {**values, "closed": sorted(closed)}):
        for first in range(0, len(rows), CLAIMS_AT_ONCE):
            some = [row for row in rows[first : first + CLAIMS_AT_ONCE] if row.tenant_id not in closed]
            settled = await asyncio.gather(*(_is_settled(gate, row.id, origin) for row in some))
            closed |= {row.tenant_id for row, is_settled in zip(some, settled, strict=True) if not is_settled}
            if clock() >= end:
                log.warning("claims of unknown outcomes in %s take too long; they are continued later", database)
                return
    if closed:
        log.warning("unknown outcomes of %s tenants in %s cannot be claimed now", len(closed), database)


async def _is_settled(gate: Gate, run_id: str, origin: Origin) -> bool:
    try:
        return await settle_unknown(gate, run_id, origin)
    except RetryLaterError:
        return False  # the login of the tenant's agents has no password yet


@JOBS.effect(AgentTenantChanged)
async def stop_tenant(job: Job[AgentTenantChanged], _: object) -> AsyncIterator[Outcome]:
    """Ends the runs of a tenant that is not running, and the agents of one that is purged."""
    tenant, status = job.event.tenant_id, job.event.status
    is_purged = status is AgentTenantStatus.PURGED
    if status in {AgentTenantStatus.SUSPENDED, AgentTenantStatus.LEAVING, AgentTenantStatus.PURGED}:
        after = ""
        while ids := await job.ids(RUNS, after, PAGE, tenant_id=tenant):
            for id_ in ids:
                yield _stopped(id_, _purged if is_purged else run_ends.stop)
            after = ids[-1]
    if is_purged:
        after = ""
        while ids := await job.ids(AGENTS, after, PAGE, tenant_id=tenant):
            for id_ in ids:
                yield _agent_ended(id_)
            after = ids[-1]
    yield Outcome(lambda _unit, _at: None, last=True)


@JOBS.effect(AgentEnded)
async def stop_agent(job: Job[AgentEnded], _: object) -> AsyncIterator[Outcome]:
    """Ends what waits for an approval when an agent ends: its own runs, and its requests in runs of others."""
    tenant_id, agent_id = job.event.tenant_id, job.event.agent_id
    after = ""
    while ids := await job.ids(RUNS, after, PAGE, tenant_id=tenant_id, agent_id=agent_id):
        for id_ in ids:
            yield _stopped(id_, run_ends.stop_waiting)
        after = ids[-1]
    for status in (ApprovalStatus.REQUESTED, ApprovalStatus.GRANTED):
        after = ""
        while ids := await job.ids(RUNS, after, PAGE, tenant_id=tenant_id, approval_status=status):
            for id_ in ids:
                yield _stopped(id_, lambda run, now: run_ends.stop_requests(run, agent_id, now))
            after = ids[-1]
    yield Outcome(lambda _unit, _at: None, last=True)


def _purged(run: Run, now: datetime) -> list[RunEvent]:
    """Ends a run whose tenant's data is deleted: an unknown outcome can be asked nowhere, and counts as done."""
    return run_ends.stop(run, now) + ([] if run.intent is None else claimed(run, now, is_done=True))


def _stopped(run_id: str, stop: Callable[[Run, datetime], list[RunEvent]]) -> Outcome:
    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        run = unit.get(RUNS, run_id)
        if run is not None:
            unit.record(RUNS, run_id, stop(run, at.now))

    return Outcome(decide, writes=[RUNS.key(run_id)])


def _agent_ended(agent_id: str) -> Outcome:
    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        agent = agents.existing(unit.get(AGENTS, agent_id), agent_id)
        unit.record(AGENTS, agent_id, agents.end(agent, SERVICE, at.now, EndReason.TENANT_LEFT))

    return Outcome(decide, writes=[AGENTS.key(agent_id)])
