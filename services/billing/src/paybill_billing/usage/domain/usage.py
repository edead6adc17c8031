"""Meters: usage is counted in windows, compared with the plan's quota, and closed by a watermark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import assert_never

from paybill_contracts.billing import UsageRecorded
from paybill_contracts.catalogue import Aggregation
from paybill_contracts.catalogue import Meter as MeterDefinition
from paybill_contracts.errors import DomainError
from paybill_contracts.metering import (
    QuotaExceeded,
    QuotaWarned,
    UsageAllocated,
    UsageMemberCounted,
    UsageWatermarkMoved,
    UsageWindowOpened,
)
from paybill_contracts.usage import Usage

from paybill_billing.catalogue.domain.catalogue import Catalogue
from paybill_billing.entitlements.domain.entitlements import Entitlements
from paybill_billing.subscriptions.domain.accounts import Account, UnknownTenantError
from paybill_billing.usage.domain.billing_periods import BillingPeriod
from paybill_billing.usage.domain.distinct_counts import DistinctSet, contains, count_distinct, digest_of, shard_id
from paybill_billing.usage.domain.quotas import Allowance, allowance_of, metered_features, quota_events
from paybill_billing.usage.domain.windows import (
    OpenWindow,
    allocated,
    grown,
    included_in,
    open_window,
    opened,
    reported_minutes,
    window_for,
)

MeterEvent = UsageRecorded | UsageWindowOpened | UsageAllocated | UsageWatermarkMoved | QuotaWarned | QuotaExceeded

OLDEST = timedelta(days=35)
"""One invoice period of a month, and a few days for an outage of the publisher."""

NEWEST = timedelta(minutes=5)
"""The accepted difference between the clocks of two machines."""

MAX_QUANTITY = 10**12
"""Maximum of one measurement; a larger one is a mistake, and a few of them would exhaust `MAX_TOTAL`."""

MAX_TOTAL = 10**15
"""The largest `Count` that a fact can carry."""


class UnknownMeterError(DomainError):
    """The tenant's plan does not count this meter."""

    code = "unknown_meter"


class UsageOutsideWindowError(DomainError):
    """The time of use is too old to be billed, or in the future."""

    code = "usage_outside_window"


class UsageTooLateError(DomainError):
    """The usage belongs to a closed window, whose value is final."""

    code = "usage_too_late"


class UsageTooLargeError(DomainError):
    code = "usage_too_large"


class DistinctItemMissingError(DomainError):
    """The meter counts distinct items, and the usage names none."""

    code = "usage_of_what"


@dataclass(frozen=True, slots=True)
class Meter:
    """A tenant's usage of one meter. id: `<tenant>:<meter>`. total, records: over all time.

    windows: the open ones. watermark: usage before it is accepted only into open windows. due: when the next window
    closes. reported: the units in the last minutes for which usage was reported: another report may fall into one.
    """

    id: str
    tenant_id: str
    meter: str
    total: int
    records: int
    windows: tuple[OpenWindow, ...] = ()
    watermark: datetime | None = None
    due: datetime | None = None
    reported: Mapping[datetime, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The states of other aggregates on which counting depends."""

    account: Account | None
    entitlements: Entitlements | None
    catalogue: Catalogue
    period: BillingPeriod | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """Facts to record on the meter and, for an item's first use in the window, on its shard."""

    window: OpenWindow
    value: int
    on_meter: Sequence[MeterEvent]
    on_distinct_set: Sequence[UsageMemberCounted]


class Refusal(StrEnum):
    """Reasons to refuse a consumption."""

    NO_ACCESS = "no_access"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Consumed:
    """Result of a consumption, with the facts to record if it is allowed. value: usage in the window after it."""

    refusal: Refusal | None
    window: OpenWindow
    value: int
    allowance: Allowance
    on_meter: Sequence[MeterEvent] = ()
    on_distinct_set: Sequence[UsageMemberCounted] = ()


def meter_id(tenant_id: str, meter: str) -> str:
    return f"{tenant_id}:{meter}"


def shard_of(usage: Usage) -> str | None:
    """Returns the id of the shard for the usage's item; None when the usage names none."""
    if usage.of is None:
        return None
    id_ = meter_id(usage.tenant_id, usage.meter)
    return shard_id(id_, digest_of(id_, usage.of))


def used_now(meter: Meter | None, at: datetime) -> int:
    """Returns the usage in the window that is open at this time; 0 when there is none."""
    window = window_at(meter, at)
    return window.value if window is not None else 0


def window_at(meter: Meter | None, at: datetime) -> OpenWindow | None:
    """Returns the open window that contains this time."""
    return next((w for w in meter.windows if w.contains(at)), None) if meter is not None else None


def record(
    meter: Meter | None,
    shard: DistinctSet | None,
    usage: Usage,
    *,
    usage_id: str,
    publisher: str,
    plan: Plan,
    arrived: datetime,
    now: datetime,
) -> Counted:
    """Counts a measurement. The caller deduplicates by `usage_id`.

    arrived: when the publisher handed it over; a window accepts usage that arrived before the window closed, however
    late it is processed. Raises UnknownTenantError, UnknownMeterError, UsageOutsideWindowError, UsageTooLateError,
    UsageTooLargeError, DistinctItemMissingError, TooManyDistinctItemsError.
    """
    allowance = _allowance(plan, usage)
    if not now - OLDEST <= usage.occurred_at <= now + NEWEST:
        raise UsageOutsideWindowError(
            f"usage at {usage.occurred_at.isoformat()} is outside the accepted range, from {OLDEST.days} days ago "
            f"to {NEWEST.seconds // 60} minutes ahead"
        )
    if usage.quantity > MAX_QUANTITY:
        raise UsageTooLargeError(f"a report may have at most 10^12; split the {usage.quantity} of {usage.meter}")
    if (meter.total if meter is not None else 0) + usage.quantity > MAX_TOTAL:
        raise UsageTooLargeError(f"the total of {usage.meter} would exceed 10^15, the largest that a meter can hold")
    id_ = meter_id(usage.tenant_id, usage.meter)
    open_now = meter.windows if meter is not None else ()
    period = plan.period.containing(usage.occurred_at) if plan.period is not None else None
    window = window_for(open_now, usage.occurred_at, period)
    on_meter: list[MeterEvent] = []
    if window is None:
        watermark = meter.watermark if meter is not None else None
        if watermark is not None and usage.occurred_at < watermark:
            raise _too_late(usage, watermark)
        definition = _definition(plan.catalogue, usage.meter)
        window = open_window(usage.occurred_at, definition, plan.catalogue.content_hash, open_now, watermark, period)
        on_meter.append(_opened(id_, usage, window))
    if min(arrived, now) >= window.closes_at:
        raise _too_late(usage, window.closes_at)
    digest, is_new = _digest(shard, id_, usage, window)
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
            member=digest,
            period_start=plan.period.start_of(usage.occurred_at) if plan.period is not None else None,
            included=included_in(window, period, allowance.included, value=value),
        )
    )
    on_meter += quota_events(id_, usage.tenant_id, usage.meter, window, value, allowance.threshold)
    on_distinct_set = []
    if digest is not None and is_new:
        forget_before = min([window.start, *(w.start for w in open_now)])
        on_distinct_set = [count_distinct(shard, id_, window.start, digest, forget_before)]
    return Counted(window, value, on_meter, on_distinct_set)


def consume(
    meter: Meter | None, shard: DistinctSet | None, usage: Usage, *, usage_id: str, publisher: str, plan: Plan
) -> Consumed:
    """Counts usage that is about to happen at `usage.occurred_at`, if the plan allows that quantity.

    Raises the errors of `record`.
    """
    now = usage.occurred_at
    counted = record(meter, shard, usage, usage_id=usage_id, publisher=publisher, plan=plan, arrived=now, now=now)
    allowance = _allowance(plan, usage)
    before = counted.window.value
    if plan.entitlements is None or not plan.entitlements.allows_access:
        return Consumed(Refusal.NO_ACCESS, counted.window, before, allowance)
    # Usage that does not raise the value, such as an item counted before, is allowed above the quota.
    if allowance.quota is not None and counted.value > max(allowance.quota, before):
        return Consumed(Refusal.QUOTA_EXCEEDED, counted.window, before, allowance)
    return Consumed(None, counted.window, counted.value, allowance, counted.on_meter, counted.on_distinct_set)


def advance(meter: Meter, closed: Sequence[OpenWindow]) -> list[MeterEvent]:
    """Closes these windows of the meter."""
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
    """Returns the meter after `event`. Facts from before windows existed change the total only."""
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
                by_period=event.by_period,
            )
            return _with(meter, opened(meter.windows, window))
        case UsageRecorded():
            counted = replace(meter, total=event.total, records=meter.records + 1)
            if event.window_start is None or event.value is None:
                return counted
            return _changed(counted, event.window_start, partial(grown, event=event, value=event.value))
        case UsageAllocated():
            after = _changed(meter, event.window_start, partial(allocated, event=event))
            return replace(after, reported=reported_minutes(meter.reported, event))
        case QuotaWarned():
            return _changed(meter, event.window_start, lambda w: replace(w, warned=event.quota))
        case QuotaExceeded():
            return _changed(meter, event.window_start, lambda w: replace(w, exceeded=event.quota))
        case UsageWatermarkMoved():
            open_windows = tuple(window for window in meter.windows if window.start not in event.closed)
            return _with(replace(meter, watermark=event.watermark), open_windows)
        case _:
            assert_never(event)


def _allowance(plan: Plan, usage: Usage) -> Allowance:
    if plan.account is None:
        raise UnknownTenantError(f"there is no tenant {usage.tenant_id}")
    allowance = allowance_of(plan.entitlements, usage.meter)
    if allowance is None:
        counted = ", ".join(sorted({feature.meter for feature in metered_features(plan.entitlements)})) or "nothing"
        raise UnknownMeterError(f"the plan of {usage.tenant_id} does not count {usage.meter}; it counts {counted}")
    return allowance


def _definition(catalogue: Catalogue, meter: str) -> MeterDefinition:
    """Returns the catalogue's definition of the meter; by default a monthly sum."""
    return next((each for each in catalogue.on_sale.meters if each.meter == meter), MeterDefinition(meter=meter))


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
        by_period=window.by_period,
    )


def _digest(shard: DistinctSet | None, meter_id: str, usage: Usage, window: OpenWindow) -> tuple[str | None, bool]:
    """Returns the item's digest and True if it is new to the window; None where the meter counts no items."""
    if window.aggregation is not Aggregation.UNIQUE:
        return None, False
    if usage.of is None:
        raise DistinctItemMissingError(f"{usage.meter} counts distinct items: name the one that was used in `of`")
    digest = digest_of(meter_id, usage.of)
    return digest, not contains(shard, window.start, digest)


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
        f"{usage.meter} of {usage.occurred_at.isoformat()} came too late: that window closed at "
        f"{closed_at.isoformat()}, and its value is final"
    )


def _with(meter: Meter, open_windows: tuple[OpenWindow, ...]) -> Meter:
    due = min((window.closes_at for window in open_windows), default=None)
    return replace(meter, windows=open_windows, due=due)


def _changed(meter: Meter, start: datetime, change: Callable[[OpenWindow], OpenWindow]) -> Meter:
    return replace(meter, windows=tuple(change(w) if w.start == start else w for w in meter.windows))
