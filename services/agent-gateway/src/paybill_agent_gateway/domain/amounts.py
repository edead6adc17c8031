"""Arithmetic of budgets: calls, rows, and sums of written integers."""

from paybill_contracts.agent_bundles import Amounts

NOTHING = Amounts()


def plus(left: Amounts, right: Amounts) -> Amounts:
    """Returns the sum of two amounts."""
    sums = {name: left.sums.get(name, 0) + right.sums.get(name, 0) for name in sorted(left.sums | right.sums)}
    return Amounts(calls=left.calls + right.calls, rows=left.rows + right.rows, sums=sums)


def minus(left: Amounts, right: Amounts) -> Amounts:
    """Returns the difference of two amounts, nothing below zero."""
    sums = {name: max(0, left.sums[name] - right.sums.get(name, 0)) for name in left.sums}
    return Amounts(calls=max(0, left.calls - right.calls), rows=max(0, left.rows - right.rows), sums=sums)


def exceeded(used: Amounts, limit: Amounts) -> str | None:
    """Returns what is used beyond the limit of a run, such as `rows` or `refunds.amount`; None if nothing is."""
    if used.calls > limit.calls:
        return "calls"
    if used.rows > limit.rows:
        return "rows"
    return next((name for name in sorted(limit.sums) if used.sums.get(name, 0) > limit.sums[name]), None)


def exceeded_of_day(used: Amounts, limit: Amounts) -> str | None:
    """Returns what is used beyond the limit of a day; there, a number of 0 is no limit."""
    calls, rows = limit.calls or used.calls, limit.rows or used.rows
    return exceeded(used, Amounts(calls=calls, rows=rows, sums=limit.sums))
