"""Facts of the execution of a plan: paused, resumed, and compensated after a failure."""

from paybill_contracts.environment_plans import EnvironmentFact, Plan
from paybill_contracts.values import Digest, Text, Timestamp


class PlanPaused(
    EnvironmentFact, type="provisioner.plan_paused", version=1, aggregate="environment", key="environment_id"
):
    """Steps of the plan that have not begun do not begin until it is resumed."""

    plan_hash: Digest
    reason: Text


class PlanResumed(
    EnvironmentFact, type="provisioner.plan_resumed", version=1, aggregate="environment", key="environment_id"
):
    """The remaining steps of a paused plan are applied."""

    plan_hash: Digest


class CompensationStarted(
    EnvironmentFact, type="provisioner.compensation_started", version=1, aggregate="environment", key="environment_id"
):
    """Deletions of everything that a failed plan had built begin, by this plan: the policy in force requires it."""

    plan: Plan
    plan_hash: Digest
    planned_at: Timestamp


class CompensationEnded(
    EnvironmentFact, type="provisioner.compensation_ended", version=1, aggregate="environment", key="environment_id"
):
    """Nothing is left of what the failed plan had built. A retry begins anew."""

    plan_hash: Digest
