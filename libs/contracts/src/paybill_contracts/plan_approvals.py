"""Facts of plans that wait for an approval: requested, granted, rejected, used, void."""

from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.approval import Approval
from paybill_contracts.environment_plans import EnvironmentFact, Plan
from paybill_contracts.policy import PolicyReason
from paybill_contracts.values import Count, Digest, Key, Text, Timestamp

ApprovalId = Annotated[
    str, StringConstraints(pattern=r"^apr_[0-9a-f]{32}$"), Field(examples=["apr_0123456789abcdef0123456789abcdef"])
]


class ApprovalFact(EnvironmentFact):
    """Common fields of the facts of an approval."""

    approval_id: ApprovalId
    plan_hash: Digest


class ApprovalRequested(
    ApprovalFact, type="provisioner.approval_requested", version=1, aggregate="environment", key="environment_id"
):
    """The plan waits for an approval, by the policy with this hash.

    requester: the subject who made the plan; the service for one that follows from a fact. other_person: somebody else
    has to approve. valid_s: time in which an approval can be used.
    """

    plan: Plan
    reasons: tuple[PolicyReason, ...]
    policy_hash: Digest
    requester: Text
    other_person: bool
    requested_at: Timestamp
    expires_at: Timestamp
    valid_s: Count


class ApprovalGranted(
    ApprovalFact, type="provisioner.approval_granted", version=1, aggregate="environment", key="environment_id"
):
    """A person approved the plan with this hash; it can be applied once."""

    approval: Approval


class ApprovalRejected(
    ApprovalFact, type="provisioner.approval_rejected", version=1, aggregate="environment", key="environment_id"
):
    """A person rejected the plan; it is requested again when somebody makes it again, or when it changes."""

    rejected_by: Text
    reason: Text


class ApprovalUsed(
    ApprovalFact, type="provisioner.approval_used", version=1, aggregate="environment", key="environment_id"
):
    """The approved plan is applied; no second use is possible."""


class ApprovalVoid(
    ApprovalFact, type="provisioner.approval_void", version=1, aggregate="environment", key="environment_id"
):
    """The request or the approval has no effect any more."""

    reason: Text


class PlanSuperseded(
    EnvironmentFact, type="provisioner.plan_superseded", version=1, aggregate="environment", key="environment_id"
):
    """Something that the plan was made from has changed, so that it cannot be applied; it is planned anew."""

    plan_hash: Digest
    changed: tuple[Key, ...]
