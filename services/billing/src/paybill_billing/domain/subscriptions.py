"""Subscriptions: what the provider shows, told as facts, and what each state means for access."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar, assert_never

from paybill_contracts.billing import (
    AccessState,
    PlanRef,
    Subscription,
    SubscriptionActivated,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionRegistered,
    SubscriptionSuspended,
)
from paybill_contracts.errors import DomainError
from paybill_contracts.money import Money

from paybill_billing.domain.accounts import Account
from paybill_billing.domain.catalogue import Catalogue, PriceSeen, Published, UnknownPriceError, published, sold_at

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

F = TypeVar(
    "F",
    SubscriptionRegistered,
    SubscriptionActivated,
    SubscriptionChanged,
    SubscriptionGraceStarted,
    SubscriptionSuspended,
    SubscriptionPaused,
    SubscriptionRecovered,
)

GIVES_ACCESS = frozenset({AccessState.TRIALING, AccessState.ACTIVE, AccessState.GRACE})


class UnknownStatusError(DomainError):
    """The provider uses a word that we have no meaning for; guessing would lock somebody out or let somebody in."""

    code = "unknown_provider_status"


@dataclass(frozen=True, slots=True)
class Standing:
    """A subscription as it is. `due`: when time alone changes what it gives."""

    id: str
    subscription: Subscription
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A subscription as the provider shows it now, in our words.

    tenant: what we wrote on it at checkout, a hint and no proof. collection_paused: the provider has stopped
    collecting on somebody's wish. invoice: the newest one, which an open failure must belong to.
    """

    id: str
    customer: str
    tenant: str | None
    status: str
    collection_paused: bool
    quantity: int
    price: PriceSeen
    amount: Money
    period_start: datetime | None
    period_end: datetime | None
    cancel_at: datetime | None
    invoice: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The provider said at `at` that it could not collect `invoice`."""

    invoice: str
    at: datetime


def subscription_id(provider: str, provider_subscription: str) -> str:
    """Our id, derived, so that whoever sees the provider's object first gives it the same one."""
    return "sub_" + sha256(f"{provider}/{provider_subscription}".encode()).hexdigest()[:32]


def sold(catalogue: Catalogue, account: Account, standing: Standing | None, seen: Seen) -> Published:
    """The plan version that a subscription of this account pins.

    A price that sells no plan of ours was made for this customer alone: then the subscription keeps the plan it has,
    or, when we wrote the tenant on it at checkout, gets the one that the account was opened for. Raises
    UnknownPriceError when it is none of ours.
    """
    try:
        return sold_at(catalogue, account.provider, seen.price)
    except UnknownPriceError:
        if standing is not None:
            pinned = standing.subscription.plan
            return published(catalogue, pinned.plan, pinned.version)
        if seen.tenant == account.id:
            return published(catalogue, account.plan, account.plan_version)
        raise


def sync(
    standing: Standing | None,
    seen: Seen,
    *,
    tenant_id: str,
    provider: str,
    sold: Published,
    failures: Iterable[Failure],
    now: datetime,
) -> list[SubscriptionEvent]:
    """Tell what changed between what we knew and what the provider shows.

    The provider's state decides, never the order of its messages. Raises UnknownStatusError.
    """
    before = standing.subscription if standing is not None else None
    grace_until = _grace_until(before, seen, sold.plan.grace_s, failures, now)
    access = _access(before, seen, grace_until, now)
    after = Subscription(
        subscription_id=subscription_id(provider, seen.id),
        tenant_id=tenant_id,
        provider=provider,
        provider_subscription=seen.id,
        provider_status=seen.status,
        access=access,
        plan=_pinned(before, sold),
        quantity=seen.quantity,
        price=seen.amount,
        period_start=seen.period_start,
        period_end=seen.period_end,
        cancel_at=seen.cancel_at,
        grace_until=grace_until,
    )
    return [] if after == before else _told(before, after, sold.plan.retention_s)


def on_time(standing: Standing, now: datetime) -> list[SubscriptionEvent]:
    """Grace is over: access ends although the provider is silent."""
    subscription = standing.subscription
    if standing.due is None or now < standing.due or subscription.access is not AccessState.GRACE:
        return []
    suspended = subscription.model_copy(update={"access": AccessState.SUSPENDED})
    return [_fact(SubscriptionSuspended, suspended)]


def evolve(standing: Standing | None, event: SubscriptionEvent) -> Standing:
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
            in_grace = event.subscription.access is AccessState.GRACE
            due = event.subscription.grace_until if in_grace else None
            if standing is None:
                return Standing(id=event.subscription_id, subscription=event.subscription, due=due)
            return replace(standing, subscription=event.subscription, due=due)
        case _:
            assert_never(event)


def _access(before: Subscription | None, seen: Seen, grace_until: datetime | None, now: datetime) -> AccessState:
    match seen.status:
        case "canceled" | "incomplete_expired":
            return AccessState.ENDED
        case "incomplete":
            return AccessState.PENDING
        case "unpaid":
            return AccessState.SUSPENDED
        case "paused":
            return AccessState.PAUSED
        case "past_due":
            # Grace is given once: who was shut out gets in again by paying, not by another attempt to collect.
            was_shut_out = before is not None and before.access is AccessState.SUSPENDED
            over = was_shut_out or grace_until is None or now >= grace_until
            return AccessState.SUSPENDED if over else AccessState.GRACE
        case "active" | "trialing" if seen.collection_paused:
            return AccessState.PAUSED
        case "active":
            return AccessState.ACTIVE
        case "trialing":
            return AccessState.TRIALING
        case _:
            raise UnknownStatusError(f"the provider calls {seen.id} {seen.status!r:.60}, which has no meaning here yet")


def _grace_until(
    before: Subscription | None, seen: Seen, grace_s: int, failures: Iterable[Failure], now: datetime
) -> datetime | None:
    """First failure plus the plan's grace; the earliest that we have heard of, in whatever order we heard.

    A failure that the provider dates after our own clock counts as now.
    """
    if before is not None and before.access is AccessState.SUSPENDED and seen.status in {"past_due", "unpaid"}:
        return before.grace_until
    match seen.status:
        case "past_due":
            failed = min([now, *(failure.at for failure in failures if failure.invoice == seen.invoice)])
            until = failed + timedelta(seconds=grace_s)
            known = before.grace_until if before is not None else None
            return until if known is None else min(until, known)
        case "unpaid":
            return before.grace_until if before is not None else None
        case _:
            return None


def _pinned(before: Subscription | None, sold: Published) -> PlanRef:
    """The plan version, under the catalogue that it was first pinned from."""
    if before is not None and (before.plan.plan, before.plan.version) == (sold.plan.plan, sold.plan.version):
        return before.plan
    return PlanRef(plan=sold.plan.plan, version=sold.plan.version, catalogue_hash=sold.catalogue_hash)


def _told(before: Subscription | None, after: Subscription, retention_s: int) -> list[SubscriptionEvent]:
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
            return [_fact(SubscriptionSuspended, after)]
        case AccessState.PAUSED:
            return [_fact(SubscriptionPaused, after)]
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
                )
            ]
        case _:
            assert_never(after.access)


def _fact(kind: type[F], subscription: Subscription) -> F:
    return kind(
        tenant_id=subscription.tenant_id,
        subscription_id=subscription.subscription_id,
        subscription=subscription,
    )
