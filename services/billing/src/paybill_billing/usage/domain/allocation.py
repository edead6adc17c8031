"""Allocation of usage to invoices: the units that exceed the included amount, each billed once."""

from datetime import datetime, timedelta

from paybill_contracts.metering import UsageAllocated

from paybill_billing.usage.domain.quotas import Allowance
from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import OpenWindow

SECOND = timedelta(seconds=1)
"""From a time of use that is reported to the end of the usage: the end itself belongs to what follows."""


def allocate(
    meter: Meter,
    window: OpenWindow,
    *,
    before: datetime | None,
    until: datetime,
    start: datetime | None,
    allowance: Allowance | None,
    free: bool = False,
) -> list[UsageAllocated]:
    """Allocates the value of a window to the open invoice: only what exceeds the included units is billed.

    before: only usage of billing periods that start before this time; None for all. until: the end of the usage that
    is reported. start: of the period whose invoice is open; earlier usage is reported as of that time. allowance: the
    current one; the largest included amount that applied in the window counts.
    """
    value = window.value_before(before)
    if value <= window.allocated:
        return []
    included = max(window.included, allowance.included if allowance is not None else 0)
    quantity = value - window.allocated if free else max(max(value - included, 0) - window.billed, 0)
    at = max(min(window.end, until) - SECOND, window.start)
    return [
        UsageAllocated(
            meter_id=meter.id,
            tenant_id=meter.tenant_id,
            meter=meter.meter,
            window_start=window.start,
            value=value,
            quantity=quantity,
            at=at if start is None else max(at, start),
            period_start=start,
            free=free,
        )
    ]
