"""Ends of runs and of approvals: by their time, or because the tenant is not running any more."""

from datetime import datetime

from paybill_contracts.agent_runs import CallApprovalExpired, RunEnd, RunEnded

from paybill_agent_gateway.domain.amounts import plus
from paybill_agent_gateway.domain.runs import CallApproval, Run, RunEvent, evolve


def ended(run: Run, reason: RunEnd, now: datetime) -> RunEnded:
    """Returns the end of a run."""
    return RunEnded(
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


def stop(run: Run, now: datetime, *, is_purged: bool) -> list[RunEvent]:
    """Ends a run whose tenant has left or is suspended.

    A write with an unknown outcome is settled first, unless the tenant's data is deleted.
    """
    if run.ended is not None or (run.intent is not None and not is_purged):
        return []
    return [ended(run, RunEnd.STOPPED, now)]


def on_time(run: Run, now: datetime) -> list[RunEvent]:
    """Ends an approval and a run whose time is over."""
    events: list[RunEvent] = []
    if run.ended is not None or run.intent is not None:
        return events
    if run.approval is not None and run.approval.is_open and now >= run.approval.expires_at:
        events.append(approval_expired(run, run.approval, "the time for it is over", now))
        run = evolve(run, events[0])
    if now >= run.end:
        events.append(ended(run, RunEnd.EXPIRED, now))
    return events


def approval_expired(run: Run, approval: CallApproval, reason: str, now: datetime) -> CallApprovalExpired:
    """Returns the end of an approval that nobody can use any more."""
    return CallApprovalExpired(
        tenant_id=run.tenant_id,
        run_id=run.id,
        bundle_hash=run.bundle_hash,
        seq=approval.seq,
        step=approval.step,
        approval_id=approval.id,
        reason=reason,
        expired_at=now,
    )
