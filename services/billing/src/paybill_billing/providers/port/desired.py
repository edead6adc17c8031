"""Desired state of a subscription, as providers get it."""

from dataclasses import dataclass

from paybill_contracts.catalogue import PlanVersion, Price
from paybill_contracts.changes import ChangeKind


@dataclass(frozen=True, slots=True)
class DesiredSubscription:
    """Desired state of a subscription. plan, price, quantity: None when they stay the same.

    at_period_end: True for a change at the end of the paid period. pinned: the current plan version, which identifies
    the item of the plan among other items. without_proration: nothing is credited or charged for the current period.
    """

    kind: ChangeKind
    at_period_end: bool
    product: str
    plan: PlanVersion | None = None
    price: Price | None = None
    quantity: int | None = None
    pinned: PlanVersion | None = None
    without_proration: bool = False
