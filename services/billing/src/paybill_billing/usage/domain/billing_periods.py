"""Billing periods of tenants: the times until which usage is reported, so that each invoice has its period's usage.

Stripe finalises the invoice of a period about an hour after the period's end
(https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage).
"""

from calendar import monthrange
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import assert_never

from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.errors import DomainError
from paybill_contracts.metering import (
    BillingPeriodEnded,
    BillingPeriodStarted,
    UsageCutoffReached,
    UsageCutoffRequested,
)

BillingPeriodEvent = BillingPeriodStarted | BillingPeriodEnded | UsageCutoffRequested | UsageCutoffReached

EARLY = timedelta(minutes=10)
"""From a first report to the end of the period: a provider that finalises at once still bills that usage."""
DELAY = timedelta(minutes=20)
"""From the end of the period to its last report: usage that arrives until then is on the invoice of its period."""
CLOCK_TOLERANCE = timedelta(minutes=5)
KEPT_CAUSES = 16
"""Number of changes that are remembered after their cutoff; a change asks for its own soon after that."""


class BillingPeriodOrderError(DomainError):
    """A fact precedes the start of the first period."""

    code = "billing_period_order"


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """The current billing period of a tenant, and those before it whose usage is not yet allocated completely.

    bounds: start and end of these periods, in order; the end of one is the start of the next. reported_early: the end
    of the period for which the first report is done. requested: the changes that wait for a cutoff, each with its time.
    done: the last changes that waited. free_until: usage before this time is not billed. ended: no invoice follows the
    period. final: the last invoice is final, and what it does not have is not billed. due: the time of the next cutoff.
    """

    id: str
    subscription_id: str
    bounds: tuple[datetime, ...]
    reported_early: datetime | None = None
    requested: tuple[tuple[str, datetime], ...] = ()
    done: tuple[str, ...] = ()
    free_until: datetime | None = None
    ended: bool = False
    final: bool = False
    due: datetime | None = None

    @property
    def start(self) -> datetime:
        """The start of the earliest period whose invoice is open: usage before it cannot be billed for its time."""
        return self.bounds[0]

    @property
    def end(self) -> datetime:
        """The end of that period."""
        return self.bounds[1] if len(self.bounds) > 1 else self.bounds[0]

    def start_of(self, at: datetime) -> datetime:
        """Returns the start of the period that contains `at`; of the earliest open one for a time before it."""
        return max((bound for bound in self.bounds if bound <= at), default=self.start)

    def containing(self, at: datetime) -> tuple[datetime, datetime] | None:
        """Returns the period that contains `at`: a known one, or the expected next one; None for an earlier time."""
        bounds = self.bounds
        if len(bounds) > 1 and not self.ended:
            bounds = (*bounds, expected_end(bounds[-2], bounds[-1]))
        return next(((start, end) for start, end in pairwise(bounds) if start <= at < end), None)

    def is_free(self, at: datetime) -> bool:
        """Returns True for a time in a trial."""
        return self.free_until is not None and at < self.free_until


def open_from(period: BillingPeriod | None) -> datetime | None:
    """Returns the start of the earliest period whose invoice follows; None when none follows."""
    return period.start if period is not None and not period.final else None


def expected_end(start: datetime, end: datetime) -> datetime:
    """Returns the expected end of the period after this one, which is as many months long, or else as many days."""
    for months in (1, 12):
        if _months_later(start, months) == end:
            return _months_later(start, 2 * months)
    return end + (end - start)


def _months_later(at: datetime, months: int) -> datetime:
    """Returns the same day and time in a later month, or its last day."""
    years, month = divmod(at.month - 1 + months, 12)
    last = monthrange(at.year + years, month + 1)[1]
    return at.replace(year=at.year + years, month=month + 1, day=min(at.day, last))


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A cutoff that is due: usage is allocated to the invoice of the period from `start`, None when it is unknown.

    before: only usage of periods that start before this time; None for all usage. until: the end of the usage.
    final: the invoice is final already, so that the usage remains unbilled.
    """

    start: datetime | None
    until: datetime
    before: datetime | None
    final: bool = False


def on_subscription(
    period: BillingPeriod | None, subscription: Subscription, now: datetime
) -> list[BillingPeriodEvent]:
    """Follows the period of the subscription that bills the tenant's usage: the first, until it ends."""
    start, end = subscription.period_start, _end_of(subscription)
    is_other = period is not None and not period.ended and period.subscription_id != subscription.subscription_id
    if is_other or start is None or end is None or start >= end:
        return []
    match subscription.access:
        case AccessState.PENDING:
            return []
        case AccessState.ENDED:
            return _ended(period, subscription, end, now)
        case AccessState.TRIALING | AccessState.ACTIVE | AccessState.GRACE | AccessState.SUSPENDED | AccessState.PAUSED:
            same = period is not None and not period.ended and period.bounds[-2:] == (start, end)
            free = subscription.access is AccessState.TRIALING
            if same and (not free or period is None or period.is_free(start)):
                return []
            return [
                BillingPeriodStarted(
                    tenant_id=subscription.tenant_id,
                    subscription_id=subscription.subscription_id,
                    period_start=start,
                    period_end=end,
                    free=free,
                )
            ]
        case _:
            assert_never(subscription.access)


def request_cutoff(period: BillingPeriod, cause: str, now: datetime) -> list[BillingPeriodEvent]:
    """Requests that all usage is allocated before the change `cause`."""
    if cause in period.done or any(cause == waiting for waiting, _ in period.requested):
        return []
    return [UsageCutoffRequested(tenant_id=period.id, until=now, cause=cause)]


def cutoff(period: BillingPeriod, at: datetime) -> Cutoff | None:
    """Returns the cutoff that is due at `at`; None when none is."""
    if period.due is None or at < period.due:
        return None
    if period.requested or period.final:
        return Cutoff(period.start, at, None, final=period.final)
    if at < period.end + DELAY:
        return Cutoff(period.start, min(at, period.end), period.end)
    return Cutoff(period.start, period.end, None if period.ended else period.end)


def reached(period: BillingPeriod, at: datetime) -> list[BillingPeriodEvent]:
    """Records that the usage of the cutoff that is due at `at` is allocated."""
    if period.due is None or at < period.due:
        return []
    causes = tuple(cause for cause, _ in period.requested)
    is_end = not causes and not period.final and at >= period.end + DELAY
    return [
        UsageCutoffReached(tenant_id=period.id, reached_at=at, period_end=period.end if is_end else None, causes=causes)
    ]


def evolve(period: BillingPeriod | None, event: BillingPeriodEvent) -> BillingPeriod:
    """Returns the periods after `event`; only `BillingPeriodStarted` may come first."""
    if isinstance(event, BillingPeriodStarted):
        return _started(period, event)
    if period is None:
        raise BillingPeriodOrderError(f"{event.TYPE} came before the first period of {event.tenant_id}")
    match event:
        case BillingPeriodEnded():
            after = replace(period, ended=True, final=event.invoiced_until is None)
            if event.invoiced_until is not None:
                earlier = tuple(bound for bound in period.bounds if bound < event.invoiced_until)
                after = replace(after, bounds=(*earlier, event.invoiced_until))
            return _due(after, event.ended_at)
        case UsageCutoffRequested():
            return _due(replace(period, requested=(*period.requested, (event.cause, event.until))))
        case UsageCutoffReached():
            return _reached(period, event)
        case _:
            assert_never(event)


def _end_of(subscription: Subscription) -> datetime | None:
    """Returns the end of the period, or the cancellation if it is earlier."""
    return min((at for at in (subscription.period_end, subscription.cancel_at) if at is not None), default=None)


def _ended(
    period: BillingPeriod | None, subscription: Subscription, end: datetime, now: datetime
) -> list[BillingPeriodEvent]:
    if period is None or period.ended or period.subscription_id != subscription.subscription_id:
        return []
    # At a scheduled end the provider's last invoice is a draft for a while; at any other time it is final.
    at_period_end = now >= end - CLOCK_TOLERANCE
    return [
        BillingPeriodEnded(
            tenant_id=period.id,
            subscription_id=period.subscription_id,
            ended_at=end if at_period_end else now,
            invoiced_until=end if at_period_end else None,
        )
    ]


def _started(period: BillingPeriod | None, event: BillingPeriodStarted) -> BillingPeriod:
    free = event.period_end if event.free else None
    if period is None or period.ended:
        # Usage that waits for a cutoff of the ended subscription waits for the first one of the new subscription.
        requested, done = (period.requested, period.done) if period is not None else ((), ())
        bounds = (event.period_start, event.period_end)
        return _due(
            BillingPeriod(
                event.tenant_id, event.subscription_id, bounds, requested=requested, done=done, free_until=free
            )
        )
    earlier = tuple(bound for bound in period.bounds if bound < event.period_start)
    return _due(
        replace(
            period,
            bounds=(*earlier, event.period_start, event.period_end),
            free_until=free if free is not None else period.free_until,
        )
    )


def _reached(period: BillingPeriod, event: UsageCutoffReached) -> BillingPeriod:
    requested = tuple((cause, until) for cause, until in period.requested if cause not in event.causes)
    done = (*period.done, *event.causes)[-KEPT_CAUSES:]
    after = replace(period, requested=requested, done=done)
    if event.period_end is not None:
        later = tuple(bound for bound in period.bounds if bound >= event.period_end)
        return _due(replace(after, bounds=later, reported_early=None, final=period.ended))
    if not event.causes and not period.final:
        return _due(replace(after, reported_early=period.end))
    return _due(after)


def _due(period: BillingPeriod, ended_at: datetime | None = None) -> BillingPeriod:
    """Sets the time of the next cutoff. ended_at: of a subscription that ends now."""
    if period.requested:
        return replace(period, due=min(until for _, until in period.requested))
    if period.final:
        # What is unbilled is found once; later usage is found when its window closes.
        return replace(period, due=ended_at)
    if len(period.bounds) == 1:
        return replace(period, due=None)
    early = period.reported_early == period.end
    return replace(period, due=period.end + DELAY if early else period.end - EARLY)
