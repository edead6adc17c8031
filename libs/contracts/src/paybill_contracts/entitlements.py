"""Entitlements: what an operator adds to a plan, as facts, and how any service checks what a tenant may use.

A service that asks often keeps a `Copy`, fed by the facts that it hears, and calls `check`: no network, no clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol, assert_never

from pydantic import Field, StringConstraints

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import BooleanFeature, Feature, LimitFeature, MeteredFeature, StaticFeature
from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, TenantId, Text, Timestamp

OverrideId = Annotated[
    str,
    StringConstraints(pattern=r"^ovr_[0-9a-f]{32}$"),
    Field(examples=["ovr_0123456789abcdef0123456789abcdef"]),
]
GrantId = Annotated[
    str,
    StringConstraints(pattern=r"^grt_[0-9a-f]{32}$"),
    Field(examples=["grt_0123456789abcdef0123456789abcdef"]),
]
ExceptionId = Annotated[
    str,
    StringConstraints(pattern=r"^(ovr|grt)_[0-9a-f]{32}$"),
    Field(examples=["ovr_0123456789abcdef0123456789abcdef"]),
]
"""The id of an override or of a grant."""


class EntitlementOverridden(
    Event, type="billing.entitlement_overridden", version=1, aggregate="entitlements", key="tenant_id"
):
    """An operator gives the tenant `feature` instead of the plan's of the same key, or beside the plan's.

    It holds from `valid_from` until before `valid_until`, for ever when that is None. Of several that hold, the one
    that began last counts, and of those that began together the one that was made last.
    """

    tenant_id: TenantId
    override_id: OverrideId
    feature: Feature
    valid_from: Timestamp
    valid_until: Timestamp | None
    reason: Text
    decided_at: Timestamp


class EntitlementGranted(
    Event, type="billing.entitlement_granted", version=1, aggregate="entitlements", key="tenant_id"
):
    """An operator gives the tenant more of a feature: all grants that hold add up, on top of plan and overrides.

    amount: added to a limit, or to what is included and to the quota of what is metered; 0 for a boolean, which is
    switched on. Validity is as of an override.
    """

    tenant_id: TenantId
    grant_id: GrantId
    feature: Key
    amount: Count
    valid_from: Timestamp
    valid_until: Timestamp | None
    reason: Text
    decided_at: Timestamp


class EntitlementWithdrawn(
    Event, type="billing.entitlement_withdrawn", version=1, aggregate="entitlements", key="tenant_id"
):
    """An operator took an override or a grant back."""

    tenant_id: TenantId
    withdrawn_id: ExceptionId
    reason: Text
    decided_at: Timestamp


class Reason(StrEnum):
    """Why a check was answered as it was. These are part of our API."""

    ALLOWED = "allowed"
    NO_ACCESS = "no_access"
    NOT_INCLUDED = "not_included"
    SWITCHED_OFF = "switched_off"
    LIMIT_REACHED = "limit_reached"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether the tenant may. limit: a limit or quota, None where there is no bound; remaining: what is left of it."""

    allowed: bool
    reason: Reason
    limit: int | None = None
    remaining: int | None = None


class Entitlements(Protocol):
    """What a tenant may use, such as the fact `EntitlementsSet`."""

    @property
    def allows_access(self) -> bool: ...

    @property
    def features(self) -> tuple[Feature, ...]: ...


_ALLOWED = CheckResult(allowed=True, reason=Reason.ALLOWED)
_NO_ACCESS = CheckResult(allowed=False, reason=Reason.NO_ACCESS)
_NOT_INCLUDED = CheckResult(allowed=False, reason=Reason.NOT_INCLUDED)
_SWITCHED_OFF = CheckResult(allowed=False, reason=Reason.SWITCHED_OFF)


def check(entitlements: Entitlements | None, feature: str, *, used: int = 0, requested: int = 1) -> CheckResult:
    """Whether `want` more of `feature` may be used when `used` are in use already.

    held: None for a tenant that never had a subscription which gave access. used: for a limit what exists now, for
    what is metered what was used in the open window. used and want are not negative.
    """
    if entitlements is None or not entitlements.allows_access:
        return _NO_ACCESS
    for each in entitlements.features:
        if each.key == feature:
            break
    else:
        return _NOT_INCLUDED
    match each:
        case BooleanFeature():
            return _ALLOWED if each.enabled else _SWITCHED_OFF
        case StaticFeature():
            return _ALLOWED
        case LimitFeature():
            return _bounded(each.limit, used, requested, Reason.LIMIT_REACHED)
        case MeteredFeature():
            return _ALLOWED if each.quota is None else _bounded(each.quota, used, requested, Reason.QUOTA_EXCEEDED)
        case _:
            assert_never(each)


def _bounded(limit: int, used: int, requested: int, refusal: Reason) -> CheckResult:
    allowed = used + requested <= limit
    return CheckResult(allowed, Reason.ALLOWED if allowed else refusal, limit, max(limit - used, 0))


class EntitlementsCache:
    """What tenants may use, as this process heard it; a fact that is not newer than what is known changes nothing."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, EntitlementsSet]] = {}

    def apply(self, event: EntitlementsSet, revision: int) -> bool:
        """Take a fact in; revision: of its envelope. Whether it was news."""
        known = self._held.get(event.tenant_id)
        if known is not None and revision <= known[0]:
            return False
        self._held[event.tenant_id] = (revision, event)
        return True

    def get(self, tenant_id: str) -> EntitlementsSet | None:
        """What the tenant may use; None when nothing was heard of it."""
        known = self._held.get(tenant_id)
        return known[1] if known is not None else None
