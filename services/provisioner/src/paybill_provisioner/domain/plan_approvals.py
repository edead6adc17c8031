"""State of the approval that a plan waits for, in its environment."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from paybill_contracts.approval import Approval
from paybill_contracts.environment_plans import Plan
from paybill_contracts.plan_approvals import (
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoid,
)
from paybill_contracts.policy import Handling, PolicyReason
from paybill_contracts.values import Timestamp

MAX_EARLIER_APPROVALS = 20
"""Earlier approvals that an environment names; the log has all of them."""

ApprovalEvent = ApprovalRequested | ApprovalGranted | ApprovalRejected | ApprovalUsed | ApprovalVoid


class ApprovalStatus(StrEnum):
    """Status of an approval. Expired is not among them: it follows from the time."""

    REQUESTED = "requested"
    GRANTED = "granted"
    REJECTED = "rejected"
    USED = "used"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class PlanApproval:
    """An approval of one plan.

    plan: None for an earlier approval. other_person: the approver must be another subject than the requester. granted:
    the approval, valid for `valid_s`; approver: who granted or rejected it. ended: reason of a rejection or of its end.
    """

    id: str
    plan_hash: str
    plan: Plan | None
    requester: str
    other_person: bool
    reasons: tuple[PolicyReason, ...]
    policy_hash: str
    requested_at: Timestamp
    expires_at: Timestamp
    valid_s: int
    status: ApprovalStatus = ApprovalStatus.REQUESTED
    granted: Approval | None = None
    approver: str | None = None
    ended: str | None = None

    @property
    def is_open(self) -> bool:
        """True while it can be approved or used."""
        return self.status in {ApprovalStatus.REQUESTED, ApprovalStatus.GRANTED}

    @property
    def handling(self) -> Handling:
        """Handling of its plan by the policy at its request."""
        return Handling.OTHER_PERSON if self.other_person else Handling.APPROVAL

    def has_expired(self, now: datetime) -> bool:
        """Returns True when it is open and its time is over."""
        return self.is_open and now >= self.expires_at


def evolve(approval: PlanApproval | None, event: ApprovalEvent) -> PlanApproval:
    """Returns the approval after `event`; only a request may come first."""
    if isinstance(event, ApprovalRequested):
        return PlanApproval(
            id=event.approval_id,
            plan_hash=event.plan_hash,
            plan=event.plan,
            requester=event.requester,
            other_person=event.other_person,
            reasons=event.reasons,
            policy_hash=event.policy_hash,
            requested_at=event.requested_at,
            expires_at=event.expires_at,
            valid_s=event.valid_s,
        )
    if approval is None or approval.id != event.approval_id:
        raise ValueError(f"{event.TYPE} of {event.approval_id}, which is not the current approval")
    match event:
        case ApprovalGranted():
            granted = event.approval
            return replace(
                approval,
                status=ApprovalStatus.GRANTED,
                granted=granted,
                approver=granted.approver,
                expires_at=granted.expires_at,
            )
        case ApprovalRejected():
            return replace(approval, status=ApprovalStatus.REJECTED, approver=event.rejected_by, ended=event.reason)
        case ApprovalUsed():
            return replace(approval, status=ApprovalStatus.USED)
        case ApprovalVoid():
            return replace(approval, status=ApprovalStatus.VOID, ended=event.reason)
        case _:
            assert_never(event)


def earlier(approvals: tuple[PlanApproval, ...], last: PlanApproval | None) -> tuple[PlanApproval, ...]:
    """Returns the earlier approvals with the last one, each without its plan."""
    return approvals if last is None else (*approvals, replace(last, plan=None))[-MAX_EARLIER_APPROVALS:]
