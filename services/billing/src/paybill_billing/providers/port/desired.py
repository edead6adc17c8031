"""What a subscription is to become, as every provider is asked for it."""

from dataclasses import dataclass

from paybill_contracts.catalogue import PlanVersion, Price
from paybill_contracts.changes import ChangeKind


@dataclass(frozen=True, slots=True)
class DesiredSubscription:
    """What a subscription is to become. plan, price, quantity: None when they stay as they are.

    at_period_end: not now, but when what is paid for is over. pinned: what it is of now, which tells the plan from what
    else a subscription may consist of.
    """

    kind: ChangeKind
    at_period_end: bool
    product: str
    plan: PlanVersion | None = None
    price: Price | None = None
    quantity: int | None = None
    pinned: PlanVersion | None = None
