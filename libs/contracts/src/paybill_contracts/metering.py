"""Events about usage: billing periods, windows, quota warnings, and reports to the billing provider."""

from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Aggregation
from paybill_contracts.event import Event
from paybill_contracts.values import Count, Digest, Key, ProviderId, SubscriptionId, TenantId, Text, Timestamp

_METER = r"^ten_[0-9a-f]{32}:[a-z][a-z0-9_-]{0,62}"
_EXAMPLE = "ten_0123456789abcdef0123456789abcdef:calls"

MeterId = Annotated[str, Field(pattern=rf"{_METER}$", examples=[_EXAMPLE])]
"""`<tenant>:<meter>`."""

WindowId = Annotated[
    str, Field(pattern=rf"{_METER}:\d{{4}}-\d{{2}}-\d{{2}}T\d{{2}}$", examples=[f"{_EXAMPLE}:2026-11-01T00"])
]
"""`<tenant>:<meter>:<the hour in which the window starts, UTC>`."""

ItemSetId = Annotated[str, Field(pattern=rf"{_METER}:[0-9a-f]{{2}}$", examples=[f"{_EXAMPLE}:7f"])]
"""`<tenant>:<meter>:<first byte of the item digests>`: one shard of a distinct-count set."""

ItemDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$"), Field(examples=["7f3456789abcdef012345678"])]
"""First 96 bits of the SHA-256 of an item's name, lower-case hex."""


class BillingPeriodStarted(
    Event, type="billing.billing_period_started", version=1, aggregate="billing-period", key="tenant_id"
):
    """The tenant's usage from `period_start` until before `period_end` belongs to one invoice of this subscription.

    free: a trial, whose usage is not billed.
    """

    tenant_id: TenantId
    subscription_id: SubscriptionId
    period_start: Timestamp
    period_end: Timestamp
    free: bool = False


class BillingPeriodEnded(
    Event, type="billing.billing_period_ended", version=1, aggregate="billing-period", key="tenant_id"
):
    """The subscription has ended: after its last invoice, no invoice bills usage.

    invoiced_until: the end of the usage that the last invoice can contain; None when that invoice is final already.
    """

    tenant_id: TenantId
    subscription_id: SubscriptionId
    ended_at: Timestamp
    invoiced_until: Timestamp | None


class UsageCutoffRequested(
    Event, type="billing.usage_cutoff_requested", version=1, aggregate="billing-period", key="tenant_id"
):
    """All usage until `until` is to be reported before the provider makes the change `cause`, which invoices it."""

    tenant_id: TenantId
    until: Timestamp
    cause: Text


class UsageCutoffReached(
    Event, type="billing.usage_cutoff_reached", version=1, aggregate="billing-period", key="tenant_id"
):
    """All usage that was known at `reached_at` is allocated to the invoice of the period.

    period_end: the end of that period; later usage of the period belongs to the next invoice. None when the period
    continues. causes: the changes that waited for it.
    """

    tenant_id: TenantId
    reached_at: Timestamp
    period_end: Timestamp | None
    causes: tuple[Text, ...]


class UsageWindowOpened(Event, type="billing.usage_window_opened", version=1, aggregate="meter", key="meter_id"):
    """Usage from `window_start` until before `window_end` is counted from now on, by the current catalogue.

    Usage that arrives at `closes_at` or later is refused. provider_meters: of the meter in the catalogue. by_period: it
    is a billing period; an open window that reaches into it ends at its start.
    """

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    window_end: Timestamp
    closes_at: Timestamp
    aggregation: Aggregation
    provider_meters: Annotated[dict[Key, ProviderId], Field(default={})]
    catalogue_hash: Digest
    by_period: bool = False


class UsageMemberCounted(
    Event, type="billing.usage_member_counted", version=1, aggregate="usage-members", key="members_id"
):
    """A distinct item was counted, for the first time in this window.

    Items of windows that start before `forget_before` are dropped.
    """

    members_id: ItemSetId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    member: ItemDigest
    forget_before: Timestamp


class QuotaFact(Event):
    """Common fields of the quota events: `value` is used in this window, and `quota` is allowed."""

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    window_end: Timestamp
    value: Count
    quota: Count


class QuotaWarned(QuotaFact, type="billing.quota_warned", version=1, aggregate="meter", key="meter_id"):
    """80 % of the quota is used. Published once in a window, and again after the quota was raised."""


class QuotaExceeded(QuotaFact, type="billing.quota_exceeded", version=1, aggregate="meter", key="meter_id"):
    """The quota is used up. Published once in a window, and again after the quota was raised."""


class UsageWatermarkMoved(Event, type="billing.usage_watermark_moved", version=1, aggregate="meter", key="meter_id"):
    """The windows that start at `closed` accept no more usage; nor does any other time before `watermark`."""

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    closed: tuple[Timestamp, ...]
    watermark: Timestamp


class UsageAllocated(Event, type="billing.usage_allocated", version=1, aggregate="meter", key="meter_id"):
    """The value of an open window, up to `value`, is allocated to invoices.

    quantity: the units that are billed because of it: those above the included amount that were not billed before.
    at: the time of use that is reported to the provider. period_start: of the period whose invoice is open. free: the
    units are not billed.
    """

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    value: Count
    quantity: Count
    at: Timestamp
    period_start: Timestamp | None
    free: bool = False


class WindowFact(Event):
    """Common fields of the events of a window's report."""

    window_id: WindowId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    window_end: Timestamp


class UsageWindowClosed(
    WindowFact, type="billing.usage_window_closed", version=1, aggregate="usage-window", key="window_id"
):
    """`value` is the final usage of the window, from `records` measurements.

    provider_meter: the meter at `provider` that it is reported to; None when it is not reported. in_parts: the parts
    of the window are reported, and not its value.
    """

    aggregation: Aggregation
    value: Count
    records: Count
    catalogue_hash: Digest
    provider: Key
    provider_meter: ProviderId | None
    in_parts: bool = False


class UsagePartClosed(
    WindowFact, type="billing.usage_part_closed", version=1, aggregate="usage-window", key="window_id"
):
    """`quantity` units of a window are to be reported to the provider, for one invoice.

    number: counts the window's parts from 1. at: the time of use that is reported. before: units of the meter that
    other parts report for the same minute. aggregation, provider, provider_meter: of the window.
    """

    number: Annotated[int, Field(ge=1, le=10**6)]
    quantity: Count
    at: Timestamp
    before: Count
    aggregation: Aggregation
    provider: Key
    provider_meter: ProviderId


class UsageUnbilled(WindowFact, type="billing.usage_unbilled", version=1, aggregate="usage-window", key="window_id"):
    """`quantity` units of a window are on no invoice and will be on none."""

    part: Count
    quantity: Count
    reason: Text


class UsageReported(WindowFact, type="billing.usage_reported", version=1, aggregate="usage-window", key="window_id"):
    """The provider accepted the window's value and will bill it to `customer`.

    part: the number of the part that was reported; None for a window that was reported as a whole.
    """

    quantity: Count
    provider: Key
    provider_meter: ProviderId
    customer: ProviderId
    part: Count | None = None


class UsageReportFailed(
    WindowFact, type="billing.usage_report_failed", version=1, aggregate="usage-window", key="window_id"
):
    """The provider did not accept the window's value; an operator can request another report.

    part: the number of the part; None for a window that was reported as a whole.
    """

    reason: Text
    part: Count | None = None


class UsageReportRequested(
    WindowFact, type="billing.usage_report_requested", version=1, aggregate="usage-window", key="window_id"
):
    """A window's value is to be reported again, under the same idempotency key.

    provider: None when an earlier version recorded the request.
    """

    provider: Key | None = None


class UsageCountRequested(
    WindowFact, type="billing.usage_count_requested", version=1, aggregate="usage-window", key="window_id"
):
    """The provider's count of the window is requested. provider: as of UsageReportRequested."""

    provider: Key | None = None


class UsageCounted(WindowFact, type="billing.usage_counted", version=1, aggregate="usage-window", key="window_id"):
    """The provider's count of the window; None when it could not be fetched, for this `reason`."""

    quantity: Count | None
    reason: Text | None
