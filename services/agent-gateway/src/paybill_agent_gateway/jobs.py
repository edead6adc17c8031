"""Background jobs: unknown outcomes are claimed, and what belongs to tenants that do not run is ended."""

import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial

from paybill_contracts.agent_tenants import AgentTenantChanged, AgentTenantStatus
from paybill_contracts.agents import EndReason
from paybill_contracts.envelope import Origin
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import DueJob, Job, JobRegistry, Outcome, Timer
from paybill_runtime.jobs.kinds import ClaimedJob, Kind
from paybill_runtime.telemetry import child

from paybill_agent_gateway.act import Gate, settle_unknown
from paybill_agent_gateway.domain import agents, run_ends
from paybill_agent_gateway.tables import AGENTS, CLAIMS_DUE, RUNS

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
    rows = await gate.context.rows(CLAIMS_DUE, {"now": column_time(gate.context.now()), "limit": PAGE})
    settled = [await settle_unknown(gate, row.id, origin) for row in rows]
    if not all(settled):
        log.warning("%s writes have an unknown outcome; their databases cannot be asked", settled.count(False))
        return RETRY_S
    return None


@JOBS.effect(AgentTenantChanged)
async def stop_tenant(job: Job[AgentTenantChanged], _: object) -> AsyncIterator[Outcome]:
    """Ends the runs of a tenant that is not running, and the agents of one that is purged."""
    tenant, status = job.event.tenant_id, job.event.status
    is_purged = status is AgentTenantStatus.PURGED
    if status in {AgentTenantStatus.SUSPENDED, AgentTenantStatus.LEAVING, AgentTenantStatus.PURGED}:
        after = ""
        while ids := await job.ids(RUNS, after, PAGE, tenant_id=tenant):
            for id_ in ids:
                yield _stopped(id_, is_purged=is_purged)
            after = ids[-1]
    if is_purged:
        after = ""
        while ids := await job.ids(AGENTS, after, PAGE, tenant_id=tenant):
            for id_ in ids:
                yield _agent_ended(id_)
            after = ids[-1]
    yield Outcome(lambda _unit, _at: None, last=True)


def _stopped(run_id: str, *, is_purged: bool) -> Outcome:
    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        run = unit.get(RUNS, run_id)
        if run is not None:
            unit.record(RUNS, run_id, run_ends.stop(run, at.now, is_purged=is_purged))

    return Outcome(decide, writes=[RUNS.key(run_id)])


def _agent_ended(agent_id: str) -> Outcome:
    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        agent = agents.existing(unit.get(AGENTS, agent_id), agent_id)
        unit.record(AGENTS, agent_id, agents.end(agent, SERVICE, at.now, EndReason.TENANT_LEFT))

    return Outcome(decide, writes=[AGENTS.key(agent_id)])
