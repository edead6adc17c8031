"""Approvals of calls: requested by the workflow or by trust, granted or denied by a person, used once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from paybill_contracts.agent_bundles import ResourceColumn, Scalar
from paybill_contracts.agent_runs import (
    CallApprovalDenied,
    CallApprovalExpired,
    CallApprovalGranted,
    Fields,
    RowImage,
)
from paybill_contracts.approval import Approval, ApprovalMismatchError
from paybill_contracts.event import digest

from paybill_agent_gateway.domain.answers import PendingApproval, PlainFields
from paybill_agent_gateway.domain.refusals import (
    ApprovalDeniedError,
    ApprovalEndedError,
    ApprovalExpiredError,
    ApprovalNotFoundError,
    ApprovalRequiredError,
    SeqReusedError,
)
from paybill_agent_gateway.domain.run_ends import approval_expired
from paybill_agent_gateway.domain.runs import APPROVAL_USE, ApprovalStatus, CallApproval, Run, RunEvent

Seal = Callable[[PlainFields], Fields]
"""Returns fields as they are in a fact."""

MAX_SHOWN = 200
"""Characters of an untrusted text that an approver sees."""


@dataclass(frozen=True, slots=True)
class Image:
    """A row before and after a write, in plain text; None where it does not exist."""

    before: PlainFields | None
    after: PlainFields | None


@dataclass(frozen=True, slots=True)
class Preview:
    """Rows before and after a write. image: digest of what the write compares: the rows before, and `other_rows`.

    other_rows: numbers of rows that triggers and referential actions change beside these rows, by table.
    """

    rows: tuple[Image, ...]
    image: str
    other_rows: Mapping[str, int] = field(default_factory=dict)


def subject_hash(run: Run, step: str, arguments: PlainFields, shown: Preview, bundle_hash: str) -> str:
    """Returns the hash that an approval is bound to. bundle_hash: of the grants in force."""
    images = [[row.before, row.after] for row in shown.rows]
    others = [dict(shown.other_rows)] if shown.other_rows else []
    return digest([run.tenant_id, run.id, run.seq, step, run.bundle_hash, bundle_hash, arguments, images, *others])


def approval_id(run: Run, call_digest: str) -> str:
    """Returns the id of the next approval of a run, which is another one for each request of each call."""
    count = len(run.earlier_approvals) + (run.approval is not None)
    return f"apr_{digest([run.tenant_id, run.id, run.first_seq, run.seq, call_digest, count])[:32]}"


def pending(approval: CallApproval) -> PendingApproval:
    """Returns the approval as its call gets it: where a person decides it, and until when."""
    return PendingApproval(approval.id, f"/v1/approvals/{approval.id}", approval.expires_at)


def require_decided(run: Run, call_digest: str, now: datetime) -> CallApproval | None:
    """Returns the granted approval of a call, None when none is requested yet.

    Raises SeqReusedError, ApprovalRequiredError, ApprovalDeniedError, ApprovalExpiredError.
    """
    approval = run.approval
    if approval is None:
        return None
    if approval.digest != call_digest:
        raise SeqReusedError("another call with this number waits for an approval; repeat it with the same arguments")
    if approval.status is ApprovalStatus.DENIED:
        raise ApprovalDeniedError("a person has denied this call; repeat it to request a new approval")
    if approval.status is ApprovalStatus.EXPIRED or now >= approval.expires_at:
        raise ApprovalExpiredError("the time for this approval is over; repeat the call to request a new one")
    if approval.status is ApprovalStatus.REQUESTED:
        raise required(approval)
    return approval


def required(approval: CallApproval) -> ApprovalRequiredError:
    """Returns the refusal of a call that waits."""
    return ApprovalRequiredError(
        "a person has to decide about this call; repeat it after the decision, unchanged. "
        f"The approval expires at {approval.expires_at:%Y-%m-%d %H:%M} UTC"
    )


def requesting_agent(approval: CallApproval) -> str | None:
    """Returns the id of the agent that requested an approval; None for a person or a service."""
    kind, _, id_ = approval.requester.partition(":")
    return id_ if kind == "agent" else None


def find(run: Run, named: str) -> CallApproval:
    """Returns an approval of a run, also an earlier one. Raises ApprovalNotFoundError."""
    approvals = [*run.earlier_approvals, *([run.approval] if run.approval is not None else [])]
    approval = next((each for each in approvals if each.id == named), None)
    if approval is None:
        raise ApprovalNotFoundError(f"no call has the approval {named[:40]}; `paybill approval list` lists all of them")
    return approval


def grant(run: Run, named: str, subject: str, approver: str, now: datetime) -> list[RunEvent]:
    """Approves the call with the hash `subject`; again by the same person changes nothing.

    Raises ApprovalNotFoundError, ApprovalEndedError, ApprovalMismatchError.
    """
    known = find(run, named)
    if known.status is ApprovalStatus.GRANTED and known.decided_by == approver and known.subject_hash == subject:
        return []
    approval = _open(run, named, now)
    granted = Approval(
        subject_hash=approval.subject_hash,
        requester=approval.requester,
        approver=approver,
        approved_at=now,
        expires_at=max(approval.expires_at, now + APPROVAL_USE),
    )
    granted.check(subject, now)
    if approver == run.started_by:
        raise ApprovalMismatchError("the approver has started this run; ask another person to approve")
    return [
        CallApprovalGranted(
            tenant_id=run.tenant_id,
            run_id=run.id,
            bundle_hash=run.bundle_hash,
            seq=approval.seq,
            step=approval.step,
            workflow=run.workflow,
            approval_id=approval.id,
            approval=granted,
        )
    ]


def deny(run: Run, named: str, denied_by: str, reason: str, now: datetime) -> list[RunEvent]:
    """Denies a call; again by the same person changes nothing. Raises ApprovalNotFoundError, ApprovalEndedError."""
    known = find(run, named)
    if known.status is ApprovalStatus.DENIED and known.decided_by == denied_by:
        return []
    approval = _open(run, named, now)
    return [
        CallApprovalDenied(
            tenant_id=run.tenant_id,
            run_id=run.id,
            bundle_hash=run.bundle_hash,
            seq=approval.seq,
            step=approval.step,
            workflow=run.workflow,
            approval_id=approval.id,
            denied_by=denied_by,
            reason=reason,
            denied_at=now,
        )
    ]


def expire(run: Run, reason: str, now: datetime) -> list[CallApprovalExpired]:
    """Ends the open approval of a run."""
    if run.approval is None or not run.approval.is_open:
        return []
    return [approval_expired(run, run.approval, reason, now)]


def shown(column: ResourceColumn, value: Scalar | None) -> Scalar | None:
    """Returns a value as an approver sees it: other people's texts are cut, and free of control characters."""
    if not isinstance(value, str):
        return value
    printable = "".join(each if each.isprintable() else " " for each in value)
    if column.untrusted and len(printable) > MAX_SHOWN:
        return printable[:MAX_SHOWN] + "…"
    return printable


def images_of(rows: Sequence[Image], seal: Seal) -> tuple[RowImage, ...]:
    """Returns rows as they are in a fact. seal: seals personal fields."""
    return tuple(
        RowImage(
            before=None if row.before is None else seal(row.before),
            after=None if row.after is None else seal(row.after),
        )
        for row in rows
    )


def _open(run: Run, named: str, now: datetime) -> CallApproval:
    approval = find(run, named)
    if run.ended is not None:
        raise ApprovalEndedError(f"the run of this approval has ended: {run.ended}")
    if approval.status is not ApprovalStatus.REQUESTED:
        raise ApprovalEndedError(f"this approval is {approval.status} already")
    if now >= approval.expires_at:
        raise ApprovalEndedError("the time for this approval is over; the agent has to repeat its call")
    return approval
