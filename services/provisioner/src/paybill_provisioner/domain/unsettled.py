"""Reason why an environment is not as it has to be, with the next command. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from paybill_contracts.policy import Policy

from paybill_provisioner.domain.cells import RegionFullError
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.plan_approvals import ApprovalStatus, PlanApproval
from paybill_provisioner.domain.policy import transfers_data
from paybill_provisioner.domain.rebuilding import ForeignObjectsError, TablesNotInspectedError

_BY_PLAN = frozenset({Status.BUILDING, Status.CHANGING, Status.COMPENSATING})
"""Statuses that end with the plan."""
_AFTER_REFUSAL = {
    RegionFullError.code: "paybill cell list",
    ForeignObjectsError.code: "paybill environment retry {slug}",
    TablesNotInspectedError.code: "paybill environment show {slug}",
}
"""Commands after refusals that another blueprint does not end."""
_SETTLED = frozenset({Status.REGISTERED, Status.FAILED, Status.READY})
"""Statuses in which nothing is done."""


class Reason(StrEnum):
    """Kind of the reason. waits: the provider is away or refuses, and the job continues by itself."""

    WAITS = "waits"
    LEGAL_HOLD = "legal_hold"
    FAILED = "failed"
    REFUSED = "refused"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_GRANTED = "approval_granted"
    APPROVAL_REJECTED = "approval_rejected"
    APPROVAL_EXPIRED = "approval_expired"
    TRANSFER = "transfer"
    PAUSED = "paused"
    SLOW = "slow"
    NOT_PLANNED = "not_planned"


@dataclass(frozen=True, slots=True)
class Wait:
    """A job of the tenant that could not be done yet. step: of the plan, if one could not; tries: so far."""

    job_id: str
    kind: str
    step: str | None
    reason: str
    tries: int
    next_try: datetime


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Reason why an environment is not as it has to be.

    command: the next safe command. since: None when it is not recorded. is_problem: an operator has to act, or what the
    tenant pays for takes longer than the policy allows.
    """

    reason: Reason
    text: str
    command: str
    since: datetime | None = None
    is_problem: bool = False


def unsettled(environment: Environment, wait: Wait | None, policy: Policy, now: datetime) -> Unsettled | None:
    """Returns why the environment is not as it has to be; None when it is, or becomes so by itself in time."""
    if wait is not None:
        where = f"{wait.step or wait.kind.replace('_', ' ')} waits"
        text = f"{where}, tried {wait.tries} times, next at {_time(wait.next_try)}: {wait.reason}"
        if environment.status in {Status.BUILDING, Status.CHANGING} and environment.is_overtaken:
            entitled = environment.desired_size.text if environment.desired_size else "nothing"
            text = f"{text}; {entitled} is entitled by now, and a retry of the environment plans that instead"
            return Unsettled(Reason.WAITS, text, f"paybill environment retry {environment.slug}", is_problem=True)
        return Unsettled(Reason.WAITS, text, f"paybill jobs retry {wait.job_id}", is_problem=True)
    if environment.status in {Status.RETAINED, Status.PURGED}:
        return None
    found = _stopped(environment) or _held(environment, now) or _open(environment, policy, now)
    if found is None or found.is_problem or not _is_paid_change(environment) or found.since is None:
        return found
    return replace(found, is_problem=now - found.since > timedelta(seconds=policy.change_within_s))


def _stopped(environment: Environment) -> Unsettled | None:
    """Returns what ends only by an operator, or by another blueprint."""
    slug, refusal, failure = environment.slug, environment.refusal, environment.failure
    if environment.purge is not None and environment.purge.held_by:
        text = f"legal holds stop its purge: {', '.join(environment.purge.held_by)}"
        return Unsettled(Reason.LEGAL_HOLD, text, f"paybill tenant show {slug}", environment.purge.since)
    if failure is not None and environment.status is not Status.COMPENSATING:
        what = _expected(environment)
        text = f"{failure.address} could not be {what}: {failure.reason}"
        return Unsettled(Reason.FAILED, text, f"paybill environment retry {slug}", is_problem=True)
    if refusal is not None:
        command = _AFTER_REFUSAL.get(refusal.code, "paybill blueprint list").format(slug=slug)
        text = f"it cannot be planned ({refusal.code}): {refusal.reason}"
        return Unsettled(Reason.REFUSED, text, command, is_problem=refusal.code != TablesNotInspectedError.code)
    return None


def _expected(environment: Environment) -> str:
    """Returns what a failed step should have reached."""
    if environment.status is not Status.PURGING:
        return "built"
    is_deleted = environment.purge is not None and environment.purge.is_deleted
    return "verified as deleted" if is_deleted else "deleted"


def _held(environment: Environment, now: datetime) -> Unsettled | None:
    """Returns what the plan of a change or of a purge waits for."""
    approval, pending = environment.approval, environment.pending
    since = pending.since if pending else approval.requested_at if approval else None
    if approval is not None and (approval.is_open or (pending and approval.id == pending.approval_id)):
        found = _of_approval(environment, approval, now)
        return replace(found, text=f"{_difference(environment)}{found.text}", since=since)
    if pending is not None:
        text = f"{_difference(environment)}{pending.reason}; it waits for {pending.waits_for}"
        return Unsettled(Reason.TRANSFER, text, f"paybill environment show {environment.slug}", since)
    return None


def _difference(environment: Environment) -> str:
    """Returns the begin of a text about a change of the size; empty for another change."""
    built, desired = environment.built_size, environment.desired_size
    if built is None or desired is None or built == desired or environment.is_moving:
        return ""
    return f"{built.text} is built, and {desired.text} is entitled: "


def _of_approval(environment: Environment, approval: PlanApproval, now: datetime) -> Unsettled:
    slug, plan = environment.slug, f"the plan {approval.plan_hash[:12]}…"
    again = f"paybill environment plan {slug}"
    if approval.has_expired(now):
        text = f"the approval {approval.id} of {plan} expired at {_time(approval.expires_at)}"
        return Unsettled(Reason.APPROVAL_EXPIRED, text, again)
    match approval.status:
        case ApprovalStatus.REQUESTED:
            person = "another person" if approval.other_person else "a person"
            text = f"{plan} waits for the approval {approval.id} by {person}: {approval.reasons[0].text}"
            return Unsettled(Reason.APPROVAL_REQUESTED, text, f"paybill approval show {approval.id}")
        case ApprovalStatus.GRANTED if approval.plan is not None and transfers_data(approval.plan):
            text = f"{plan} is approved, and would transfer data, which this version does not do"
            return Unsettled(Reason.TRANSFER, text, f"paybill environment show {slug}")
        case ApprovalStatus.GRANTED:
            text = f"{plan} is approved until {_time(approval.expires_at)}, and not applied"
            return Unsettled(Reason.APPROVAL_GRANTED, text, f"paybill environment apply {slug}")
        case ApprovalStatus.REJECTED | ApprovalStatus.USED | ApprovalStatus.VOID:
            text = f"the approval {approval.id} of {plan} is {approval.status}: {approval.ended or 'no reason'}"
            return Unsettled(Reason.APPROVAL_REJECTED, text, again)


def _open(environment: Environment, policy: Policy, now: datetime) -> Unsettled | None:
    """Returns why an open plan is not complete, or what is desired is not planned."""
    slug, planned_at, desired = environment.slug, environment.planned_at, environment.desired
    if environment.paused:
        text = "its plan is paused while the tenant is suspended"
        return Unsettled(Reason.PAUSED, text, f"paybill tenant show {slug}")
    if environment.status in _BY_PLAN:
        if planned_at is None or now - planned_at <= timedelta(seconds=policy.change_within_s):
            return None
        step = f", and {environment.remaining[0].address} is next" if environment.remaining else ""
        text = f"it is {environment.status} by the plan of {_time(planned_at)}{step}"
        return Unsettled(Reason.SLOW, text, f"paybill environment show {slug}", planned_at, is_problem=True)
    built = environment.built_size
    if desired is None or not desired.allows_access or desired.size == built or environment.status not in _SETTLED:
        return None
    text = f"{desired.size.text} is entitled, {built.text if built else 'nothing'} is built, and there is no plan"
    return Unsettled(Reason.NOT_PLANNED, text, f"paybill environment plan {slug}", is_problem=True)


def _is_paid_change(environment: Environment) -> bool:
    """Returns True when what the tenant pays for is not what is built; a repair, a purge or a move is none."""
    desired = environment.desired
    if desired is None or not desired.allows_access or environment.purge is not None or environment.is_moving:
        return False
    built = (environment.built_size, dict(environment.built_limits))
    return (desired.size, dict(desired.limits)) != built


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
