"""Background jobs: unknown outcomes are claimed, and what belongs to tenants that do not run is ended."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial

from paybill_contracts.agent_tenants import AgentTenantChanged, AgentTenantStatus
from paybill_contracts.agents import AgentEnded, EndReason
from paybill_contracts.envelope import Origin
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import DueJob, Job, JobRegistry, Outcome, Timer
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.telemetry import child

from paybill_agent_gateway.act import Gate, settle_unknown
from paybill_agent_gateway.domain import agents, run_ends
from paybill_agent_gateway.domain.outcomes import claimed
from paybill_agent_gateway.domain.runs import Run, RunEvent
from paybill_agent_gateway.tables import AGENTS, CLAIMS_DUE, CLAIMS_LEFT, RUNS

log = logging.getLogger(__name__)

CLAIM = "claim"
TIMERS: tuple[Timer | DueJob, ...] = (Timer(RUNS, "due", run_ends.on_time), DueJob(RUNS, "claim_due", CLAIM))
SERVICE = "service:agent-gateway"
PAGE = 100
RETRY_S = 5.0
"""Pause before an unknown outcome is claimed again whose database cannot be asked."""

JOBS = JobRegistry()


def kinds(gate: Gate) -> Sequence[Kind]:
    """Returns the kinds of jobs beside effects and timers."""
    return [Kind(CLAIM, partial(claim_due, gate))]


async def claim_due(gate: Gate, job: ClaimedJob) -> float | None:
    """Settles the writes whose outcomes are unknown; returns the pause while some cannot be settled."""
    origin = Origin(f"job:{job.id}", f"job:{job.id}", SERVICE, child(None))
    now, closed = column_time(gate.context.now()), set[str]()
    while rows := await gate.context.rows(CLAIMS_DUE, {"now": now, "limit": PAGE, "closed": sorted(closed)}):
        for row in rows:
            if row.tenant_id not in closed and not await settle_unknown(gate, row.id, origin):
                closed.add(row.tenant_id)
    if not await gate.context.rows(CLAIMS_LEFT, {"now": now}):
        return None
    log.warning("writes have an unknown outcome, and their databases cannot be asked; %s of them are open", len(closed))
    return RETRY_S


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
    """Ends the runs of an agent that has ended in which a call waits for an approval."""
    after = ""
    while ids := await job.ids(RUNS, after, PAGE, tenant_id=job.event.tenant_id, agent_id=job.event.agent_id):
        for id_ in ids:
            yield _stopped(id_, run_ends.stop_waiting)
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
