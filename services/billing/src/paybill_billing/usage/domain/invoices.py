"""Comparison of reported usage with the usage on invoices: recorded usage is billed usage."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from paybill_billing.providers.port import InvoicedUsage
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Status


@dataclass(frozen=True, slots=True)
class UsageComparison:
    """Usage of a meter in the period of an invoice. invoice: None for usage that should be on one and is on none.

    reported: the units that were reported for the period. invoiced: those on the invoice. final: False for a draft,
    whose usage still grows.
    """

    meter: str
    start: datetime
    end: datetime
    reported: int
    invoiced: int
    invoice: str | None
    final: bool

    @property
    def differs(self) -> bool:
        """True when a final invoice has other usage than was reported, or when there is no invoice."""
        return self.final and self.reported != self.invoiced


def compare(
    windows: Iterable[ClosedWindow],
    lines: Iterable[InvoicedUsage],
    *,
    ended: bool = False,
    open_from: datetime | None = None,
) -> list[UsageComparison]:
    """Compares the reported parts of one tenant with the lines of its invoices (invariant 5).

    Several prices of one meter bill the same usage, so each of their lines has all of it. A part that is in the period
    of no line is missing when a later period is invoiced, or when no invoice follows. ended: no invoice follows.
    open_from: start of the earliest period whose invoice follows, whatever another subscription has invoiced since.
    """
    periods: dict[tuple[str, datetime, datetime], list[InvoicedUsage]] = defaultdict(list)
    for line in lines:
        periods[line.meter, line.start, line.end].append(line)
    parts = [
        (window.provider_meter, part.at, part.quantity)
        for window in windows
        for part in window.parts
        if part.status is Status.REPORTED
    ]
    compared = [
        UsageComparison(
            meter=meter,
            start=start,
            end=end,
            reported=sum(units for name, at, units in parts if name == meter and start <= at < end),
            invoiced=max(line.quantity for line in found),
            invoice=min(line.invoice for line in found),
            final=all(line.final for line in found),
        )
        for (meter, start, end), found in sorted(periods.items())
    ]
    for meter, at, units in parts:
        of_meter = [each for each in compared if each.meter == meter and each.invoice is not None]
        if any(each.start <= at < each.end for each in of_meter) or meter is None:
            continue
        is_open = open_from is not None and at >= open_from
        if ended or (not is_open and any(each.start > at for each in of_meter)):
            compared.append(UsageComparison(meter, at, at, units, 0, None, final=True))
    return compared
