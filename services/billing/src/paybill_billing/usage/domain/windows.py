"""Windows: the periods in which a meter counts. They never overlap, also after changes of the catalogue."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from paybill_contracts.billing import UsageRecorded
from paybill_contracts.catalogue import Aggregation, Meter, Window
from paybill_contracts.metering import UsageAllocated

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that accepts usage, with the catalogue's settings at the time of its opening.

    warned, exceeded: the quota for which that fact was emitted; None when it was not. included: the most units that
    cost nothing extra while it was open. growth: the part of the value from each billing period, by the period's start.
    allocated: the part of the value that invoices cover; billed: the units that they bill. parts: number of reports.
    by_period: it is a billing period of the subscription.
    """

    start: datetime
    end: datetime
    closes_at: datetime
    aggregation: Aggregation
    catalogue_hash: str
    provider_meters: Mapping[str, str] = field(default_factory=dict)
    value: int = 0
    records: int = 0
    warned: int | None = None
    exceeded: int | None = None
    included: int = 0
    growth: Mapping[datetime, int] = field(default_factory=dict)
    allocated: int = 0
    billed: int = 0
    parts: int = 0
    by_period: bool = False

    def value_before(self, start: datetime | None) -> int:
        """Returns the part of the value from billing periods that start before `start`; all of it for None."""
        if start is None:
            return self.value
        return self.value - sum(units for period, units in self.growth.items() if period >= start)

    def contains(self, at: datetime) -> bool:
        """Returns True when usage at this time counts in this window."""
        return self.start <= at < self.end


def bounds(kind: Window, at: datetime) -> tuple[datetime, datetime]:
    """Returns the start and the exclusive end of the hour, day or month in UTC that contains `at`."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    match kind:
        case Window.HOUR:
            return hour, hour + HOUR
        case Window.DAY:
            day = hour.replace(hour=0)
            return day, day + timedelta(days=1)
        case Window.MONTH:
            month = hour.replace(day=1, hour=0)
            return month, (month + timedelta(days=31)).replace(day=1)


def open_window(
    at: datetime,
    counts: Meter,
    catalogue_hash: str,
    others: Iterable[OpenWindow],
    watermark: datetime | None,
    period: tuple[datetime, datetime] | None = None,
) -> OpenWindow:
    """Returns a new window that contains `at`, with the meter's current settings.

    It is shortened to overlap neither other windows nor closed time, which can happen only after a change of the
    meter's window in the catalogue, or when a billing period begins early. at: not before the watermark, and in none of
    the others, except in one that is a billing period. period: the billing period that contains `at`, if it is known.
    """
    by_period = counts.by_period and period is not None
    start, end = period if by_period and period is not None else bounds(counts.window, at)
    if watermark is not None:
        start = max(start, watermark)
    for other in others:
        if other.contains(at):
            continue
        if other.end <= at:
            start = max(start, other.end)
        else:
            end = min(end, other.start)
    return OpenWindow(
        start=start,
        end=end,
        closes_at=end + timedelta(seconds=counts.lateness_s),
        aggregation=counts.aggregation,
        catalogue_hash=catalogue_hash,
        provider_meters=dict(counts.provider_meters),
        by_period=by_period,
    )


def window_id(meter_id: str, start: datetime) -> str:
    """Returns the id of a window; no two windows of a meter start in the same hour."""
    return f"{meter_id}:{_hour(start)}"


def window_for(
    windows: Iterable[OpenWindow], at: datetime, period: tuple[datetime, datetime] | None
) -> OpenWindow | None:
    """Returns the open window for usage at this time, or None when a new one begins.

    A billing period that began early, such as after a change of the interval, begins a window of its own, but not in
    the hour in which the open one began: then it adds its included units to that one.
    """
    window = next((each for each in windows if each.contains(at)), None)
    if window is None or not window.by_period or period is None or period[0] <= window.start:
        return window
    return window if _hour(period[0]) == _hour(window.start) else None


def included_in(window: OpenWindow, period: tuple[datetime, datetime] | None, included: int, *, value: int) -> int:
    """Returns the included units of a window, to which a billing period that begins in its hour adds its own.

    value: of the window after the usage. What the earlier period left of its included units is not carried over.
    """
    if not window.by_period or period is None or period[0] <= window.start:
        return included
    if period[0] in window.growth or value <= window.value:
        return window.included
    return min(window.value, window.included) + included


def opened(windows: Iterable[OpenWindow], new: OpenWindow) -> tuple[OpenWindow, ...]:
    """Returns the open windows with a new one, at whose start a billing period that reaches into it ends."""
    shortened = (replace(each, end=new.start) if each.start < new.start < each.end else each for each in windows)
    return (*shortened, new)


def _hour(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H}"


def minute_of(at: datetime) -> datetime:
    """Returns the start of the minute: providers sum usage by the minute."""
    return at.replace(second=0, microsecond=0)


def grown(window: OpenWindow, event: UsageRecorded, value: int) -> OpenWindow:
    """Returns the window with the new value, attributed to the billing period of the usage."""
    growth = dict(window.growth)
    if event.period_start is not None and value > window.value:
        growth[event.period_start] = growth.get(event.period_start, 0) + value - window.value
    included = max(window.included, event.included or 0)
    return replace(window, value=value, records=window.records + 1, growth=growth, included=included)


def allocated(window: OpenWindow, event: UsageAllocated) -> OpenWindow:
    """Returns the window of which `event.value` is allocated; the rest belongs to the latest billing periods."""
    growth, rest = dict[datetime, int](), window.value - event.value
    for start in sorted(window.growth, reverse=True):
        if (units := min(window.growth[start], rest)) > 0:
            growth[start], rest = units, rest - units
    parts = window.parts + (1 if event.quantity and not event.free else 0)
    billed = window.billed + event.quantity
    return replace(window, allocated=event.value, billed=billed, parts=parts, growth=growth)


def reported_minutes(reported: Mapping[datetime, int], event: UsageAllocated) -> Mapping[datetime, int]:
    """Returns the units of the minutes into which a later report may fall: the period's first and the last one."""
    minute = minute_of(event.at)
    kept = {minute} | ({minute_of(event.period_start)} if event.period_start is not None else set())
    units = {at: count for at, count in reported.items() if at in kept}
    return units if event.free else units | {minute: units.get(minute, 0) + event.quantity}
