"""Policy: what a plan of an environment may change unattended, and what waits for an approval."""

from enum import StrEnum

from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
from paybill_contracts.values import Count, Digest, Key, Text


class Handling(StrEnum):
    """Handling of a plan. other_person: it waits for an approval by another person than the requester."""

    UNATTENDED = "unattended"
    APPROVAL = "approval"
    OTHER_PERSON = "other_person"


class DriftHandling(StrEnum):
    """Handling of drift. report: it is shown; propose: a plan waits for an approval; repair: a plan is applied."""

    REPORT = "report"
    PROPOSE = "propose"
    REPAIR = "repair"


class AfterFailure(StrEnum):
    """Handling of what a plan had built when it fails, in an environment that was never ready.

    keep: it stays, and a retry continues from it. compensate: it is deleted in order.
    """

    KEEP = "keep"
    COMPENSATE = "compensate"


class CostLimit(Value):
    """Largest cost of an environment for one month; a plan that raises the cost above it is handled so.

    A plan whose cost is unknown is handled in the same way.
    """

    monthly: Money
    handling: Handling


class Policy(Value):
    """A version of the policy. A plan is handled by the strictest of what applies to it.

    clean_up: deletions in an environment that was never ready; deletes, replaces, moves_data: of other ones.
    drift: handling of resources that differ from their record.
    approval_valid_s: time in which a request can be approved, and in which an approval can be used.
    change_within_s: time in which what a tenant pays for has to be built; a change that takes longer is a problem.
    """

    name: Key
    version: Count
    creates: Handling
    updates: Handling
    clean_up: Handling
    deletes: Handling
    replaces: Handling
    moves_data: Handling
    cost_limit: CostLimit | None = None
    approval_valid_s: Count
    drift: DriftHandling = DriftHandling.REPORT
    after_failure: AfterFailure = AfterFailure.KEEP
    change_within_s: Count = 86_400


class PolicyReason(Value):
    """Reason why a plan waits for an approval, by the rule of the policy with this id."""

    rule: Key
    text: Text


class PolicyPublished(Event, type="provisioner.policy_published", version=1, aggregate="policy", key="policy"):
    """Plans are handled by this policy from now on. Requests for an approval name `content_hash`."""

    policy: Key
    content: Policy
    content_hash: Digest
