"""What may be asked of a subscription as it stands, and what that is in full."""

from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.billing import AccessState, PlanRef, Subscription
from paybill_contracts.catalogue import Interval, PlanVersion
from paybill_contracts.changes import ChangeKind as Kind
from paybill_contracts.changes import WantedChange
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError

from paybill_billing.catalogue.domain.catalogue import Catalogue, Published, on_sale, published
from paybill_billing.providers.port.desired import DesiredSubscription

MAX_QUANTITY = 1_000_000
"""Seats of one subscription: more is a slip of the finger."""


class UnknownSubscriptionError(NotFoundError):
    code = "unknown_subscription"


class SubscriptionEndedError(ConflictError):
    code = "subscription_ended"


class SubscriptionPendingError(ConflictError):
    """Its first payment is not made yet."""

    code = "subscription_pending"


class SubscriptionSuspendedError(ConflictError):
    """What is owed comes first: a change would be invoiced on top of it."""

    code = "subscription_suspended"


class SubscriptionPausedError(ConflictError):
    """While it is paused nothing is collected, so that a dearer plan would be free."""

    code = "subscription_paused"


class SubscriptionCancelsError(ConflictError):
    code = "subscription_cancels"


class TenantLeavingError(ConflictError):
    code = "tenant_leaving"


class NotPausedError(ConflictError):
    code = "not_paused"


class NothingToReactivateError(ConflictError):
    """Neither a cancellation nor a change waits for the end of the period."""

    code = "nothing_to_reactivate"


class NothingToChangeError(ConflictError):
    """It is so already."""

    code = "nothing_to_change"


class NoPeriodError(ConflictError):
    """There is no end of a period to wait for."""

    code = "no_period"


class OnlyNowError(DomainError):
    """Pausing, resuming and reactivating do not wait for the end of the period."""

    code = "only_now"


class QuantityOutOfBoundsError(DomainError):
    code = "quantity_out_of_bounds"


class PlanNotOnSaleError(DomainError):
    """The version was published once, and is not sold any more."""

    code = "plan_not_on_sale"


class NoSuchPriceError(DomainError):
    """The plan has no price in the subscription's currency for this interval."""

    code = "no_such_price"


@dataclass(frozen=True, slots=True)
class ChangeIntent:
    """A change as somebody asks for it; None for what stays. version: None for the newest that is on sale."""

    kind: Kind
    at_period_end: bool = False
    plan: str | None = None
    version: int | None = None
    interval: Interval | None = None
    quantity: int | None = None


def resolve(catalogue: Catalogue, subscription: Subscription, intent: ChangeIntent, *, leaving: bool) -> WantedChange:
    """What was asked for, in full. leaving: everything that the tenant has is being cancelled.

    Raises a refusal of this module, or UnknownPlanError.
    """
    if leaving:
        raise TenantLeavingError(f"{subscription.tenant_id} leaves: all that it subscribed to is being cancelled")
    check_allowed(subscription, intent.kind, at_period_end=intent.at_period_end)
    if intent.kind is not Kind.PLAN:
        return WantedChange(
            kind=intent.kind, at_period_end=intent.at_period_end, plan=None, price_index=0, quantity=None
        )
    return _plan_change(catalogue, subscription, intent, _requested_version(catalogue, subscription, intent))


def migrated(catalogue: Catalogue, subscription: Subscription, to: PlanRef, *, at_period_end: bool) -> WantedChange:
    """The same subscription with another published version, on sale or not, at the same interval and quantity.

    Raises a refusal of this module.
    """
    asked = ChangeIntent(Kind.PLAN, at_period_end=at_period_end, plan=to.plan, version=to.version)
    check_allowed(subscription, asked.kind, at_period_end=at_period_end)
    return _plan_change(catalogue, subscription, asked, published(catalogue, to.plan, to.version))


def check_allowed(subscription: Subscription, kind: Kind, *, at_period_end: bool) -> None:
    """Raise the refusal of this module when the subscription, as it stands, cannot be changed so."""
    name, access = subscription.subscription_id, subscription.access
    if access is AccessState.ENDED:
        raise SubscriptionEndedError(f"{name} has ended; the tenant has to subscribe again")
    if access is AccessState.PENDING:
        raise SubscriptionPendingError(f"the first payment of {name} is not made yet; wait for it")
    match kind:
        case Kind.PLAN:
            _has_access(subscription)
            if subscription.cancel_at is not None:
                raise SubscriptionCancelsError(f"{name} is cancelled for {subscription.cancel_at}; reactivate it first")
        case Kind.CANCEL:
            if at_period_end and subscription.cancel_at is not None:
                raise SubscriptionCancelsError(f"{name} is cancelled for {subscription.cancel_at} already")
        case Kind.REACTIVATE:
            if subscription.cancel_at is None and subscription.pending is None:
                raise NothingToReactivateError(f"{name} goes on as it is: nothing waits for the end of its period")
        case Kind.PAUSE:
            _has_access(subscription)
        case Kind.RESUME:
            if access is not AccessState.PAUSED:
                raise NotPausedError(f"{name} is {access}; only what is paused can be resumed")
        case _:
            assert_never(kind)
    if at_period_end and kind in {Kind.REACTIVATE, Kind.PAUSE, Kind.RESUME}:
        raise OnlyNowError(f"{kind} cannot wait for the end of the period; ask for it now")
    if at_period_end and subscription.period_end is None:
        raise NoPeriodError(f"{name} has no period yet; ask for it now")


def desired_at_provider(catalogue: Catalogue, subscription: Subscription, desired: WantedChange) -> DesiredSubscription:
    """The change as the provider is asked for it."""
    pinned = published(catalogue, subscription.plan.plan, subscription.plan.version).plan
    plan = None if desired.plan is None else published(catalogue, desired.plan.plan, desired.plan.version).plan
    return DesiredSubscription(
        kind=desired.kind,
        at_period_end=desired.at_period_end,
        product=catalogue.on_sale.product,
        plan=plan,
        price=None if plan is None else plan.prices[desired.price_index],
        quantity=desired.quantity,
        pinned=pinned,
    )


def interval_of(subscription: Subscription, pinned: PlanVersion) -> Interval:
    """How often it is paid: as the provider shows it, else as the plan has a price like it, else each month."""
    if subscription.interval is not None:
        return subscription.interval
    alike = (price.interval for price in pinned.prices if price.amount == subscription.price)
    return next(alike, Interval.MONTH)


def price_index(plan: PlanVersion, currency: str, interval: Interval) -> int:
    """Which of the plan's prices it is. Raises NoSuchPriceError."""
    for index, price in enumerate(plan.prices):
        if (price.amount.currency, price.interval) == (currency, interval):
            return index
    there = ", ".join(f"{price.amount.currency} by the {price.interval}" for price in plan.prices) or "none"
    raise NoSuchPriceError(
        f"{plan.plan}@{plan.version} has no price in {currency} by the {interval}; its prices are: {there}"
    )


def _requested_version(catalogue: Catalogue, subscription: Subscription, intent: ChangeIntent) -> Published:
    """The version that is asked for: what stays may be older than what is on sale."""
    pinned = subscription.plan
    if intent.plan is None or (intent.plan, intent.version) == (pinned.plan, pinned.version):
        return published(catalogue, pinned.plan, pinned.version)
    if intent.version is None:
        newest = on_sale(catalogue, intent.plan)
        return published(catalogue, newest.plan, newest.version)
    found = published(catalogue, intent.plan, intent.version)
    sold = {(plan.plan, plan.version) for plan in catalogue.on_sale.plans}
    if (intent.plan, intent.version) not in sold:
        raise PlanNotOnSaleError(
            f"{intent.plan}@{intent.version} is not sold any more; leave the version out for the one that is"
        )
    return found


def _plan_change(
    catalogue: Catalogue, subscription: Subscription, intent: ChangeIntent, sold: Published
) -> WantedChange:
    quantity = subscription.quantity if intent.quantity is None else intent.quantity
    if not 1 <= quantity <= MAX_QUANTITY:
        raise QuantityOutOfBoundsError(f"the quantity is from 1 to {MAX_QUANTITY}; for 0, cancel the subscription")
    pinned = published(catalogue, subscription.plan.plan, subscription.plan.version).plan
    before = interval_of(subscription, pinned)
    interval = intent.interval or before
    same_plan = sold.plan == pinned and interval is before
    if same_plan and quantity == subscription.quantity:
        raise NothingToChangeError(
            f"{subscription.subscription_id} has {pinned.plan}@{pinned.version} by the {before}, quantity {quantity}, "
            "already"
        )
    plan = PlanRef(plan=sold.plan.plan, version=sold.plan.version, catalogue_hash=sold.catalogue_hash)
    return WantedChange(
        kind=Kind.PLAN,
        at_period_end=intent.at_period_end,
        plan=None if same_plan else plan,
        price_index=0 if same_plan else price_index(sold.plan, subscription.price.currency, interval),
        quantity=None if quantity == subscription.quantity else quantity,
    )


def _has_access(subscription: Subscription) -> None:
    name = subscription.subscription_id
    if subscription.access is AccessState.SUSPENDED:
        raise SubscriptionSuspendedError(f"{name} is suspended; have what is owed paid first")
    if subscription.access is AccessState.PAUSED:
        raise SubscriptionPausedError(f"{name} is paused; resume it first")
