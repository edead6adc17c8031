"""Facts about windows of usage: opened, nearly full, closed, and sent to the provider that bills them."""

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
"""`<tenant>:<meter>:<the first byte of the members' digests>`."""

ItemDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$"), Field(examples=["7f3456789abcdef012345678"])]
"""The first 96 bits of SHA-256 of one of the things that a meter tells apart, lower-case hex."""


class UsageWindowOpened(Event, type="billing.usage_window_opened", version=1, aggregate="meter", key="meter_id"):
    """Usage from `window_start` until before `window_end` is counted from now on, as the catalogue says at this moment.

    What comes at `closes_at` or later is too late. provider_meters: what the catalogue has there.
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
    """One more of the different things that a meter counts was seen, for the first time in this window.

    Members of windows that start before `forget_before` are needed no more.
    """

    members_id: ItemSetId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    member: ItemDigest
    forget_before: Timestamp


class QuotaFact(Event):
    """What both facts about quotas carry: how much is used in this window, and how much may be."""

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    window_end: Timestamp
    value: Count
    quota: Count


class QuotaWarned(QuotaFact, type="billing.quota_warned", version=1, aggregate="meter", key="meter_id"):
    """Four fifths are used. Said once in a window, and again when the quota has risen since."""


class QuotaExceeded(QuotaFact, type="billing.quota_exceeded", version=1, aggregate="meter", key="meter_id"):
    """All is used. Said once in a window, and again when the quota has risen since."""


class UsageWatermarkMoved(Event, type="billing.usage_watermark_moved", version=1, aggregate="meter", key="meter_id"):
    """The windows that start at `closed` take nothing more; nor does any other time before `watermark`."""

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    closed: tuple[Timestamp, ...]
    watermark: Timestamp


class WindowFact(Event):
    """What all facts of a closed window carry."""

    window_id: WindowId
    tenant_id: TenantId
    meter: Key
    window_start: Timestamp
    window_end: Timestamp


class UsageWindowClosed(
    WindowFact, type="billing.usage_window_closed", version=1, aggregate="usage-window", key="window_id"
):
    """`value` is what was used in the window, of `records` measurements, and stays so.

    provider_meter: where it is to be sent, at `provider`; None when it is sent nowhere.
    """

    aggregation: Aggregation
    value: Count
    records: Count
    catalogue_hash: Digest
    provider: Key
    provider_meter: ProviderId | None


class UsageReported(WindowFact, type="billing.usage_reported", version=1, aggregate="usage-window", key="window_id"):
    """The provider has taken the window's value, and will bill it to `customer`."""

    quantity: Count
    provider: Key
    provider_meter: ProviderId
    customer: ProviderId


class UsageReportFailed(
    WindowFact, type="billing.usage_report_failed", version=1, aggregate="usage-window", key="window_id"
):
    """The provider has not taken the window's value; an operator can have it sent again."""

    reason: Text


class UsageReportRequested(
    WindowFact, type="billing.usage_report_requested", version=1, aggregate="usage-window", key="window_id"
):
    """A window's value is to be sent again, under the same key as before."""


class UsageCountRequested(
    WindowFact, type="billing.usage_count_requested", version=1, aggregate="usage-window", key="window_id"
):
    """Somebody wants to know what the provider has counted in the window."""


class UsageCounted(WindowFact, type="billing.usage_counted", version=1, aggregate="usage-window", key="window_id"):
    """What the provider says that it has counted in the window; None when it could not be asked, for this `reason`."""

    quantity: Count | None
    reason: Text | None
