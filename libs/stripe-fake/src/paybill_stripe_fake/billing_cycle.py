"""When a billing period ends: the day of its anchor is kept, or the last day of a shorter month."""

import calendar
from datetime import UTC, datetime, timedelta

INTERVALS = ("day", "week", "month", "year")
LONGEST = {"day": 1095, "week": 156, "month": 36, "year": 3}
"""The most intervals that one period may have: three years."""


def period_end(anchor: int, start: int, interval: str, count: int) -> int:
    """The first boundary after `start`, counted from `anchor` in steps of `count` intervals; all in Unix seconds.

    An anchor that lies after `start`, as with a trial, is itself the boundary.
    """
    step = 0
    while (boundary := _after(anchor, interval, count * step)) <= start:
        step += 1
    return boundary


def current_period(anchor: int, moment: int, interval: str, count: int) -> tuple[int, int]:
    """Start and end of the period that a moment lies in; one before the anchor begins then and there."""
    if moment < anchor:
        return moment, anchor
    step = 0
    while (boundary := _after(anchor, interval, count * (step + 1))) <= moment:
        step += 1
    return _after(anchor, interval, count * step), boundary


def _after(anchor: int, interval: str, intervals: int) -> int:
    moment = datetime.fromtimestamp(anchor, tz=UTC)
    match interval:
        case "day":
            return int((moment + timedelta(days=intervals)).timestamp())
        case "week":
            return int((moment + timedelta(weeks=intervals)).timestamp())
        case _:
            months = moment.year * 12 + moment.month - 1 + intervals * (12 if interval == "year" else 1)
            year, month = divmod(months, 12)
            day = min(moment.day, calendar.monthrange(year, month + 1)[1])
            return int(moment.replace(year=year, month=month + 1, day=day).timestamp())
