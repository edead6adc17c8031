"""Desired state of a subscription, as providers get it, and the reasons why they do not bring it about."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from paybill_contracts.catalogue import OveragePrice, PlanVersion, Price
from paybill_contracts.changes import ChangeKind, Proration


class ChangeRefusedError(Exception):
    """Raised when the current state of the subscription at the provider does not allow a change. code: our API's."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class QuoteOutdatedError(Exception):
    """Raised when a confirmed change would not cost what was confirmed. current: its cost now."""

    def __init__(self, current: Proration) -> None:
        super().__init__("the change would not cost what was confirmed")
        self.current = current


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
    confirmed: the quote that was confirmed, None before that: the change is made only if it still costs that.
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
    confirmed: Proration | None = None


def costs_as_confirmed(desired: DesiredSubscription, confirmed: Proration, current: Proration) -> bool:
    """Returns whether a change costs and drops what was confirmed; only usage may have been added since.

    What goes unpaid was named in the confirmed quote, or the change would credit it. Scheduled phases that are gone
    were dropped by an earlier attempt, and the phase at the effective time is its own.
    """
    if current.unpaid is not None:
        return False
    new = [each for each in current.dropped if each not in confirmed.dropped]
    if any(each.starts_at != current.effective_at for each in new):
        return False
    is_of_period = desired.at_period_end or desired.kind is ChangeKind.PLAN
    if is_of_period and current.effective_at != confirmed.effective_at:
        return False
    before, now = _usage(confirmed), _usage(current)
    due = current.due_now.minor - confirmed.due_now.minor
    return (
        _total(current) - now == _total(confirmed) - before
        and min(0, now - before) <= due <= max(0, now - before)
        and current.next_amount == confirmed.next_amount
    )


def _usage(proration: Proration) -> int:
    return proration.usage.minor if proration.usage is not None else 0


def _total(proration: Proration) -> int:
    return sum(line.amount.minor for line in proration.lines)
