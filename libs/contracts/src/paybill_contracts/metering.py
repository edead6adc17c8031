"""Events about usage windows: opened, quota warnings, closed, and reported to the billing provider."""

from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Aggregation
from paybill_contracts.event import Event
from paybill_contracts.values import Count, Digest, Key, ProviderId, TenantId, Text, Timestamp

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


class UsageWindowOpened(Event, type="billing.usage_window_opened", version=1, aggregate="meter", key="meter_id"):
    """Usage from `window_start` until before `window_end` is counted from now on, by the current catalogue.

    Usage that arrives at `closes_at` or later is refused. provider_meters: of the meter in the catalogue.
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


class WindowFact(Event):
    """Common fields of a closed window's events."""

    window_id: WindowId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    window_end: Timestamp


class UsageWindowClosed(
    WindowFact, type="billing.usage_window_closed", version=1, aggregate="usage-window", key="window_id"
):
    """`value` is the final usage of the window, from `records` measurements.

    provider_meter: the meter at `provider` that it is reported to; None when it is not reported.
    """

    aggregation: Aggregation
    value: Count
    records: Count
    catalogue_hash: Digest
    provider: Key
    provider_meter: ProviderId | None


class UsageReported(WindowFact, type="billing.usage_reported", version=1, aggregate="usage-window", key="window_id"):
    """The provider accepted the window's value and will bill it to `customer`."""

    quantity: Count
    provider: Key
    provider_meter: ProviderId
    customer: ProviderId


class UsageReportFailed(
    WindowFact, type="billing.usage_report_failed", version=1, aggregate="usage-window", key="window_id"
):
    """The provider did not accept the window's value; an operator can request another report."""

    reason: Text


class UsageReportRequested(
    WindowFact, type="billing.usage_report_requested", version=1, aggregate="usage-window", key="window_id"
):
    """A window's value is to be reported again, under the same idempotency key."""


class UsageCountRequested(
    WindowFact, type="billing.usage_count_requested", version=1, aggregate="usage-window", key="window_id"
):
    """The provider's count of the window is requested."""


class UsageCounted(WindowFact, type="billing.usage_counted", version=1, aggregate="usage-window", key="window_id"):
    """The provider's count of the window; None when it could not be fetched, for this `reason`."""

    quantity: Count | None
    reason: Text | None
