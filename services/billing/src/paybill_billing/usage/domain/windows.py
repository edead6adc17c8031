"""Windows: the periods in which a meter counts. They never overlap, also after changes of the catalogue."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from paybill_contracts.catalogue import Aggregation, Meter, Window

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that accepts usage, with the catalogue's settings at the time of its opening.

    warned, exceeded: the quota for which that fact was emitted; None when it was not.
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
    at: datetime, counts: Meter, catalogue_hash: str, others: Iterable[OpenWindow], watermark: datetime | None
) -> OpenWindow:
    """Returns a new window that contains `at`, with the meter's current settings.

    It is shortened to overlap neither other windows nor closed time, which can happen only after a change of the
    meter's window in the catalogue. at: not before the watermark, and in none of the others.
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
    """Returns the id of a window; all windows start at a full hour."""
    return f"{meter_id}:{start.astimezone(UTC):%Y-%m-%dT%H}"
