"""Approval of a change, bound to a hash, to a requester and an approver, and to a time."""

from datetime import datetime

from paybill_contracts.errors import ConflictError
from paybill_contracts.event import Value
from paybill_contracts.values import Digest, Text, Timestamp


class ApprovalMismatchError(ConflictError):
    """The approval is for another change, by the requester, or expired."""

    code = "approval_mismatch"


class Approval(Value):
    """Permission by `approver` for one change, identified by the hash of its canonical form, until `expires_at`.

    requester, approver: subjects; two API keys of one subject are one person. other_person: they must differ, and a
    program (`service:…`) or an agent (`agent:…`) is no person.
    """

    subject_hash: Digest
    requester: Text
    approver: Text
    approved_at: Timestamp
    expires_at: Timestamp
    other_person: bool = True

    def check(self, subject_hash: str, now: datetime) -> None:
        """Raises ApprovalMismatchError unless it is for `subject_hash`, valid at `now`, and by a person who may."""
        if self.subject_hash != subject_hash:
            raise ApprovalMismatchError(
                f"the approval is for {self.subject_hash[:12]}…, the request for {subject_hash[:12]}…; "
                "review the new plan and approve it"
            )
        if now >= self.expires_at:
            raise ApprovalMismatchError(f"the approval expired at {self.expires_at.isoformat()}; request a new one")
        if self.other_person and self.approver == self.requester:
            raise ApprovalMismatchError("requester and approver are the same person; ask another person to approve")
        if self.other_person and self.approver.startswith(("service:", "agent:")):
            raise ApprovalMismatchError(f"{self.approver} is a program; ask a person to approve")
