"""Usage: what was used of a meter, counted in windows, held against the plan's quota, and closed by a watermark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from paybill_contracts.billing import UsageRecorded
from paybill_contracts.catalogue import Aggregation
from paybill_contracts.catalogue import Meter as Counts
from paybill_contracts.errors import DomainError
from paybill_contracts.metering import (
    QuotaExceeded,
    QuotaWarned,
    UsageMemberCounted,
    UsageWatermarkMoved,
    UsageWindowOpened,
)
from paybill_contracts.usage import Usage

from paybill_billing.catalogue.domain.catalogue import Catalogue
from paybill_billing.entitlements.domain.entitlements import Entitlements
from paybill_billing.subscriptions.domain.accounts import Account, UnknownTenantError
from paybill_billing.usage.domain.distinct_counts import DistinctSet, contains, count_distinct, digest_of, shard_id
from paybill_billing.usage.domain.quotas import Allowance, allowance_of, metered_features, quota_events
from paybill_billing.usage.domain.windows import OpenWindow, open_window

MeterEvent = UsageRecorded | UsageWindowOpened | UsageWatermarkMoved | QuotaWarned | QuotaExceeded

OLDEST = timedelta(days=35)
"""A month's invoice and a few days in which a publisher may have been away."""

NEWEST = timedelta(minutes=5)
"""What two machines' clocks may differ by."""

MAX_QUANTITY = 10**12
"""Of one measurement; a larger one is a mistake, and a few of those would be the last that the total can hold."""

MAX_TOTAL = 10**15
"""What a fact can hold."""


class UnknownMeterError(DomainError):
    """The tenant's plan does not count this."""

    code = "unknown_meter"


class UsageOutsideWindowError(DomainError):
    """Too old to be billed, or not used yet."""

    code = "usage_outside_window"


class UsageTooLateError(DomainError):
    """Its window is closed, and was billed as it was."""

    code = "usage_too_late"


class UsageTooLargeError(DomainError):
    code = "usage_too_large"


class DistinctValueMissingError(DomainError):
    """The meter counts different things, and this does not say which one it was."""

    code = "usage_of_what"


@dataclass(frozen=True, slots=True)
class Meter:
    """What a tenant used of one thing. `id` is `<tenant>:<meter>`; total, records: since ever.

    windows: those that are open. watermark: nothing before it is taken any more, except into those. due: when the next
    one closes.
    """

    id: str
    tenant_id: str
    meter: str
    total: int
    records: int
    windows: tuple[OpenWindow, ...] = ()
    watermark: datetime | None = None
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that counting depends on beside the meter itself."""

    account: Account | None
    entitlements: Entitlements | None
    catalogue: Catalogue


@dataclass(frozen=True, slots=True)
class Counted:
    """What is to be recorded on the meter and, if one was seen for the first time, on the members' shard."""

    window: OpenWindow
    value: int
    on_meter: Sequence[MeterEvent]
    on_distinct_set: Sequence[UsageMemberCounted]


class Refusal(StrEnum):
    """Why nothing may be used."""

    NO_ACCESS = "no_access"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Consumed:
    """Whether it may be used, and if so, what is to be recorded. value: what is used in the window after it."""

    refusal: Refusal | None
    window: OpenWindow
    value: int
    bound: Allowance
    on_meter: Sequence[MeterEvent] = ()
    on_distinct_set: Sequence[UsageMemberCounted] = ()


def meter_id(tenant_id: str, meter: str) -> str:
    return f"{tenant_id}:{meter}"


def shard_of(usage: Usage) -> str | None:
    """Where the members are kept that this usage may be of; None when it names none."""
    if usage.of is None:
        return None
    id_ = meter_id(usage.tenant_id, usage.meter)
    return shard_id(id_, digest_of(id_, usage.of))


def used_now(meter: Meter | None, at: datetime) -> int:
    """What was used in the window that is open at this time; 0 when nothing was."""
    found = window_at(meter, at)
    return found.value if found is not None else 0


def window_at(meter: Meter | None, at: datetime) -> OpenWindow | None:
    """The open window that this time is in."""
    return next((w for w in meter.windows if w.contains(at)), None) if meter is not None else None


def record(
    meter: Meter | None,
    distinct: DistinctSet | None,
    usage: Usage,
    *,
    usage_id: str,
    publisher: str,
    plan: Plan,
    arrived: datetime,
    now: datetime,
) -> Counted:
    """Count what was used. That a measurement is counted once is the care of whoever calls, by `usage_id`.

    arrived: when its publisher handed it over; a window takes what arrives before it closes, however long that waited
    to be heard. Raises UnknownTenantError, UnknownMeterError, UsageOutsideWindowError, UsageTooLateError,
    UsageTooLargeError, UsageOfWhatError, TooManyMembersError.
    """
    bound = _known(plan, usage)
    if not now - OLDEST <= usage.occurred_at <= now + NEWEST:
        raise UsageOutsideWindowError(
            f"it was used at {usage.occurred_at.isoformat()}; accepted is from {OLDEST.days} days ago "
            f"to {NEWEST.seconds // 60} minutes ahead"
        )
    if usage.quantity > MAX_QUANTITY or (meter.total if meter is not None else 0) + usage.quantity > MAX_TOTAL:
        raise UsageTooLargeError(f"{usage.quantity} is more than one report of {usage.meter} can say: send it in parts")
    id_ = meter_id(usage.tenant_id, usage.meter)
    open_now = meter.windows if meter is not None else ()
    window = next((w for w in open_now if w.contains(usage.occurred_at)), None)
    on_meter: list[MeterEvent] = []
    if window is None:
        watermark = meter.watermark if meter is not None else None
        if watermark is not None and usage.occurred_at < watermark:
            raise _too_late(usage, watermark)
        counts = _counts(plan.catalogue, usage.meter)
        window = open_window(usage.occurred_at, counts, plan.catalogue.content_hash, open_now, watermark)
        on_meter.append(_opened(id_, usage, window))
    if min(arrived, now) >= window.closes_at:
        raise _too_late(usage, window.closes_at)
    member, is_new = _digest(distinct, id_, usage, window)
    value = _value(window, usage.quantity, is_new=is_new)
    on_meter.append(
        UsageRecorded(
            meter_id=id_,
            tenant_id=usage.tenant_id,
            meter=usage.meter,
            usage_id=usage_id,
            publisher=publisher,
            quantity=usage.quantity,
            total=(meter.total if meter is not None else 0) + usage.quantity,
            occurred_at=usage.occurred_at,
            window_start=window.start,
            value=value,
            member=member,
        )
    )
    on_meter += quota_events(id_, usage.tenant_id, usage.meter, window, value, bound.threshold)
    on_members = []
    if member is not None and is_new:
        forget_before = min([window.start, *(w.start for w in open_now)])
        on_members = [count_distinct(distinct, id_, window.start, member, forget_before)]
    return Counted(window, value, on_meter, on_members)


def consume(
    meter: Meter | None, distinct: DistinctSet | None, usage: Usage, *, usage_id: str, publisher: str, plan: Plan
) -> Consumed:
    """Count what is about to be used now, at `usage.occurred_at`, unless the plan does not allow so much.

    Raises as `record` does.
    """
    now = usage.occurred_at
    counted = record(meter, distinct, usage, usage_id=usage_id, publisher=publisher, plan=plan, arrived=now, now=now)
    bound = _known(plan, usage)
    before = counted.window.value
    if plan.entitlements is None or not plan.entitlements.allows_access:
        return Consumed(Refusal.NO_ACCESS, counted.window, before, bound)
    # What is counted already, such as a user who came before, needs no more room.
    if bound.quota is not None and counted.value > max(bound.quota, before):
        return Consumed(Refusal.QUOTA_EXCEEDED, counted.window, before, bound)
    return Consumed(None, counted.window, counted.value, bound, counted.on_meter, counted.on_distinct_set)


def advance(meter: Meter, closed: Sequence[OpenWindow]) -> list[MeterEvent]:
    """Close these windows of the meter for good."""
    if not closed:
        return []
    watermark = max(window.end for window in closed)
    return [
        UsageWatermarkMoved(
            meter_id=meter.id,
            tenant_id=meter.tenant_id,
            meter=meter.meter,
            closed=tuple(window.start for window in closed),
            watermark=max(watermark, meter.watermark) if meter.watermark is not None else watermark,
        )
    ]


def evolve(meter: Meter | None, event: MeterEvent) -> Meter:
    """The meter after `event`. Usage of the time before there were windows counts in the total alone."""
    if meter is None:
        meter = Meter(id=event.meter_id, tenant_id=event.tenant_id, meter=event.meter, total=0, records=0)
    match event:
        case UsageWindowOpened():
            window = OpenWindow(
                start=event.window_start,
                end=event.window_end,
                closes_at=event.closes_at,
                aggregation=event.aggregation,
                catalogue_hash=event.catalogue_hash,
                provider_meters=event.provider_meters,
            )
            return _with(meter, (*meter.windows, window))
        case UsageRecorded():
            counted = replace(meter, total=event.total, records=meter.records + 1)
            if event.window_start is None or event.value is None:
                return counted
            value = event.value
            return _changed(counted, event.window_start, lambda w: replace(w, value=value, records=w.records + 1))
        case QuotaWarned():
            return _changed(meter, event.window_start, lambda w: replace(w, warned=event.quota))
        case QuotaExceeded():
            return _changed(meter, event.window_start, lambda w: replace(w, exceeded=event.quota))
        case UsageWatermarkMoved():
            left = tuple(window for window in meter.windows if window.start not in event.closed)
            return _with(replace(meter, watermark=event.watermark), left)
        case _:
            assert_never(event)


def _known(plan: Plan, usage: Usage) -> Allowance:
    if plan.account is None:
        raise UnknownTenantError(f"there is no tenant {usage.tenant_id}")
    bound = allowance_of(plan.entitlements, usage.meter)
    if bound is None:
        counted = ", ".join(sorted({feature.meter for feature in metered_features(plan.entitlements)})) or "nothing"
        raise UnknownMeterError(f"the plan of {usage.tenant_id} does not count {usage.meter}; it counts {counted}")
    return bound


def _counts(catalogue: Catalogue, meter: str) -> Counts:
    """How the meter counts; one that the catalogue does not name is a sum by the month."""
    return next((counts for counts in catalogue.on_sale.meters if counts.meter == meter), Counts(meter=meter))


def _opened(meter_id: str, usage: Usage, window: OpenWindow) -> UsageWindowOpened:
    return UsageWindowOpened(
        meter_id=meter_id,
        tenant_id=usage.tenant_id,
        meter=usage.meter,
        window_start=window.start,
        window_end=window.end,
        closes_at=window.closes_at,
        aggregation=window.aggregation,
        provider_meters=dict(window.provider_meters),
        catalogue_hash=window.catalogue_hash,
    )


def _digest(distinct: DistinctSet | None, meter_id: str, usage: Usage, window: OpenWindow) -> tuple[str | None, bool]:
    """Which of different things it was, and whether that is new to the window; None where they are not told apart."""
    if window.aggregation is not Aggregation.UNIQUE:
        return None, False
    if usage.of is None:
        raise DistinctValueMissingError(f"{usage.meter} counts different things: say in `of` which one this was")
    member = digest_of(meter_id, usage.of)
    return member, not contains(distinct, window.start, member)


def _value(window: OpenWindow, quantity: int, *, is_new: bool) -> int:
    match window.aggregation:
        case Aggregation.COUNT:
            return window.value + 1
        case Aggregation.SUM:
            return window.value + quantity
        case Aggregation.MAX:
            return max(window.value, quantity)
        case Aggregation.UNIQUE:
            return window.value + is_new
        case _:
            assert_never(window.aggregation)


def _too_late(usage: Usage, closed_at: datetime) -> UsageTooLateError:
    return UsageTooLateError(
        f"{usage.meter} of {usage.occurred_at.isoformat()} came too late: that time is closed since "
        f"{closed_at.isoformat()}, and was billed as it was"
    )


def _with(meter: Meter, open_windows: tuple[OpenWindow, ...]) -> Meter:
    due = min((window.closes_at for window in open_windows), default=None)
    return replace(meter, windows=open_windows, due=due)


def _changed(meter: Meter, start: datetime, change: Callable[[OpenWindow], OpenWindow]) -> Meter:
    return replace(meter, windows=tuple(change(w) if w.start == start else w for w in meter.windows))
