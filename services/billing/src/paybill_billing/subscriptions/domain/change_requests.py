"""Validation of requested subscription changes, and their resolution to plan, price and quantity."""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import Interval, PlanRef, PlanVersion
from paybill_contracts.changes import ChangeKind as Kind
from paybill_contracts.changes import WantedChange
from paybill_contracts.charges import STRIPE, excess
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError

from paybill_billing.catalogue.domain.catalogue import (
    Catalogue,
    PlanNotOnSaleError,
    Published,
    metered_prices,
    on_sale,
    published,
)
from paybill_billing.providers.port.desired import DesiredSubscription

_UNPAID = frozenset({"past_due", "unpaid"})
MAX_QUANTITY = 1_000_000
"""The largest quantity of one subscription; a larger one is a typing error."""


class UnknownSubscriptionError(NotFoundError):
    code = "unknown_subscription"


class SubscriptionEndedError(ConflictError):
    code = "subscription_ended"


class SubscriptionPendingError(ConflictError):
    """Raised while the first payment is outstanding."""

    code = "subscription_pending"


class SubscriptionSuspendedError(ConflictError):
    """Raised while invoices are unpaid: a change would be invoiced in addition to them."""

    code = "subscription_suspended"


class SubscriptionOverdueError(ConflictError):
    """Raised while the invoice of the period is unpaid: a credit would be for money that was never paid."""

    code = "subscription_overdue"


class PeriodUnpaidError(ConflictError):
    """Raised when the period that a change would credit was not paid: its invoice is void, a draft, or of nothing."""

    code = "period_unpaid"


class SubscriptionPausedError(ConflictError):
    """Raised while collection is paused: a more expensive plan would be free."""

    code = "subscription_paused"


class SubscriptionCancelsError(ConflictError):
    code = "subscription_cancels"


class TenantLeavingError(ConflictError):
    code = "tenant_leaving"


class NotPausedError(ConflictError):
    code = "not_paused"


class NothingToReactivateError(ConflictError):
    """Raised when neither a cancellation nor a change is scheduled for the end of the period."""

    code = "nothing_to_reactivate"


class NothingToChangeError(ConflictError):
    """Raised when the subscription already has the requested plan, interval and quantity."""

    code = "nothing_to_change"


class NoPeriodError(ConflictError):
    """Raised when a change is requested for the end of a period and there is no current period."""

    code = "no_period"


class OnlyNowError(DomainError):
    """Raised when pausing, resuming or reactivating is requested for the end of the period."""

    code = "only_now"


class QuantityOutOfBoundsError(DomainError):
    code = "quantity_out_of_bounds"


class NoSuchPriceError(DomainError):
    """Raised when the plan has no price in the subscription's currency for the interval."""

    code = "no_such_price"


@dataclass(frozen=True, slots=True)
class ChangeIntent:
    """A change as requested; None for a part that stays the same. version: None for the newest one on sale.

    drop_scheduled: the phases that were scheduled at the provider may be dropped.
    """

    kind: Kind
    at_period_end: bool = False
    plan: str | None = None
    version: int | None = None
    interval: Interval | None = None
    quantity: int | None = None
    drop_scheduled: bool = False


class WhileOverdue(StrEnum):
    """Policy for a change of plan or quantity while the invoice of the period is unpaid."""

    REFUSED = "refused"
    WITHOUT_PRORATION = "without_proration"


def resolve(
    catalogue: Catalogue,
    subscription: Subscription,
    intent: ChangeIntent,
    *,
    leaving: bool,
    while_overdue: WhileOverdue = WhileOverdue.REFUSED,
) -> WantedChange:
    """Returns the complete change. leaving: the tenant is offboarding, and all its subscriptions are being cancelled.

    Raises a refusal of this module, or UnknownPlanError.
    """
    if leaving:
        raise TenantLeavingError(f"{subscription.tenant_id} is leaving: all its subscriptions are being cancelled")
    without_proration = while_overdue is WhileOverdue.WITHOUT_PRORATION and is_overdue(subscription)
    check_allowed(subscription, intent.kind, at_period_end=intent.at_period_end, without_proration=without_proration)
    if intent.kind is not Kind.PLAN:
        return WantedChange(
            kind=intent.kind,
            at_period_end=intent.at_period_end,
            plan=None,
            price_index=0,
            quantity=None,
            drop_scheduled=intent.drop_scheduled,
        )
    change = _plan_change(catalogue, subscription, intent, _requested_version(catalogue, subscription, intent))
    if while_overdue is WhileOverdue.REFUSED or intent.at_period_end:
        return change
    if not without_proration:
        is_cheaper = not _costs_more(catalogue, subscription, change)
        return change.model_copy(update={"unpaid_without_proration": is_cheaper})
    if _costs_more(catalogue, subscription, change):
        raise SubscriptionOverdueError(
            f"the invoice of {subscription.subscription_id} is overdue: what is added would not be charged, and could "
            "be credited later; it has to be paid first, or request the change for the end of the period"
        )
    return change.model_copy(update={"without_proration": True})


def _costs_more(catalogue: Catalogue, subscription: Subscription, change: WantedChange) -> bool:
    """Returns whether the period would have cost more with the change, or has another length."""
    price, quantity = subscription.price.minor, change.quantity or subscription.quantity
    if change.plan is not None:
        pinned = published(catalogue, subscription.plan.plan, subscription.plan.version).plan
        new = published(catalogue, change.plan.plan, change.plan.version).plan.prices[change.price_index]
        if new.interval is not interval_of(subscription, pinned):
            return True
        price = new.amount.minor
    return price * quantity > subscription.price.minor * subscription.quantity


def resolve_migration(
    catalogue: Catalogue, subscription: Subscription, to: PlanRef, *, at_period_end: bool
) -> WantedChange:
    """Returns the change to another published version, on sale or retired, with the same interval and quantity.

    Raises a refusal of this module.
    """
    asked = ChangeIntent(Kind.PLAN, at_period_end=at_period_end, plan=to.plan, version=to.version)
    check_allowed(subscription, asked.kind, at_period_end=at_period_end)
    return _plan_change(catalogue, subscription, asked, published(catalogue, to.plan, to.version))


def is_overdue(subscription: Subscription) -> bool:
    """Returns True while the invoice of the period is unpaid and access continues in the grace period."""
    return subscription.access is AccessState.GRACE and subscription.provider_status in _UNPAID


def _why_overdue(subscription: Subscription) -> str:
    """Returns what has to happen first. Nothing is owed when the invoice that failed was voided at the provider."""
    name = subscription.subscription_id
    if subscription.overdue is not None:
        return f"the invoice of {name} is overdue ({subscription.overdue.text}): it has to be paid first"
    return (
        f"{name} is {subscription.provider_status} at the provider, and nothing is owed: the invoice of the period was "
        "voided or is not collected, so that the period is not paid and gives no credit"
    )


def check_allowed(
    subscription: Subscription, kind: Kind, *, at_period_end: bool, without_proration: bool = False
) -> None:
    """Raises a refusal of this module when the current state of the subscription does not allow the change."""
    name, access = subscription.subscription_id, subscription.access
    if access is AccessState.ENDED:
        raise SubscriptionEndedError(f"{name} has ended; the tenant has to subscribe again")
    if access is AccessState.PENDING:
        raise SubscriptionPendingError(f"the first payment of {name} is outstanding; wait for it")
    match kind:
        case Kind.PLAN:
            _has_access(subscription)
            if is_overdue(subscription) and not (at_period_end or without_proration):
                raise SubscriptionOverdueError(
                    f"{_why_overdue(subscription)}; or request the change for the end of the period"
                )
            if subscription.cancel_at is not None:
                raise SubscriptionCancelsError(
                    f"{name} is to be cancelled at {subscription.cancel_at}; reactivate it first"
                )
        case Kind.CANCEL:
            if at_period_end and subscription.cancel_at is not None:
                raise SubscriptionCancelsError(f"{name} is already to be cancelled at {subscription.cancel_at}")
        case Kind.REACTIVATE:
            if subscription.cancel_at is None and subscription.pending is None:
                raise NothingToReactivateError(
                    f"{name} renews unchanged: nothing is scheduled for the end of its period"
                )
        case Kind.PAUSE:
            _has_access(subscription)
        case Kind.RESUME:
            if access is not AccessState.PAUSED and subscription.pause is None:
                raise NotPausedError(f"{name} is {access}; only a paused subscription can be resumed")
        case _:
            assert_never(kind)
    if at_period_end and kind in {Kind.REACTIVATE, Kind.PAUSE, Kind.RESUME}:
        raise OnlyNowError(f"{kind} cannot be scheduled for the end of the period; request it for now")
    if at_period_end and subscription.period_end is None:
        raise NoPeriodError(f"{name} has no period yet; request the change for now")


def desired_at_provider(catalogue: Catalogue, subscription: Subscription, desired: WantedChange) -> DesiredSubscription:
    """Returns the change as the port of billing providers expects it."""
    pinned = published(catalogue, subscription.plan.plan, subscription.plan.version).plan
    plan = None if desired.plan is None else published(catalogue, desired.plan.plan, desired.plan.version).plan
    price = None if plan is None else plan.prices[desired.price_index]
    return DesiredSubscription(
        kind=desired.kind,
        at_period_end=desired.at_period_end,
        product=catalogue.on_sale.product,
        plan=plan,
        price=price,
        quantity=desired.quantity,
        pinned=pinned,
        without_proration=desired.without_proration,
        metered=() if plan is None else metered_prices(catalogue, plan, price, subscription.provider),
    )


def interval_of(subscription: Subscription, pinned: PlanVersion) -> Interval:
    """Returns the billing interval: the provider's, else that of a plan price with the same amount, else a month."""
    if subscription.interval is not None:
        return subscription.interval
    intervals = (price.interval for price in pinned.prices if price.amount == subscription.price)
    return next(intervals, Interval.MONTH)


def price_index(plan: PlanVersion, currency: str, interval: Interval) -> int:
    """Returns the index of the plan's price. Raises NoSuchPriceError."""
    for index, price in enumerate(plan.prices):
        if (price.amount.currency, price.interval) == (currency, interval):
            return index
    prices = ", ".join(f"{price.amount.currency} per {price.interval}" for price in plan.prices) or "none"
    raise NoSuchPriceError(
        f"{plan.plan}@{plan.version} has no price in {currency} per {interval}; its prices: {prices}"
    )


def _requested_version(catalogue: Catalogue, subscription: Subscription, intent: ChangeIntent) -> Published:
    """Returns the requested version; a subscription may keep a version that is retired."""
    pinned = subscription.plan
    if intent.plan is None or (intent.plan, intent.version) == (pinned.plan, pinned.version):
        return published(catalogue, pinned.plan, pinned.version)
    if intent.version is None:
        newest = on_sale(catalogue, intent.plan)
        return published(catalogue, newest.plan, newest.version)
    found = published(catalogue, intent.plan, intent.version)
    sold = {(plan.plan, plan.version) for plan in catalogue.on_sale.plans}
    if (intent.plan, intent.version) not in sold:
        raise PlanNotOnSaleError(f"{intent.plan}@{intent.version} is retired; omit the version to get the one on sale")
    return found


def _plan_change(
    catalogue: Catalogue, subscription: Subscription, intent: ChangeIntent, sold: Published
) -> WantedChange:
    quantity = subscription.quantity if intent.quantity is None else intent.quantity
    if not 1 <= quantity <= MAX_QUANTITY:
        raise QuantityOutOfBoundsError(
            f"the quantity must be from 1 to {MAX_QUANTITY}; to have 0, cancel the subscription"
        )
    pinned = published(catalogue, subscription.plan.plan, subscription.plan.version).plan
    before = interval_of(subscription, pinned)
    interval = intent.interval or before
    same_plan = sold.plan == pinned and interval is before
    if same_plan and quantity == subscription.quantity:
        raise NothingToChangeError(
            f"{subscription.subscription_id} already has {pinned.plan}@{pinned.version} per {before},"
            f" quantity {quantity}"
        )
    plan = PlanRef(plan=sold.plan.plan, version=sold.plan.version, catalogue_hash=sold.catalogue_hash)
    index = 0 if same_plan else price_index(sold.plan, subscription.price.currency, interval)
    amount = subscription.price if same_plan else sold.plan.prices[index].amount
    reason = excess(amount, quantity) if subscription.provider == STRIPE else None
    if reason is not None:
        raise QuantityOutOfBoundsError(f"{reason}; choose fewer of {sold.plan.plan}")
    return WantedChange(
        kind=Kind.PLAN,
        at_period_end=intent.at_period_end,
        plan=None if same_plan else plan,
        price_index=index,
        quantity=None if quantity == subscription.quantity else quantity,
        drop_scheduled=intent.drop_scheduled,
    )


def _has_access(subscription: Subscription) -> None:
    name = subscription.subscription_id
    if subscription.access is AccessState.SUSPENDED:
        raise SubscriptionSuspendedError(f"{name} is suspended; pay its open invoices first")
    if subscription.access is AccessState.PAUSED or subscription.pause is not None:
        raise SubscriptionPausedError(f"{name} is paused; resume it first")
