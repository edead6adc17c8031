"""Size of an environment: its tier and placement, and a change of it that is not built."""

from dataclasses import dataclass

from paybill_contracts.environment_plans import Plan
from paybill_contracts.placement import Preset
from paybill_contracts.plan_estimates import MonthlyCost
from paybill_contracts.values import Timestamp


@dataclass(frozen=True, slots=True)
class Size:
    """A tier on a placement."""

    tier: str
    preset: Preset

    @classmethod
    def of(cls, plan: Plan) -> "Size":
        """Returns the size that a plan is for."""
        return cls(plan.tier, plan.preset)

    @property
    def text(self) -> str:
        """The size, for people."""
        return f"{self.tier} ({self.preset})"


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change of the entitled size that is not built. plan_hash, cost: of its plan; approval_id: if it needs one."""

    since: Timestamp
    reason: str
    waits_for: str
    tier: str | None = None
    preset: Preset | None = None
    approval_id: str | None = None
    plan_hash: str | None = None
    cost: MonthlyCost | None = None
