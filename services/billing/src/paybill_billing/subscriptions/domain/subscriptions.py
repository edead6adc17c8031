"""Derives subscription events and access from provider snapshots."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, TypeVar, assert_never

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
from pydantic import Field

from paybill_billing.catalogue.domain.catalogue import Catalogue, Published, UnknownPriceError, plan_of_price, published
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
    """Raised for an unknown provider status; a guess could grant access or take it away wrongly."""

    code = "unknown_provider_status"


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """The current subscription.

    due: the next transition by time alone. next_sync: the next sync without a message from the provider.
    """

    id: str
    subscription: Subscription
    due: datetime | None = None
    next_sync: Annotated[datetime | None, Field(alias="look")] = None


@dataclass(frozen=True, slots=True)
class PinnedPlan:
    """The plan version that a subscription pins. item: the item that has the plan's price."""

    plan: PlanVersion
    catalogue_hash: str
    item: SnapshotItem
    pending: PendingChange | None = None


@dataclass(frozen=True, slots=True)
class FailedCollection:
    """The provider could not collect `invoice` at `at`."""

    invoice: str
    at: datetime


def subscription_id(provider: str, provider_subscription: str) -> str:
    """Returns our id, derived from the provider's, so that every process computes the same one."""
    return "sub_" + sha256(f"{provider}/{provider_subscription}".encode()).hexdigest()[:32]


def pinned_plan(
    catalogue: Catalogue, account: Account, state: SubscriptionState | None, snapshot: ProviderSnapshot
) -> PinnedPlan:
    """Returns the plan version that a subscription of this account pins: that of the first item with a plan's price.

    Prices that belong to no plan were made for this customer alone: then the subscription keeps its plan, or, when its
    metadata from our checkout names the tenant, gets the plan that the account was opened for. Raises
    UnknownPriceError when none of this applies.
    """
    try:
        found, item = first_plan_item(catalogue, account.provider, snapshot.items)
    except UnknownPriceError:
        item = snapshot.items[0]
        if state is not None:
            pinned = state.subscription.plan
            found = published(catalogue, pinned.plan, pinned.version)
        elif snapshot.tenant == account.id:
            found = published(catalogue, account.plan, account.plan_version)
        else:
            raise
    return PinnedPlan(
        found.plan, found.catalogue_hash, item, _pending(catalogue, account.provider, snapshot, found, item)
    )


def sync(
    state: SubscriptionState | None,
    snapshot: ProviderSnapshot,
    *,
    tenant_id: str,
    provider: str,
    pinned: PinnedPlan,
    failures: Iterable[FailedCollection],
    now: datetime,
    adopted: bool = False,
    others: Iterable[Subscription] = (),
) -> list[SubscriptionEvent]:
    """Returns the event for the difference between the current state and the provider's snapshot.

    The snapshot decides, never the order of messages. adopted: the customer existed at the provider before its tenant;
    subscriptions that had ended before the first sync are ignored. others: the tenant's other subscriptions. Raises
    UnknownStatusError.
    """
    before = state.subscription if state is not None else None
    paid_until = _paid_until(before, snapshot, pinned.item)
    grace_until = _grace_until(before, snapshot, pinned.plan.grace_s, paid_until, failures, now)
    after = Subscription(
        subscription_id=subscription_id(provider, snapshot.id),
        tenant_id=tenant_id,
        provider=provider,
        provider_subscription=snapshot.id,
        provider_status=snapshot.status,
        access=_access(before, snapshot, pinned.plan, grace_until, now),
        plan=_plan_ref(before, pinned),
        quantity=pinned.item.quantity,
        price=pinned.item.amount,
        period_start=snapshot.period_start,
        period_end=snapshot.period_end,
        cancel_at=snapshot.cancel_at,
        grace_until=grace_until,
        trial_end=snapshot.trial_end,
        paid_until=paid_until,
        interval=pinned.item.interval,
        pending=pinned.pending,
        grace_s=pinned.plan.grace_s,
        overdue=snapshot.overdue,
        pause=snapshot.pause if snapshot.collection_paused else None,
    )
    if expiry.is_past_end(after, now):
        after = after.model_copy(update={"past_end": True})
    if adopted and before is None and after.access is AccessState.ENDED:
        return []
    return [] if after == before else _transition(before, after, pinned.plan.retention_s, list(others))


def on_time(
    state: SubscriptionState, now: datetime, others: Iterable[SubscriptionState] = ()
) -> list[SubscriptionEvent]:
    """Ends a grace period, trial, period or subscription by time alone, without a message from the provider."""
    after = expiry.expire(state.subscription, now)
    if after is None:
        return []
    if after.access is AccessState.GRACE:
        return [_fact(SubscriptionGraceStarted, after)]
    return [_fact(SubscriptionSuspended, after, instead=fallback_subscription(other.subscription for other in others))]


def evolve(_state: SubscriptionState | None, event: SubscriptionEvent) -> SubscriptionState:
    """Returns the state after `event`. Every event contains the whole subscription, so any may come first."""
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
                next_sync=expiry.next_sync(after),
            )
        case _:
            assert_never(event)


def first_plan_item(
    catalogue: Catalogue, provider: str, items: tuple[SnapshotItem, ...]
) -> tuple[Published, SnapshotItem]:
    """Returns the first plan that has one of the items' prices, with that item. Raises UnknownPriceError."""
    for item in items:
        with suppress(UnknownPriceError):
            return plan_of_price(catalogue, provider, item.price), item
    ids = ", ".join(item.price.id for item in items)
    raise UnknownPriceError(
        f"no price of {ids} at {provider} belongs to a plan of the catalogue; add one to provider_prices"
    )


def _pending(
    catalogue: Catalogue, provider: str, snapshot: ProviderSnapshot, now: Published, item: SnapshotItem
) -> PendingChange | None:
    """Returns the scheduled change; None when it changes nothing, or when its prices belong to no plan."""
    if snapshot.pending is None:
        return None
    try:
        found, then = first_plan_item(catalogue, provider, snapshot.pending.items)
    except UnknownPriceError:
        return None
    if (found.plan, then.quantity, then.interval or item.interval) == (now.plan, item.quantity, item.interval):
        return None
    return PendingChange(
        plan=found.plan.plan,
        version=found.plan.version,
        quantity=then.quantity,
        at=snapshot.pending.at,
        interval=then.interval,
    )


def _access(
    before: Subscription | None,
    snapshot: ProviderSnapshot,
    plan: PlanVersion,
    grace_until: datetime | None,
    now: datetime,
) -> AccessState:
    match snapshot.status:
        case "canceled" | "incomplete_expired":
            return AccessState.ENDED
        case "incomplete":
            return AccessState.PENDING
        case "past_due" | "unpaid":
            # There is one grace period: after a suspension only a payment restores access, not another attempt.
            is_over = _was_suspended(before) or grace_until is None or now >= grace_until
            return AccessState.SUSPENDED if is_over else AccessState.GRACE
        case "paused":
            return AccessState.PAUSED
        case "active" | "trialing" if snapshot.collection_paused and snapshot.pause not in plan.access_while_paused:
            return AccessState.PAUSED
        case "active":
            return AccessState.ACTIVE
        case "trialing":
            return AccessState.TRIALING
        case _:
            raise UnknownStatusError(
                f"{snapshot.id} has the provider status {snapshot.status!r:.60}, which is not supported"
            )


def _was_failing(before: Subscription | None) -> bool:
    """Returns True after a failed collection. A grace period by time alone does not count."""
    return before is not None and before.provider_status in _FAILING


def _was_suspended(before: Subscription | None) -> bool:
    return before is not None and _was_failing(before) and before.access is AccessState.SUSPENDED


def _paid_until(before: Subscription | None, snapshot: ProviderSnapshot, item: SnapshotItem) -> datetime | None:
    """Returns the end of the newest paid period, also while a later invoice is open.

    An open invoice within a period does not prove that the period was paid: then the known value counts. An open
    invoice at another price does not shorten the period that was paid at the old price.
    """
    known, reported = before.paid_until if before is not None else None, snapshot.paid_until
    if before is None or known is None or reported is None or snapshot.status not in _FAILING:
        return reported
    if reported == snapshot.period_end:
        return min(known, reported) if before.period_start == snapshot.period_start else reported
    is_same_price = (before.price, before.interval) == (item.amount, item.interval)
    return reported if is_same_price else max(known, reported)


def _grace_until(
    before: Subscription | None,
    snapshot: ProviderSnapshot,
    grace_s: int,
    paid_until: datetime | None,
    failures: Iterable[FailedCollection],
    now: datetime,
) -> datetime | None:
    """Returns the end of the grace period: the first failure plus the plan's grace, but not before `paid_until`.

    The first failure is the earliest known one, whatever the order of messages; a failure that the provider dates after
    our own clock counts as now. When the provider has stopped collecting, access ends with the paid period.
    """
    if snapshot.status not in _FAILING:
        return None
    if paid_until is not None and snapshot.period_start is not None and paid_until <= snapshot.period_start:
        # The paid period had ended when the unpaid one began.
        paid_until = None
    if snapshot.status == "unpaid":
        return paid_until if paid_until is not None and now < paid_until else None
    known = before.grace_until if before is not None and _was_failing(before) else None
    if _was_suspended(before):
        return known
    fetched = [snapshot.failed_at] if snapshot.failed_at is not None else []
    reported = [failure.at for failure in failures if failure.invoice == snapshot.invoice]
    until = min([now, *fetched, *reported]) + timedelta(seconds=grace_s)
    until = until if known is None else min(until, known)
    return until if paid_until is None else max(until, paid_until)


def _plan_ref(before: Subscription | None, pinned: PinnedPlan) -> PlanRef:
    """Returns the plan version with the hash of the catalogue that it was first pinned from."""
    if before is not None and (before.plan.plan, before.plan.version) == (pinned.plan.plan, pinned.plan.version):
        return before.plan
    return PlanRef(plan=pinned.plan.plan, version=pinned.plan.version, catalogue_hash=pinned.catalogue_hash)


def _transition(
    before: Subscription | None, after: Subscription, retention_s: int, others: list[Subscription]
) -> list[SubscriptionEvent]:
    """Returns the event for the transition between two subscriptions."""
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
                # The first payment was abandoned: there was never access, so nothing ends and no offboarding starts.
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
