"""Windows: the stretches of time in which a meter counts; they never overlap, whatever the catalogue says later."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from paybill_contracts.catalogue import Aggregation, Meter, Window

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that still counts, as the catalogue was when it was opened.

    warned, exceeded: the quota for which that was said; None when it was not.
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

    def contains(self, at: datetime) -> bool:
        """Whether what was used at this time counts here."""
        return self.start <= at < self.end


def bounds(kind: Window, at: datetime) -> tuple[datetime, datetime]:
    """The hour, day or month in UTC that `at` is in: its start, and its end, which is not in it."""
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
    at: datetime, counts: Meter, catalogue_hash: str, others: Iterable[OpenWindow], watermark: datetime | None
) -> OpenWindow:
    """The window for `at`, as the meter counts now.

    It leaves alone what others hold and what is closed, which it can meet only after the catalogue has changed the
    meter's window. at: not before the watermark, and in none of the others.
    """
    start, end = bounds(counts.window, at)
    if watermark is not None:
        start = max(start, watermark)
    for other in others:
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
    )


def window_id(meter_id: str, start: datetime) -> str:
    """The name of a window; all windows start at a full hour."""
    return f"{meter_id}:{start.astimezone(UTC):%Y-%m-%dT%H}"
