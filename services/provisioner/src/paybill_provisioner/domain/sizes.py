"""Size of an environment: its tier and placement, and a change of it that is not built."""

from dataclasses import dataclass

from paybill_contracts.placement import Preset
from paybill_contracts.values import Timestamp


@dataclass(frozen=True, slots=True)
class Size:
    """A tier on a placement."""

    tier: str
    preset: Preset

    @property
    def text(self) -> str:
        """The size, for people."""
        return f"{self.tier} ({self.preset})"


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change of the entitled size that is not built. approval_id: of the plan that it waits for, if it needs one."""

    since: Timestamp
    reason: str
    waits_for: str
    tier: str | None = None
    preset: Preset | None = None
    approval_id: str | None = None
