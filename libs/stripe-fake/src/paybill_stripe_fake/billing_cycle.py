"""Ends of billing periods: on the anchor's day of the month, or on the last day of a shorter month."""

import calendar
from datetime import UTC, datetime, timedelta

INTERVALS = ("day", "week", "month", "year")
LONGEST = {"day": 1095, "week": 156, "month": 36, "year": 3}
"""The most intervals that one period may have: three years."""


def period_end(anchor: int, start: int, interval: str, count: int) -> int:
    """Returns the first boundary after `start`, counted from `anchor` in steps of `count` intervals (Unix seconds).

    An anchor after `start`, as with a trial, is itself the boundary.
    """
    step = 0
    while (boundary := _after(anchor, interval, count * step)) <= start:
        step += 1
    return boundary


def current_period(anchor: int, time: int, interval: str, count: int) -> tuple[int, int]:
    """Returns start and end of the period that contains a time; a time before the anchor starts its own period."""
    if time < anchor:
        return time, anchor
    step = 0
    while (boundary := _after(anchor, interval, count * (step + 1))) <= time:
        step += 1
    return _after(anchor, interval, count * step), boundary


def _after(anchor: int, interval: str, intervals: int) -> int:
    time = datetime.fromtimestamp(anchor, tz=UTC)
    match interval:
        case "day":
            return int((time + timedelta(days=intervals)).timestamp())
        case "week":
            return int((time + timedelta(weeks=intervals)).timestamp())
        case _:
            months = time.year * 12 + time.month - 1 + intervals * (12 if interval == "year" else 1)
            year, month = divmod(months, 12)
            day = min(time.day, calendar.monthrange(year, month + 1)[1])
            return int(time.replace(year=year, month=month + 1, day=day).timestamp())
