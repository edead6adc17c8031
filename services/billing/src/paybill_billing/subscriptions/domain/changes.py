"""Changes of a subscription: wanted, quoted, confirmed, and made by its provider or refused."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from paybill_contracts.billing import Subscription
from paybill_contracts.catalogue import PlanVersion
from paybill_contracts.changes import (
    ChangeApplied,
    ChangeConfirmed,
    ChangeDiscarded,
    ChangeExpired,
    ChangeQuoted,
    ChangeRefused,
    ChangeRequested,
    FeatureDifference,
    Proration,
    WantedChange,
)
from paybill_contracts.changes import ChangeKind as Kind
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest

QUOTE_VALIDITY = timedelta(hours=1)

ChangeEvent = (
    ChangeRequested | ChangeQuoted | ChangeConfirmed | ChangeApplied | ChangeRefused | ChangeExpired | ChangeDiscarded
)


class Status(StrEnum):
    """Where a change stands."""

    REQUESTED = "requested"
    QUOTED = "quoted"
    CONFIRMED = "confirmed"
    APPLIED = "applied"
    REFUSED = "refused"
    EXPIRED = "expired"
    DISCARDED = "discarded"


OPEN = frozenset({Status.REQUESTED, Status.QUOTED, Status.CONFIRMED})


class UnknownChangeError(NotFoundError):
    code = "unknown_change"


class ChangeOpenError(ConflictError):
    """One change of a subscription at a time: the second would be quoted for what the first makes of it."""

    code = "change_open"


class NotQuotedYetError(ConflictError):
    code = "change_not_quoted_yet"


class QuoteChangedError(ConflictError):
    """Whoever confirms has seen another quote than this one."""

    code = "quote_changed"


class QuoteExpiredError(ConflictError):
    code = "quote_expired"


class ChangeOverError(ConflictError):
    """It was made, refused, given up, or not confirmed in time."""

    code = "change_over"


class ChangeConfirmedError(ConflictError):
    """It is being made at this moment, and can be taken back only by another change."""

    code = "change_confirmed"


class ChangeOrderError(DomainError):
    """A fact came before the one that makes the change."""

    code = "change_order"


@dataclass(frozen=True, slots=True)
class Quote:
    """What a change costs and gives, as the fact says it."""

    proration: Proration
    features: tuple[FeatureDifference, ...]
    tier_before: str
    tier_after: str
    placement_before: str
    placement_after: str
    valid_until: datetime
    quote_hash: str


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a subscription. confirmed: needs nobody's yes to its quote. `due`: when its quote expires.

    code, refusal: why it will not be made.
    """

    id: str
    tenant_id: str
    subscription_id: str
    wanted: WantedChange
    confirmed: bool
    reason: str
    move_id: str | None = None
    status: Status = Status.REQUESTED
    quote: Quote | None = None
    code: str | None = None
    refusal: str | None = None
    due: datetime | None = None


def request(
    change: Change | None,
    subscription: Subscription,
    desired: WantedChange,
    *,
    change_id: str,
    confirmed: bool,
    reason: str,
    open_change: str | None,
    move_id: str | None = None,
) -> list[ChangeEvent]:
    """Ask for a change that `wanted.py` found possible. `open_change`: another of this subscription that is not over.

    Raises ChangeOpenError.
    """
    if change is not None:
        return []
    if open_change is not None:
        raise ChangeOpenError(f"{open_change} is open already; confirm or discard it first")
    return [
        ChangeRequested(
            change_id=change_id,
            tenant_id=subscription.tenant_id,
            subscription_id=subscription.subscription_id,
            wanted=desired,
            confirmed=confirmed,
            reason=reason,
            move_id=move_id,
        )
    ]


def quoted(
    change: Change,
    subscription: Subscription,
    proration: Proration,
    before: PlanVersion,
    after: PlanVersion,
    now: datetime,
) -> list[ChangeEvent]:
    """What the provider would ask for it. before, after: the plan versions, the same when the plan stays.

    A quote never outlives the period that it was computed for. What needs nobody's yes is confirmed at once.
    """
    if change.status is not Status.REQUESTED:
        return []
    ends = subscription.period_end
    valid_until = min(now + QUOTE_VALIDITY, ends) if ends is not None and ends > now else now + QUOTE_VALIDITY
    features = _feature_differences(change.wanted.kind, before, after)
    content = {
        "change_id": change.id,
        "wanted": change.wanted.model_dump(mode="json"),
        "proration": proration.model_dump(mode="json"),
        "features": [difference.model_dump(mode="json") for difference in features],
        "tier": [before.tier, after.tier],
        "placement": [before.placement, after.placement],
        "valid_until": valid_until.isoformat(),
    }
    quote = ChangeQuoted(
        change_id=change.id,
        tenant_id=change.tenant_id,
        subscription_id=change.subscription_id,
        proration=proration,
        features=features,
        tier_before=before.tier,
        tier_after=after.tier,
        placement_before=before.placement,
        placement_after=after.placement,
        valid_until=valid_until,
        quote_hash=digest(content),
    )
    return [quote, _confirmation(change, quote.quote_hash)] if change.confirmed else [quote]


def confirm(change: Change, quote_hash: str, now: datetime) -> list[ChangeEvent]:
    """Have it made as it was quoted.

    Raises NotQuotedYetError, QuoteChangedError, QuoteExpiredError, ChangeOverError.
    """
    match change.status:
        case Status.REQUESTED:
            raise NotQuotedYetError(f"{change.id} is not quoted yet; look at it again in a moment")
        case Status.QUOTED | Status.CONFIRMED | Status.APPLIED:
            if change.quote is None or change.quote.quote_hash != quote_hash:
                raise QuoteChangedError(
                    f"this is not the quote of {change.id}; look at the change and confirm its hash"
                )
            if change.status is not Status.QUOTED:
                return []
            if now >= change.quote.valid_until:
                raise QuoteExpiredError(f"the quote of {change.id} is not valid any more; ask for the change again")
            return [_confirmation(change, quote_hash)]
        case Status.REFUSED | Status.EXPIRED | Status.DISCARDED:
            raise ChangeOverError(f"{change.id} is {change.status}; ask for the change again")
        case _:
            assert_never(change.status)


def discard(change: Change) -> list[ChangeEvent]:
    """Give it up before it is made. Raises ChangeConfirmedError, ChangeOverError."""
    match change.status:
        case Status.REQUESTED | Status.QUOTED:
            return [
                ChangeDiscarded(change_id=change.id, tenant_id=change.tenant_id, subscription_id=change.subscription_id)
            ]
        case Status.DISCARDED:
            return []
        case Status.CONFIRMED:
            raise ChangeConfirmedError(f"{change.id} is being made; wait for it, then take it back by another change")
        case Status.APPLIED | Status.REFUSED | Status.EXPIRED:
            raise ChangeOverError(f"{change.id} is {change.status}; there is nothing to discard")
        case _:
            assert_never(change.status)


def applied(change: Change) -> list[ChangeEvent]:
    """The provider has made it."""
    if change.status is not Status.CONFIRMED:
        return []
    return [ChangeApplied(change_id=change.id, tenant_id=change.tenant_id, subscription_id=change.subscription_id)]


def refused(change: Change, code: str, reason: str) -> list[ChangeEvent]:
    """It will not be made."""
    if change.status not in OPEN:
        return []
    return [
        ChangeRefused(
            change_id=change.id,
            tenant_id=change.tenant_id,
            subscription_id=change.subscription_id,
            code=code,
            reason=reason,
        )
    ]


def on_time(change: Change, now: datetime) -> list[ChangeEvent]:
    """Nobody confirmed the quote while it was valid."""
    if change.due is None or now < change.due:
        return []
    return [ChangeExpired(change_id=change.id, tenant_id=change.tenant_id, subscription_id=change.subscription_id)]


def existing(change: Change | None, change_id: str) -> Change:
    """The change. Raises UnknownChangeError."""
    if change is None:
        raise UnknownChangeError(f"there is no change {change_id}")
    return change


def evolve(change: Change | None, event: ChangeEvent) -> Change:
    """The change after `event`; only `ChangeRequested` may come first."""
    if isinstance(event, ChangeRequested):
        return Change(
            id=event.change_id,
            tenant_id=event.tenant_id,
            subscription_id=event.subscription_id,
            wanted=event.wanted,
            confirmed=event.confirmed,
            reason=event.reason,
            move_id=event.move_id,
        )
    if change is None:
        raise ChangeOrderError(f"{event.TYPE} came before the request of {event.change_id}")
    match event:
        case ChangeQuoted():
            quote = Quote(
                proration=event.proration,
                features=event.features,
                tier_before=event.tier_before,
                tier_after=event.tier_after,
                placement_before=event.placement_before,
                placement_after=event.placement_after,
                valid_until=event.valid_until,
                quote_hash=event.quote_hash,
            )
            return replace(change, status=Status.QUOTED, quote=quote, due=event.valid_until)
        case ChangeConfirmed():
            return replace(change, status=Status.CONFIRMED, due=None)
        case ChangeApplied():
            return replace(change, status=Status.APPLIED)
        case ChangeRefused():
            return replace(change, status=Status.REFUSED, code=event.code, refusal=event.reason, due=None)
        case ChangeExpired():
            return replace(change, status=Status.EXPIRED, due=None)
        case ChangeDiscarded():
            return replace(change, status=Status.DISCARDED, due=None)
        case _:
            assert_never(event)


def differences(before: PlanVersion | None, after: PlanVersion | None) -> tuple[FeatureDifference, ...]:
    """What two plans give differently, by the features' keys; None gives nothing."""
    had = {feature.key: feature for feature in before.features} if before is not None else {}
    gets = {feature.key: feature for feature in after.features} if after is not None else {}
    return tuple(
        FeatureDifference(before=had.get(key), after=gets.get(key))
        for key in sorted({*had, *gets})
        if had.get(key) != gets.get(key)
    )


def _feature_differences(kind: Kind, before: PlanVersion, after: PlanVersion) -> tuple[FeatureDifference, ...]:
    """What the tenant gets and loses; one that is cancelled or paused has nothing."""
    match kind:
        case Kind.PLAN | Kind.REACTIVATE:
            return differences(before, after)
        case Kind.CANCEL | Kind.PAUSE:
            return differences(before, None)
        case Kind.RESUME:
            return differences(None, after)
        case _:
            assert_never(kind)


def _confirmation(change: Change, quote_hash: str) -> ChangeConfirmed:
    return ChangeConfirmed(
        change_id=change.id,
        tenant_id=change.tenant_id,
        subscription_id=change.subscription_id,
        quote_hash=quote_hash,
    )
