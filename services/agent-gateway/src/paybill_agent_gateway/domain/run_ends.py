"""Ends of runs and of approvals: by their time, or because the tenant is not running any more."""

from datetime import datetime

from paybill_contracts.agent_runs import CallApprovalExpired, RunEnd, RunEnded

from paybill_agent_gateway.domain.amounts import plus
from paybill_agent_gateway.domain.runs import CallApproval, Run, RunEvent, evolve

RUN_ENDED = "its run has ended"
AGENT_ENDED = "the agent that requested the approval has ended"


def ended(run: Run, reason: RunEnd, now: datetime) -> list[RunEvent]:
    """Returns the end of a run, after that of an approval which is still open.

    A write with an unknown outcome uses all that it reserved, and is no action yet; a later claim settles it.
    """
    events: list[RunEvent] = []
    if run.approval is not None and run.approval.is_open:
        events.append(approval_expired(run, run.approval, RUN_ENDED, now))
    end = RunEnded(
        tenant_id=run.tenant_id,
        run_id=run.id,
        bundle_hash=run.bundle_hash,
        agent_id=run.agent_id,
        workflow=run.workflow,
        reason=reason,
        actions=run.actions,
        used=run.used if run.intent is None else plus(run.used, run.intent.reserved),
        started_at=run.started_at,
        ended_at=now,
    )
    return [*events, end]


def stop(run: Run, now: datetime) -> list[RunEvent]:
    """Ends a run whose tenant has left or is suspended, also one with an unknown outcome: nothing may follow it."""
    return [] if run.ended is not None else ended(run, RunEnd.STOPPED, now)


def stop_waiting(run: Run, now: datetime) -> list[RunEvent]:
    """Ends a run of an agent that has ended, when a call of the run waits for a person or has their approval."""
    return stop(run, now) if run.approval is not None and run.approval.is_open else []


def stop_requests(run: Run, agent_id: str, now: datetime) -> list[RunEvent]:
    """Ends the open approval of a run, also one that somebody else has started, when this agent requested it."""
    approval = run.approval
    if run.ended is not None or approval is None or not approval.is_open or approval.requester != f"agent:{agent_id}":
        return []
    return [approval_expired(run, approval, AGENT_ENDED, now)]


def on_time(run: Run, now: datetime) -> list[RunEvent]:
    """Ends an approval and a run whose time is over."""
    events: list[RunEvent] = []
    if run.ended is not None or run.intent is not None:
        return events
    if run.approval is not None and run.approval.is_open and now >= run.approval.expires_at:
        events.append(approval_expired(run, run.approval, "the time for it is over", now))
        run = evolve(run, events[0])
    if now >= run.end:
        events += ended(run, RunEnd.EXPIRED, now)
    return events


def approval_expired(run: Run, approval: CallApproval, reason: str, now: datetime) -> CallApprovalExpired:
    """Returns the end of an approval that nobody can use any more."""
    return CallApprovalExpired(
        tenant_id=run.tenant_id,
        run_id=run.id,
        bundle_hash=run.bundle_hash,
        seq=approval.seq,
        step=approval.step,
        workflow=run.workflow,
        approval_id=approval.id,
        reason=reason,
        expired_at=now,
    )
