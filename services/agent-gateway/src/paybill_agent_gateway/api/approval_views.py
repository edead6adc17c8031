"""Views of approvals of calls, in the shape of the approvals of plans."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from paybill_contracts.agent_bundles import Scalar, Verb
from paybill_contracts.agent_runs import RunId
from paybill_contracts.approval import Approval
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.values import Digest, TenantId, Timestamp
from pydantic import BaseModel, Field

from paybill_agent_gateway.domain.runs import ApprovalStatus, CallApproval, Run

Plain = dict[str, Scalar | None]


class CallApprovalStatus(StrEnum):
    """Status of an approval, by the words of approvals of plans. VOID: its time is over, or the rows have changed."""

    REQUESTED = "requested"
    GRANTED = "granted"
    REJECTED = "rejected"
    USED = "used"
    VOID = "void"


STATUS: Mapping[ApprovalStatus, CallApprovalStatus] = {
    ApprovalStatus.REQUESTED: CallApprovalStatus.REQUESTED,
    ApprovalStatus.GRANTED: CallApprovalStatus.GRANTED,
    ApprovalStatus.DENIED: CallApprovalStatus.REJECTED,
    ApprovalStatus.USED: CallApprovalStatus.USED,
    ApprovalStatus.EXPIRED: CallApprovalStatus.VOID,
}


class CallApprovalView(BaseModel):
    """An approval of one call of a run."""

    id: ApprovalId
    run_id: RunId
    tenant_id: TenantId
    slug: str
    workflow: str
    step: str
    seq: int
    subject_hash: Digest
    status: CallApprovalStatus
    expired: Annotated[bool, Field(description="It can be neither approved nor used any more, because of its time.")]
    requester: Annotated[str, Field(description="Who called the step.")]
    other_person: Annotated[
        bool, Field(description="Another person than the requester, and than who started the run, has to approve.")
    ]
    reason: Annotated[str, Field(description="Why a person has to approve the call.")]
    requested_at: Timestamp
    expires_at: Timestamp
    approval: Approval | None
    decided_by: Annotated[str | None, Field(description="The person who approved or rejected it.")]
    ended: Annotated[str | None, Field(description="Reason of a rejection, or of its end.")]

    @classmethod
    def of(cls, run: Run, slug: str, approval: CallApproval, now: Timestamp) -> Self:
        """Builds the view of an approval of `run`."""
        return cls(
            id=approval.id,
            run_id=run.id,
            tenant_id=run.tenant_id,
            slug=slug,
            workflow=run.workflow,
            step=approval.step,
            seq=approval.seq,
            subject_hash=approval.subject_hash,
            status=STATUS[approval.status],
            expired=approval.is_open and now >= approval.expires_at,
            requester=approval.requester,
            other_person=True,
            reason=approval.reason,
            requested_at=approval.requested_at,
            expires_at=approval.expires_at,
            approval=approval.granted,
            decided_by=approval.decided_by,
            ended=approval.end_reason,
        )


class RowView(BaseModel):
    """A row before and after the call; null where it does not exist. Untrusted texts are cut."""

    before: Plain | None
    after: Plain | None


class CallView(BaseModel):
    """The call that waits: its arguments, and every row before and after it."""

    slug: str
    run_id: RunId
    workflow: str
    step: str
    seq: int
    verb: Verb
    resource: str
    subject_hash: Digest
    arguments: Plain
    rows: list[RowView]
    other_rows: Annotated[
        dict[str, int],
        Field(description="Numbers of rows that triggers and foreign keys change beside these rows, by table."),
    ]


class CallApprovalDetails(BaseModel):
    """An approval with its call."""

    approval: CallApprovalView
    call: CallView
