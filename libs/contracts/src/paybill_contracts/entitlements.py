"""Entitlements: overrides and grants of operators, and the check of a tenant's entitlements.

A service that checks often keeps an `EntitlementsCache` of the events that it subscribes to, and calls `check` on it:
no network, no clock.
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
    """An operator gives the tenant `feature` in place of the plan's feature with this key, or in addition.

    It is valid from `valid_from` until before `valid_until`, permanently when that is None. Of several valid ones, the
    one with the latest `valid_from` counts, and of equal ones the newest.
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
    """An operator gives the tenant more of a feature: all valid grants are added to plan and overrides.

    amount: added to a limit, or to the included units and the quota of a metered feature; 0 for a boolean, which is
    switched on. Valid as an override is.
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
    """An operator withdrew an override or a grant."""

    tenant_id: TenantId
    withdrawn_id: ExceptionId
    reason: Text
    decided_at: Timestamp


class Reason(StrEnum):
    """Reason of a check's result; part of our API."""

    ALLOWED = "allowed"
    NO_ACCESS = "no_access"
    NOT_INCLUDED = "not_included"
    SWITCHED_OFF = "switched_off"
    LIMIT_REACHED = "limit_reached"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of a check. limit: a limit or quota, None for no bound; remaining: the unused part of it."""

    allowed: bool
    reason: Reason
    limit: int | None = None
    remaining: int | None = None


class Entitlements(Protocol):
    """Effective entitlements of a tenant, such as the event `EntitlementsSet`."""

    @property
    def allows_access(self) -> bool: ...

    @property
    def features(self) -> tuple[Feature, ...]: ...


_ALLOWED = CheckResult(allowed=True, reason=Reason.ALLOWED)
_NO_ACCESS = CheckResult(allowed=False, reason=Reason.NO_ACCESS)
_NOT_INCLUDED = CheckResult(allowed=False, reason=Reason.NOT_INCLUDED)
_SWITCHED_OFF = CheckResult(allowed=False, reason=Reason.SWITCHED_OFF)


def check(entitlements: Entitlements | None, feature: str, *, used: int = 0, requested: int = 1) -> CheckResult:
    """Checks that `requested` more units of `feature` may be used when `used` are in use.

    entitlements: None for a tenant that never had an entitling subscription. used: for a limit the number that exists
    now, for a metered feature the usage of the open window. used and requested are not negative.
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
    """Effective entitlements of tenants, kept up to date by events; an event that is not newer changes nothing."""

    def __init__(self) -> None:
        self._sets: dict[str, tuple[int, EntitlementsSet]] = {}

    def apply(self, event: EntitlementsSet, revision: int) -> bool:
        """Applies an event; revision: of its envelope. Returns False when a newer one is known."""
        known = self._sets.get(event.tenant_id)
        if known is not None and revision <= known[0]:
            return False
        self._sets[event.tenant_id] = (revision, event)
        return True

    def get(self, tenant_id: str) -> EntitlementsSet | None:
        """Returns the tenant's entitlements; None when no event about them was applied."""
        known = self._sets.get(tenant_id)
        return known[1] if known is not None else None
