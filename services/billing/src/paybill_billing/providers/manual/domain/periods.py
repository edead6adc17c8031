"""Billing periods and proration in whole days and whole minor units."""

from calendar import monthrange
from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.catalogue import Interval

_MONTHS_A_YEAR = 12


def period_after(anchor: datetime, interval: Interval, start: datetime) -> datetime:
    """Returns the end of the period that begins at `start`.

    It is counted from `anchor`: a contract that began on the 31st renews on the last day of shorter months and on the
    31st of longer ones.
    """
    match interval:
        case Interval.MONTH:
            step = 1
        case Interval.YEAR:
            step = _MONTHS_A_YEAR
        case _:
            assert_never(interval)
    months = (start.year - anchor.year) * _MONTHS_A_YEAR + start.month - anchor.month
    return _months_later(anchor, months + step)


def days_left(start: datetime, end: datetime, at: datetime) -> tuple[int, int]:
    """Returns the days of the period that are left at `at`, and all its days; the current day counts as left."""
    days = max((end - start) // timedelta(days=1), 1)
    used = (at - start) // timedelta(days=1)
    return days - min(max(used, 0), days), days


def prorated(amount: int, left: int, days: int) -> int:
    """Returns `left / days` of `amount`, rounded half to even. 0 <= left <= days, days > 0, amount not negative."""
    whole, rest = divmod(amount * left, days)
    return whole + (2 * rest > days or (2 * rest == days and whole % 2 == 1))


def _months_later(anchor: datetime, months: int) -> datetime:
    years, month = divmod(anchor.month - 1 + months, _MONTHS_A_YEAR)
    year = anchor.year + years
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, monthrange(year, month + 1)[1]))
