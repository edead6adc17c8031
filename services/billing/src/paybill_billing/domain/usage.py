"""Usage: what internal services say was used, checked against the plan and counted per meter."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.billing import UsageRecorded
from paybill_contracts.catalogue import MeteredFeature
from paybill_contracts.errors import DomainError, ForbiddenError
from paybill_contracts.usage import Usage

from paybill_billing.domain.accounts import Account, UnknownTenantError
from paybill_billing.domain.entitlements import Entitlements

OLDEST = timedelta(days=35)
"""A month's invoice and a few days in which a publisher may have been away."""

NEWEST = timedelta(minutes=5)
"""What two machines' clocks may differ by."""


class PublisherNotAllowedError(ForbiddenError):
    """The publisher's credential does not cover this tenant."""

    code = "publisher_not_allowed"


class UnknownMeterError(DomainError):
    """The tenant's plan does not count this."""

    code = "unknown_meter"


class UsageOutsideWindowError(DomainError):
    """Too old to be billed, or not used yet."""

    code = "usage_outside_window"


@dataclass(frozen=True, slots=True)
class Meter:
    """All that a tenant used of one thing. `id` is `<tenant>:<meter>`."""

    id: str
    tenant_id: str
    meter: str
    total: int
    records: int


def meter_id(tenant_id: str, meter: str) -> str:
    return f"{tenant_id}:{meter}"


def record(
    meter: Meter | None,
    usage: Usage,
    *,
    usage_id: str,
    publisher: str,
    allowed: bool,
    account: Account | None,
    entitlements: Entitlements | None,
    now: datetime,
) -> list[UsageRecorded]:
    """Count what was used. That a measurement is counted once is the inbox's care, by `usage_id`.

    allowed: whether the publisher may speak of this tenant. Raises PublisherNotAllowedError, UnknownTenantError,
    UnknownMeterError, UsageOutsideWindowError.
    """
    if not allowed:
        raise PublisherNotAllowedError(f"{publisher} may not publish for {usage.tenant_id}; see the publishers file")
    if account is None:
        raise UnknownTenantError(f"there is no tenant {usage.tenant_id}")
    meters = sorted(f.meter for f in entitlements.features if isinstance(f, MeteredFeature)) if entitlements else []
    if usage.meter not in meters:
        counted = ", ".join(meters) or "nothing"
        raise UnknownMeterError(f"the plan of {usage.tenant_id} does not count {usage.meter}; it counts {counted}")
    if not now - OLDEST <= usage.occurred_at <= now + NEWEST:
        raise UsageOutsideWindowError(
            f"it was used at {usage.occurred_at.isoformat()}; accepted is from {OLDEST.days} days ago "
            f"to {NEWEST.seconds // 60} minutes ahead"
        )
    return [
        UsageRecorded(
            meter_id=meter_id(usage.tenant_id, usage.meter),
            tenant_id=usage.tenant_id,
            meter=usage.meter,
            usage_id=usage_id,
            publisher=publisher,
            quantity=usage.quantity,
            total=(meter.total if meter is not None else 0) + usage.quantity,
            occurred_at=usage.occurred_at,
        )
    ]


def evolve(meter: Meter | None, event: UsageRecorded) -> Meter:
    match event:
        case UsageRecorded():
            records = meter.records if meter is not None else 0
            return Meter(
                id=event.meter_id,
                tenant_id=event.tenant_id,
                meter=event.meter,
                total=event.total,
                records=records + 1,
            )
        case _:
            assert_never(event)
