"""Changes of a subscription: requested, quoted, confirmed, then applied by the provider or refused."""

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
    PendingEnvironment,
    Proration,
    WantedChange,
)
from paybill_contracts.changes import ChangeKind as Kind
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.money import Money

from paybill_billing.subscriptions.domain.change_requests import PeriodUnpaidError, SubscriptionOverdueError
from paybill_billing.subscriptions.domain.credits import credit_of, unpaid_credit
from paybill_billing.subscriptions.domain.quotes import Quote, drops_scheduled, feature_differences, overage_after

QUOTE_VALIDITY = timedelta(hours=1)

ChangeEvent = (
    ChangeRequested | ChangeQuoted | ChangeConfirmed | ChangeApplied | ChangeRefused | ChangeExpired | ChangeDiscarded
)


class Status(StrEnum):
    """The status of a change."""

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
    """Raised while another change of the subscription is open: a second quote would not account for the first."""

    code = "change_open"


class NotQuotedYetError(ConflictError):
    code = "change_not_quoted_yet"


class QuoteChangedError(ConflictError):
    """Raised when the confirmed hash is not that of the current quote."""

    code = "quote_changed"


class QuoteOutdatedError(ConflictError):
    """Raised when the subscription changed at the provider, so that a change would not cost what was confirmed."""

    code = "quote_outdated"


class QuoteExpiredError(ConflictError):
    code = "quote_expired"


class DropsScheduledError(ConflictError):
    """Raised when the change would drop phases that were agreed for later, and the request does not allow it."""

    code = "drops_scheduled_phases"


class ChangeOverError(ConflictError):
    """Raised for a change that was applied, refused, discarded, or not confirmed in time."""

    code = "change_over"


class ChangeConfirmedError(ConflictError):
    """Raised for a change that is being applied; only another change can reverse it."""

    code = "change_confirmed"


class ChangeOrderError(DomainError):
    """Raised when an event precedes the request of its change."""

    code = "change_order"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a subscription. confirmed: its quote is confirmed automatically. due: the expiry of its quote.

    code, refusal: the reason why it was refused. provider: None when an earlier version recorded the request.
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
    provider: str | None = None


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
    """Requests a change that `change_requests` has resolved. open_change: another open change of the subscription.

    Raises ChangeOpenError.
    """
    if change is not None:
        return []
    if open_change is not None:
        raise ChangeOpenError(f"{open_change} is still open; confirm or discard it first")
    return [
        ChangeRequested(
            change_id=change_id,
            tenant_id=subscription.tenant_id,
            subscription_id=subscription.subscription_id,
            wanted=desired,
            confirmed=confirmed,
            reason=reason,
            move_id=move_id,
            provider=subscription.provider,
        )
    ]


def quoted(
    change: Change,
    subscription: Subscription,
    proration: Proration,
    before: PlanVersion,
    after: PlanVersion,
    now: datetime,
    debt: Money | None = None,
    environment: PendingEnvironment | None = None,
) -> list[ChangeEvent]:
    """Records the provider's quote. before, after: the plan versions, the same when the plan stays.

    debt: what the customer owes in this currency, also for subscriptions that ended. environment: an earlier change
    that the environment has not followed.

    A quote expires at the latest with the period that it was computed for. An automatic change is confirmed at once. A
    quote that credits unpaid time is refused; one that names unpaid time without a credit is without a proration.
    """
    if change.status is not Status.REQUESTED:
        return []
    if (unpaid := _unpaid_refusal(change, subscription, proration)) is not None:
        return unpaid
    ends = subscription.period_end
    valid_until = min(now + QUOTE_VALIDITY, ends) if ends is not None and ends > now else now + QUOTE_VALIDITY
    features = feature_differences(change.wanted.kind, before, after)
    content = {
        "change_id": change.id,
        "wanted": change.wanted.model_dump(mode="json"),
        "proration": proration.model_dump(mode="json"),
        "features": [difference.model_dump(mode="json") for difference in features],
        "tier": [before.tier, after.tier],
        "placement": [before.placement, after.placement],
        "valid_until": valid_until.isoformat(),
    }
    overdue = debt or subscription.overdue
    if overdue is not None:
        content["overdue"] = overdue.model_dump(mode="json")
    overage = overage_after(change.wanted, subscription, before, after)
    if overage:
        content["overage"] = [each.model_dump(mode="json") for each in overage]
    if environment is not None:
        content["environment"] = environment.model_dump(mode="json")
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
        overdue=overdue,
        overage=overage,
        environment=environment,
    )
    if not change.confirmed:
        return [quote]
    if (refusal := drops_scheduled(change.wanted, proration)) is not None:
        return [quote, *refused(evolve(change, quote), DropsScheduledError.code, refusal)]
    return [quote, _confirmation(change, quote.quote_hash)]


def confirm(change: Change, quote_hash: str, now: datetime) -> list[ChangeEvent]:
    """Confirms the quote; the change is then applied.

    Raises NotQuotedYetError, QuoteChangedError, QuoteExpiredError, DropsScheduledError, ChangeOverError.
    """
    match change.status:
        case Status.REQUESTED:
            raise NotQuotedYetError(f"{change.id} is not quoted yet; try again in a moment")
        case Status.QUOTED | Status.CONFIRMED | Status.APPLIED:
            if change.quote is None or change.quote.quote_hash != quote_hash:
                raise QuoteChangedError(f"this is not the quote of {change.id}; show the change and confirm its hash")
            if change.status is not Status.QUOTED:
                return []
            if now >= change.quote.valid_until:
                raise QuoteExpiredError(f"the quote of {change.id} has expired; request the change again")
            if (refusal := drops_scheduled(change.wanted, change.quote.proration)) is not None:
                raise DropsScheduledError(refusal)
            return [_confirmation(change, quote_hash)]
        case Status.REFUSED | Status.EXPIRED | Status.DISCARDED:
            raise ChangeOverError(f"{change.id} is {change.status}; request the change again")
        case _:
            assert_never(change.status)


def discard(change: Change) -> list[ChangeEvent]:
    """Discards a change that is not confirmed. Raises ChangeConfirmedError, ChangeOverError."""
    match change.status:
        case Status.REQUESTED | Status.QUOTED:
            return [
                ChangeDiscarded(change_id=change.id, tenant_id=change.tenant_id, subscription_id=change.subscription_id)
            ]
        case Status.DISCARDED:
            return []
        case Status.CONFIRMED:
            raise ChangeConfirmedError(f"{change.id} is being applied; wait for it, then reverse it by another change")
        case Status.APPLIED | Status.REFUSED | Status.EXPIRED:
            raise ChangeOverError(f"{change.id} is {change.status}; there is nothing to discard")
        case _:
            assert_never(change.status)


def applied(change: Change) -> list[ChangeEvent]:
    """Records that the provider has applied the change."""
    if change.status is not Status.CONFIRMED:
        return []
    return [ChangeApplied(change_id=change.id, tenant_id=change.tenant_id, subscription_id=change.subscription_id)]


def outdated(change: Change, subscription: Subscription, current: Proration) -> list[ChangeEvent]:
    """Refuses a confirmed change that would not cost what was confirmed. current: its cost now."""
    if (unpaid := _unpaid_refusal(change, subscription, current)) is not None:
        return unpaid
    reason = "the subscription changed at the provider after the quote"
    if (cost := _other_cost(change, current)) is not None:
        reason = f"{reason}: {cost}"
    return refused(change, QuoteOutdatedError.code, f"{reason}; request the change again for a new quote")


def refused(change: Change, code: str, reason: str) -> list[ChangeEvent]:
    """Records that the change is refused."""
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
    """Expires a quote that was not confirmed in time."""
    if change.due is None or now < change.due:
        return []
    return [ChangeExpired(change_id=change.id, tenant_id=change.tenant_id, subscription_id=change.subscription_id)]


def invoices_usage(desired: WantedChange) -> bool:
    """Returns True for a change whose invoice contains the usage so far: an end, or another price, now."""
    return desired.kind in {Kind.PLAN, Kind.CANCEL} and not desired.at_period_end


def existing(change: Change | None, change_id: str) -> Change:
    """Returns the change. Raises UnknownChangeError."""
    if change is None:
        raise UnknownChangeError(f"there is no change {change_id}")
    return change


def evolve(change: Change | None, event: ChangeEvent) -> Change:
    """Returns the change after `event`; only `ChangeRequested` may come first."""
    if isinstance(event, ChangeRequested):
        return Change(
            id=event.change_id,
            tenant_id=event.tenant_id,
            subscription_id=event.subscription_id,
            wanted=event.wanted,
            confirmed=event.confirmed,
            reason=event.reason,
            move_id=event.move_id,
            provider=event.provider,
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
                overdue=event.overdue,
                overage=event.overage,
                environment=event.environment,
            )
            wanted = change.wanted
            if event.proration.unpaid is not None:
                wanted = wanted.model_copy(update={"without_proration": True})
            return replace(change, status=Status.QUOTED, quote=quote, due=event.valid_until, wanted=wanted)
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


def _unpaid_refusal(change: Change, subscription: Subscription, proration: Proration) -> list[ChangeEvent] | None:
    """Refuses a change that would credit money that was never paid, or went back; None when it does not."""
    if (credit := unpaid_credit(subscription, proration)) is not None:
        reason = f"the invoice of the period became overdue: the change would credit {credit.text} that were never paid"
        return refused(change, SubscriptionOverdueError.code, reason)
    if (unpaid := proration.unpaid) is not None and credit_of(proration).minor:
        reason = (
            f"the rest of the period is not paid: {unpaid.reason}. The change would credit {unpaid.amount.text} that "
            "were never paid; request it for the end of the period"
        )
        return refused(change, PeriodUnpaidError.code, reason)
    return None


def _other_cost(change: Change, current: Proration) -> str | None:
    """Returns which amount is not the quoted one, for people."""
    quoted_ = change.quote.proration if change.quote is not None else current
    if current.due_now != quoted_.due_now:
        return f"{current.due_now.text} would be due now instead of {quoted_.due_now.text}"
    before, after = quoted_.next_amount, current.next_amount
    if before is not None and after is not None and before != after:
        return f"a later period would cost {after.text} instead of {before.text}"
    return None


def _confirmation(change: Change, quote_hash: str) -> ChangeConfirmed:
    return ChangeConfirmed(
        change_id=change.id,
        tenant_id=change.tenant_id,
        subscription_id=change.subscription_id,
        quote_hash=quote_hash,
        provider=change.provider,
    )
