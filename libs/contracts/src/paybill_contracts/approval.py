"""One kind of approval for tenants, plans and agents: bound to a hash, to people and to a time."""

from datetime import datetime

from paybill_contracts.errors import ForbiddenError
from paybill_contracts.event import Value
from paybill_contracts.values import Digest, Text, Timestamp


class ApprovalMismatchError(ForbiddenError):
    """What is about to happen is not what was approved, or the approval has run out."""

    code = "approval_mismatch"


class Approval(Value):
    """`approver` allows exactly the thing whose canonical form has the hash `subject_hash`, until `expires_at`."""

    subject_hash: Digest
    requester: Text
    approver: Text
    approved_at: Timestamp
    expires_at: Timestamp

    def check(self, subject_hash: str, now: datetime) -> None:
        """Raise ApprovalMismatchError unless this approval is for `subject_hash`, in time, and not by the requester."""
        if self.subject_hash != subject_hash:
            raise ApprovalMismatchError(
                f"approved was {self.subject_hash[:12]}…, asked for is {subject_hash[:12]}…; "
                "look at the new plan and approve it"
            )
        if now >= self.expires_at:
            raise ApprovalMismatchError(f"the approval ended at {self.expires_at.isoformat()}; ask for a new one")
        if self.approver == self.requester:
            raise ApprovalMismatchError("nobody approves their own request; ask somebody else")
