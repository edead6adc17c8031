"""Desired state of a subscription, as providers get it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from paybill_contracts.catalogue import OveragePrice, PlanVersion, Price
from paybill_contracts.changes import ChangeKind


@dataclass(frozen=True, slots=True)
class MeteredPrice:
    """An overage price that is sold with a plan's price. meter: the provider's name for its meter."""

    price: OveragePrice
    meter: str


@dataclass(frozen=True, slots=True)
class DesiredSubscription:
    """Desired state of a subscription. plan, price, quantity: None when they stay the same.

    at_period_end: True for a change at the end of the paid period. pinned: the current plan version, which identifies
    the item of the plan among other items. without_proration: nothing is credited or charged for the current period.
    metered: the overage prices of `price`, which replace those of the pinned plan; they have no quantity and are not
    prorated. unreported: for a quote, the units that are reported before the change is made, by the provider's meter.
    """

    kind: ChangeKind
    at_period_end: bool
    product: str
    plan: PlanVersion | None = None
    price: Price | None = None
    quantity: int | None = None
    pinned: PlanVersion | None = None
    without_proration: bool = False
    metered: tuple[MeteredPrice, ...] = ()
    unreported: Mapping[str, int] = field(default_factory=dict)
