"""Approvals of plans: requested by policy, granted or rejected by a person, and void when the plan is superseded."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from paybill_contracts.approval import Approval
from paybill_contracts.environment_plans import Plan
from paybill_contracts.errors import ConflictError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.plan_approvals import (
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalVoid,
    PlanSuperseded,
)
from paybill_contracts.policy import Handling

from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plan_approvals import ApprovalStatus, PlanApproval
from paybill_provisioner.domain.plans import changed_since
from paybill_provisioner.domain.policy import Verdict

SERVICE = "service:provisioner"
"""Requester of a plan that follows from a fact, such as new entitlements."""


EXPIRED = "it expired"
"""Reason of an approval that ended by its time."""


class ApprovalUnknownError(NotFoundError):
    """No environment has such an approval."""

    code = "approval_unknown"


class ApprovalEndedError(ConflictError):
    """The approval is granted, rejected, used or void already."""

    code = "approval_ended"


class ApprovalRequiredError(ConflictError):
    """The plan waits for an approval."""

    code = "approval_required"


class PlanSupersededError(ConflictError):
    """Something that the plan was made from has changed."""

    code = "plan_superseded"


def request(
    environment: Environment,
    plan: Plan,
    plan_hash: str,
    judged: Verdict,
    inputs: PlanInputs,
    now: datetime,
    requester: str = SERVICE,
) -> ApprovalRequested:
    """Returns the request for an approval of a plan. Its id follows from the environment's revision and the plan."""
    valid_s = inputs.policy.approval_valid_s
    number = digest([environment.id, environment.revision, plan_hash])[:32]
    return ApprovalRequested(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        approval_id=f"apr_{number}",
        plan=plan,
        plan_hash=plan_hash,
        reasons=judged.reasons,
        policy_hash=inputs.policy_hash,
        requester=requester,
        other_person=judged.handling is Handling.OTHER_PERSON,
        requested_at=now,
        expires_at=now + timedelta(seconds=valid_s),
        valid_s=valid_s,
    )


def still_covers(environment: Environment, plan: Plan, judged: Verdict, now: datetime, requester: str) -> bool:
    """Returns True when the last approval is for the plan that would be requested now, so that none is requested.

    A rejected plan is requested again only by a person. The steps are not compared: another cell is no other plan.
    """
    approval = environment.approval
    if approval is None or approval.plan is None or approval.has_expired(now):
        return False
    if approval.plan.model_copy(update={"steps": (), "estimates": plan.estimates}) != plan.model_copy(
        update={"steps": ()}
    ):
        return False
    if not approval.is_open and not (approval.status is ApprovalStatus.REJECTED and requester == SERVICE):
        return False
    same_person = approval.other_person == (judged.handling is Handling.OTHER_PERSON)
    return same_person and [each.rule for each in approval.reasons] == [each.rule for each in judged.reasons]


def superseded(environment: Environment, blueprints: Blueprints, inputs: PlanInputs) -> list[EnvironmentEvent]:
    """Returns the end of an open approval whose plan was made from something that has changed."""
    approval = environment.approval
    if approval is None or not approval.is_open or approval.plan is None:
        return []
    changed = changed_since(environment, approval.plan, blueprints, inputs)
    if not changed:
        return []
    return [*void(environment, f"superseded: {named(changed)} changed"), _superseded(environment, approval, changed)]


def void(environment: Environment, reason: str) -> list[EnvironmentEvent]:
    """Returns the end of an open approval, for this reason; nothing when none is open."""
    approval = environment.approval
    if approval is None or not approval.is_open:
        return []
    return [
        ApprovalVoid(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            approval_id=approval.id,
            plan_hash=approval.plan_hash,
            reason=reason,
        )
    ]


def on_time(environment: Environment, now: datetime) -> list[EnvironmentEvent]:
    """Ends an approval whose time is over. What it was for is then planned and requested again."""
    expired = environment.approval is not None and environment.approval.has_expired(now)
    return void(environment, EXPIRED) if expired else []


def approve(
    environment: Environment | None,
    approval_id: str,
    plan_hash: str,
    approver: str,
    blueprints: Blueprints,
    inputs: PlanInputs,
    now: datetime,
) -> list[EnvironmentEvent]:
    """Approves the plan with this hash, which the approver has seen.

    Raises ApprovalUnknownError, ApprovalEndedError, PlanSupersededError, ApprovalMismatchError.
    """
    environment, approval = requested(environment, approval_id)
    granted = Approval(
        subject_hash=approval.plan_hash,
        requester=approval.requester,
        approver=approver,
        approved_at=now,
        expires_at=approval.expires_at,
        other_person=approval.other_person,
    )
    granted.check(plan_hash, now)
    require_current(environment, approval, blueprints, inputs)
    valid_until = now + timedelta(seconds=approval.valid_s)
    return [
        ApprovalGranted(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            approval_id=approval.id,
            plan_hash=approval.plan_hash,
            approval=granted.model_copy(update={"expires_at": valid_until}),
        )
    ]


def reject(environment: Environment | None, approval_id: str, rejected_by: str, reason: str) -> list[EnvironmentEvent]:
    """Rejects the plan. Raises ApprovalUnknownError, ApprovalEndedError."""
    environment, approval = requested(environment, approval_id)
    return [
        ApprovalRejected(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            approval_id=approval.id,
            plan_hash=approval.plan_hash,
            rejected_by=rejected_by,
            reason=reason,
        )
    ]


def requested(environment: Environment | None, approval_id: str) -> tuple[Environment, PlanApproval]:
    """Returns the approval that waits for a decision. Raises ApprovalUnknownError, ApprovalEndedError."""
    environment, approval = find(environment, approval_id)
    if approval.status is not ApprovalStatus.REQUESTED:
        why = f" ({approval.ended})" if approval.ended else ""
        raise ApprovalEndedError(f"the approval {approval.id} is {approval.status} already{why}")
    return environment, approval


def find(environment: Environment | None, approval_id: str) -> tuple[Environment, PlanApproval]:
    """Returns an approval, also an earlier one, and its environment. Raises ApprovalUnknownError."""
    if environment is not None:
        for each in (environment.approval, *reversed(environment.earlier_approvals)):
            if each is not None and each.id == approval_id:
                return environment, each
    raise ApprovalUnknownError(f"there is no approval {approval_id}")


def require_current(
    environment: Environment, approval: PlanApproval, blueprints: Blueprints, inputs: PlanInputs
) -> Plan:
    """Returns the plan of an approval. Raises PlanSupersededError when it cannot be applied any more."""
    if approval.plan is None:
        raise PlanSupersededError(f"the plan {approval.plan_hash[:12]}… is not the newest of the environment")
    if changed := changed_since(environment, approval.plan, blueprints, inputs):
        raise PlanSupersededError(
            f"the plan {approval.plan_hash[:12]}… is superseded: {named(changed)} changed; plan again"
        )
    return approval.plan


def named(changed: Sequence[str]) -> str:
    """Returns the names of changed inputs, for people."""
    return ", ".join(each.replace("_", " ") for each in changed)


def _superseded(environment: Environment, approval: PlanApproval, changed: tuple[str, ...]) -> PlanSuperseded:
    return PlanSuperseded(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        plan_hash=approval.plan_hash,
        changed=changed,
    )
