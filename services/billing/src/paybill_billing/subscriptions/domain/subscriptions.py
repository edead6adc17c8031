"""Subscriptions: what the provider shows, told as facts, and what each state means for access."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypeVar, assert_never

from paybill_contracts.billing import (
    AccessState,
    PendingChange,
    Subscription,
    SubscriptionActivated,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionFact,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionRegistered,
    SubscriptionSuspended,
)
from paybill_contracts.catalogue import PlanRef, PlanVersion
from paybill_contracts.errors import DomainError

from paybill_billing.catalogue.domain.catalogue import Catalogue, Published, UnknownPriceError, published, sold_at
from paybill_billing.providers.port.snapshots import ProviderSnapshot, SnapshotItem
from paybill_billing.subscriptions.domain import expiry
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.domain.entitling import entitling_subscriptions, fallback_subscription

SubscriptionEvent = (
    SubscriptionRegistered
    | SubscriptionActivated
    | SubscriptionChanged
    | SubscriptionGraceStarted
    | SubscriptionSuspended
    | SubscriptionPaused
    | SubscriptionRecovered
    | SubscriptionEnded
)

F = TypeVar("F", bound=SubscriptionFact)

_FAILING = frozenset({"past_due", "unpaid"})


class UnknownStatusError(DomainError):
    """The provider uses a word that we have no meaning for; guessing would lock somebody out or let somebody in."""

    code = "unknown_provider_status"


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A subscription as it is. due: when time alone changes what it gives. look: when we ask although all is silent."""

    id: str
    subscription: Subscription
    due: datetime | None = None
    look: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sold:
    """What a subscription pins. item: the one of its items that sells the plan."""

    plan: PlanVersion
    catalogue_hash: str
    item: SnapshotItem
    pending: PendingChange | None = None


@dataclass(frozen=True, slots=True)
class FailedCollection:
    """The provider said at `at` that it could not collect `invoice`."""

    invoice: str
    at: datetime


def subscription_id(provider: str, provider_subscription: str) -> str:
    """Our id, derived, so that whoever sees the provider's object first gives it the same one."""
    return "sub_" + sha256(f"{provider}/{provider_subscription}".encode()).hexdigest()[:32]


def sold(catalogue: Catalogue, account: Account, state: SubscriptionState | None, seen: ProviderSnapshot) -> Sold:
    """The plan version that a subscription of this account pins: that of the first item whose price sells one.

    Prices that sell no plan of ours were made for this customer alone: then the subscription keeps the plan it has,
    or, when we wrote the tenant on it at checkout, gets the one that the account was opened for. Raises
    UnknownPriceError when it is none of ours.
    """
    try:
        found, item = first_sold(catalogue, account.provider, seen.items)
    except UnknownPriceError:
        item = seen.items[0]
        if state is not None:
            pinned = state.subscription.plan
            found = published(catalogue, pinned.plan, pinned.version)
        elif seen.tenant == account.id:
            found = published(catalogue, account.plan, account.plan_version)
        else:
            raise
    return Sold(found.plan, found.catalogue_hash, item, _pending(catalogue, account.provider, seen, found, item))


def sync(
    state: SubscriptionState | None,
    seen: ProviderSnapshot,
    *,
    tenant_id: str,
    provider: str,
    sold: Sold,
    failures: Iterable[FailedCollection],
    now: datetime,
    adopted: bool = False,
    others: Iterable[Subscription] = (),
) -> list[SubscriptionEvent]:
    """Tell what changed between what we knew and what the provider shows.

    The provider's state decides, never the order of its messages. adopted: it is of a customer that was there before
    us; what had ended when we first looked is its past. others: what else the tenant has. Raises UnknownStatusError.
    """
    before = state.subscription if state is not None else None
    paid_until = _paid_until(before, seen, sold.item)
    grace_until = _grace_until(before, seen, sold.plan.grace_s, paid_until, failures, now)
    after = Subscription(
        subscription_id=subscription_id(provider, seen.id),
        tenant_id=tenant_id,
        provider=provider,
        provider_subscription=seen.id,
        provider_status=seen.status,
        access=_access(before, seen, grace_until, now),
        plan=_pinned(before, sold),
        quantity=sold.item.quantity,
        price=sold.item.amount,
        period_start=seen.period_start,
        period_end=seen.period_end,
        cancel_at=seen.cancel_at,
        grace_until=grace_until,
        trial_end=seen.trial_end,
        paid_until=paid_until,
        interval=sold.item.interval,
        pending=sold.pending,
        grace_s=sold.plan.grace_s,
    )
    if expiry.is_past_end(after, now):
        after = after.model_copy(update={"past_end": True})
    if adopted and before is None and after.access is AccessState.ENDED:
        return []
    return [] if after == before else _transition(before, after, sold.plan.retention_s, list(others))


def on_time(
    state: SubscriptionState, now: datetime, others: Iterable[SubscriptionState] = ()
) -> list[SubscriptionEvent]:
    """Something is over although the provider is silent: grace, trial, a period, or all that was agreed."""
    lapsed = expiry.expired(state.subscription, now)
    if lapsed is None:
        return []
    if lapsed.access is AccessState.GRACE:
        return [_fact(SubscriptionGraceStarted, lapsed)]
    return [_fact(SubscriptionSuspended, lapsed, instead=fallback_subscription(other.subscription for other in others))]


def evolve(_state: SubscriptionState | None, event: SubscriptionEvent) -> SubscriptionState:
    """The subscription after `event`. Every fact holds the whole of it, so any may come first."""
    match event:
        case (
            SubscriptionRegistered()
            | SubscriptionActivated()
            | SubscriptionChanged()
            | SubscriptionGraceStarted()
            | SubscriptionSuspended()
            | SubscriptionPaused()
            | SubscriptionRecovered()
            | SubscriptionEnded()
        ):
            after = event.subscription
            return SubscriptionState(
                id=after.subscription_id,
                subscription=after,
                due=expiry.next_transition(after),
                look=expiry.next_sync(after),
            )
        case _:
            assert_never(event)


def first_sold(catalogue: Catalogue, provider: str, items: tuple[SnapshotItem, ...]) -> tuple[Published, SnapshotItem]:
    """The plan that these items buy, and the one that does. Raises UnknownPriceError."""
    for item in items:
        with suppress(UnknownPriceError):
            return sold_at(catalogue, provider, item.price), item
    ids = ", ".join(item.price.id for item in items)
    raise UnknownPriceError(
        f"no price of {ids} at {provider} sells a plan of the catalogue; add one to provider_prices"
    )


def _pending(
    catalogue: Catalogue, provider: str, seen: ProviderSnapshot, now: Published, item: SnapshotItem
) -> PendingChange | None:
    """What it will become; None when that is what it is, or when we sell none of it."""
    if seen.pending is None:
        return None
    try:
        found, then = first_sold(catalogue, provider, seen.pending.items)
    except UnknownPriceError:
        return None
    if (found.plan, then.quantity, then.interval or item.interval) == (now.plan, item.quantity, item.interval):
        return None
    return PendingChange(
        plan=found.plan.plan,
        version=found.plan.version,
        quantity=then.quantity,
        at=seen.pending.at,
        interval=then.interval,
    )


def _access(
    before: Subscription | None, seen: ProviderSnapshot, grace_until: datetime | None, now: datetime
) -> AccessState:
    match seen.status:
        case "canceled" | "incomplete_expired":
            return AccessState.ENDED
        case "incomplete":
            return AccessState.PENDING
        case "past_due" | "unpaid":
            # Grace is given once: who was shut out gets in again by paying, not by another attempt to collect.
            over = _was_shut_out(before) or grace_until is None or now >= grace_until
            return AccessState.SUSPENDED if over else AccessState.GRACE
        case "paused":
            return AccessState.PAUSED
        case "active" | "trialing" if seen.collection_paused:
            return AccessState.PAUSED
        case "active":
            return AccessState.ACTIVE
        case "trialing":
            return AccessState.TRIALING
        case _:
            raise UnknownStatusError(f"the provider calls {seen.id} {seen.status!r:.60}, which has no meaning here yet")


def _was_failing(before: Subscription | None) -> bool:
    """Whether the provider said before that collecting failed. What time alone took away in its silence is no grace."""
    return before is not None and before.provider_status in _FAILING


def _was_shut_out(before: Subscription | None) -> bool:
    return before is not None and _was_failing(before) and before.access is AccessState.SUSPENDED


def _paid_until(before: Subscription | None, seen: ProviderSnapshot, item: SnapshotItem) -> datetime | None:
    """The end of the newest period that was paid, also while a later invoice is open.

    An open invoice for something within a period does not prove that the period was paid: what we knew of it counts.
    One for a period at another price does not take away what was paid at the old one.
    """
    known, shown = before.paid_until if before is not None else None, seen.paid_until
    if before is None or known is None or shown is None or seen.status not in _FAILING:
        return shown
    if shown == seen.period_end:
        return min(known, shown) if before.period_start == seen.period_start else shown
    is_same_price = (before.price, before.interval) == (item.amount, item.interval)
    return shown if is_same_price else max(known, shown)


def _grace_until(
    before: Subscription | None,
    seen: ProviderSnapshot,
    grace_s: int,
    paid_until: datetime | None,
    failures: Iterable[FailedCollection],
    now: datetime,
) -> datetime | None:
    """First failure plus the plan's grace, and no end before what was paid is over.

    The first failure is the earliest that we know of, in whatever order we heard; one that the provider dates after our
    own clock counts as now. When the provider gave up collecting, only what was paid is left.
    """
    if seen.status not in _FAILING:
        return None
    if paid_until is not None and seen.period_start is not None and paid_until <= seen.period_start:
        # What was paid was over when the period began that was not.
        paid_until = None
    if seen.status == "unpaid":
        return paid_until if paid_until is not None and now < paid_until else None
    known = before.grace_until if before is not None and _was_failing(before) else None
    if _was_shut_out(before):
        return known
    shown = [seen.failed_at] if seen.failed_at is not None else []
    heard = [failure.at for failure in failures if failure.invoice == seen.invoice]
    until = min([now, *shown, *heard]) + timedelta(seconds=grace_s)
    until = until if known is None else min(until, known)
    return until if paid_until is None else max(until, paid_until)


def _pinned(before: Subscription | None, sold: Sold) -> PlanRef:
    """The plan version, under the catalogue that it was first pinned from."""
    if before is not None and (before.plan.plan, before.plan.version) == (sold.plan.plan, sold.plan.version):
        return before.plan
    return PlanRef(plan=sold.plan.plan, version=sold.plan.version, catalogue_hash=sold.catalogue_hash)


def _transition(
    before: Subscription | None, after: Subscription, retention_s: int, others: list[Subscription]
) -> list[SubscriptionEvent]:
    """The fact that says what happened between two snapshots."""
    was = before.access if before is not None else None
    if was is after.access:
        return [_fact(SubscriptionChanged, after)]
    match after.access:
        case AccessState.PENDING:
            return [_fact(SubscriptionRegistered, after)]
        case AccessState.TRIALING | AccessState.ACTIVE:
            match was:
                case None | AccessState.PENDING | AccessState.ENDED:
                    return [_fact(SubscriptionActivated, after)]
                case AccessState.GRACE | AccessState.SUSPENDED | AccessState.PAUSED:
                    return [_fact(SubscriptionRecovered, after)]
                case AccessState.TRIALING | AccessState.ACTIVE:
                    return [_fact(SubscriptionChanged, after)]
                case _:
                    assert_never(was)
        case AccessState.GRACE:
            return [_fact(SubscriptionGraceStarted, after)]
        case AccessState.SUSPENDED:
            return [_fact(SubscriptionSuspended, after, instead=fallback_subscription(others))]
        case AccessState.PAUSED:
            return [_fact(SubscriptionPaused, after, instead=fallback_subscription(others))]
        case AccessState.ENDED:
            if after.provider_status == "incomplete_expired":
                # An abandoned first payment: nothing was ever given, so nothing ends and nobody is sent away.
                return [] if before is None else [_fact(SubscriptionChanged, after)]
            return [
                SubscriptionEnded(
                    tenant_id=after.tenant_id,
                    subscription_id=after.subscription_id,
                    subscription=after,
                    retention_s=retention_s,
                    others=len(entitling_subscriptions(others)),
                )
            ]
        case _:
            assert_never(after.access)


def _fact(kind: type[F], subscription: Subscription, **more: Any) -> F:
    return kind(
        tenant_id=subscription.tenant_id,
        subscription_id=subscription.subscription_id,
        subscription=subscription,
        **more,
    )
