"""Derives subscription events and access from provider snapshots."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
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
from paybill_billing.subscriptions.domain import expiry, grace
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.domain.entitling import entitling_subscriptions, fallback_subscription
from paybill_billing.subscriptions.domain.grace import FailedCollection

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
    remaining: Iterable[str] = (),
) -> list[SubscriptionEvent]:
    """Returns the event for the difference between the current state and the provider's snapshot.

    The snapshot decides, never the order of messages. adopted: the customer existed at the provider before its tenant;
    subscriptions that had ended before the first sync are ignored. others: the tenant's other subscriptions.
    remaining: ids of subscriptions of the customer that belong to no plan. Raises UnknownStatusError.
    """
    before = state.subscription if state is not None else None
    earlier = grace.before_failure(before, snapshot)
    paid_until = grace.paid_until(earlier, snapshot, pinned.item)
    grace_until = grace.grace_until(earlier, snapshot, pinned.plan.grace_s, paid_until, failures, now)
    after = Subscription(
        subscription_id=subscription_id(provider, snapshot.id),
        tenant_id=tenant_id,
        provider=provider,
        provider_subscription=snapshot.id,
        provider_status=snapshot.status,
        access=_access(earlier, snapshot, pinned.plan, grace_until, now),
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
        unpaid_invoice=snapshot.invoice if snapshot.status in grace.FAILING else None,
    )
    if expiry.is_past_end(after, now):
        after = after.model_copy(update={"past_end": True})
    if adopted and before is None and after.access is AccessState.ENDED:
        return []
    if after == before:
        return []
    return _transition(before, after, pinned.plan.retention_s, list(others), tuple(sorted(remaining)))


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


def running_plan(catalogue: Catalogue, account: Account, snapshots: Iterable[ProviderSnapshot]) -> str | None:
    """Returns the customer's subscription to a plan that the provider shows as running; None when there is none."""
    for snapshot in snapshots:
        if snapshot.has_ended or snapshot.status == "incomplete":
            continue
        with suppress(UnknownPriceError):
            pinned_plan(catalogue, account, None, snapshot)
            return snapshot.id
    return None


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
            is_over = grace.was_suspended(before) or grace_until is None or now >= grace_until
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


def _plan_ref(before: Subscription | None, pinned: PinnedPlan) -> PlanRef:
    """Returns the plan version with the hash of the catalogue that it was first pinned from."""
    if before is not None and (before.plan.plan, before.plan.version) == (pinned.plan.plan, pinned.plan.version):
        return before.plan
    return PlanRef(plan=pinned.plan.plan, version=pinned.plan.version, catalogue_hash=pinned.catalogue_hash)


def _transition(
    before: Subscription | None,
    after: Subscription,
    retention_s: int,
    others: list[Subscription],
    remaining: tuple[str, ...],
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
                    remaining=remaining,
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
