"""Invariants of a tenant's lifecycle, as pure functions over the facts that this service handles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

from paybill_contracts.invariants import Difference, Invariant
from paybill_contracts.tenant import HoldOrigin

from paybill_tenant.domain.incidents import is_known_to_a_person, unowned_leftovers
from paybill_tenant.domain.tenants import Status, Tenant

TIMER_DELAY = timedelta(minutes=1)
"""A timer that fires later is overdue."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reason why a tenant is not in a resting state, and the time at which the wait ends.

    until: None when a person ends the wait, who may take any time. tolerance: a wait that is longer is overdue.
    """

    reason: str
    until: datetime | None = None
    tolerance: timedelta = timedelta()


def access_agrees(tenant: Tenant) -> Difference | None:
    """Invariant 1: billing allows access exactly when the tenant has no hold of billing and is not leaving."""
    if tenant.entitlement is None or _returns(tenant):
        return None
    is_held = any(hold.origin is HoldOrigin.BILLING for hold in tenant.holds)
    if tenant.entitlement.allows_access == (not is_held and not _is_leaving(tenant)):
        return None
    side = "billing allows access" if tenant.entitlement.allows_access else "billing allows no access"
    held = "is held by billing" if is_held else "has no hold of billing"
    return Difference(left=side, right=f"{tenant.slug} is {tenant.status} and {held}")


def leaves_nothing_that_charges(tenant: Tenant) -> Difference | None:
    """Invariant 2: a tenant that is leaving has nothing at the provider that can still charge, or an owned incident."""
    if not _is_leaving(tenant):
        return None
    if found := unowned_leftovers(tenant):
        return Difference(left=f"{tenant.slug} is {tenant.status}", right=f"not cancelled: {', '.join(found)}")
    if tenant.entitlement is not None and tenant.entitlement.allows_access:
        return Difference(
            left=f"{tenant.slug} is {tenant.status}", right=f"a subscription to {tenant.entitlement.plan} is paid"
        )
    return None


def is_served_if_it_pays(tenant: Tenant, *, has_incident: bool = False) -> Difference | None:
    """Invariant 3: a customer that pays has a tenant that is active or on its way, or an owned incident."""
    if tenant.entitlement is None or not tenant.entitlement.allows_access or has_incident:
        return None
    if tenant.status is not Status.PROVISION_FAILED and not _is_leaving(tenant):
        return None
    return Difference(
        left=f"a subscription to {tenant.entitlement.plan} is paid", right=f"{tenant.slug} is {tenant.status}"
    )


def _is_served(tenant: Tenant) -> Difference | None:
    return is_served_if_it_pays(tenant, has_incident=is_known_to_a_person(tenant))


def is_not_overdue(tenant: Tenant, now: datetime) -> Difference | None:
    """Invariant 7: a tenant that is not in a resting state shows its reason to wait, and the wait ends in time."""
    wait = waiting(tenant)
    if wait is None or wait.until is None or now <= wait.until + wait.tolerance:
        return None
    return Difference(
        left=f"{tenant.slug} waits for {wait.reason}, until {wait.until:%Y-%m-%d %H:%M:%S} UTC",
        right="that time is over",
    )


def waiting(tenant: Tenant) -> Waiting | None:
    """Returns the tenant's reason to wait; None in a resting state."""
    if tenant.scheduled is not None and tenant.legal_holds:
        return Waiting(f"offboarding waits for the end of the legal hold {tenant.legal_holds[0]}")
    if tenant.scheduled is not None:
        return Waiting("offboarding waits for another subscription", tenant.scheduled.at, TIMER_DELAY)
    match tenant.status:
        case Status.ACTIVE | Status.RETAINED | Status.CANCELLED | Status.PURGED:
            return None
        case Status.AWAITING_APPROVAL:
            return Waiting(f"the approval {tenant.awaits.id}" if tenant.awaits else "an approval")
        case Status.CHANGING:
            return Waiting("the plan that changes its environment")
        case Status.QUARANTINED:
            return Waiting("an operator to end its quarantine")
        case Status.PURGING if tenant.legal_holds:
            return Waiting(f"the end of the legal hold {tenant.legal_holds[0]}")
        case Status.PURGING:
            return Waiting("the deletion of everything that exists for it", tenant.expected_by)
        case Status.REQUESTED:
            return _waiting_for_payment(tenant) or Waiting("the plan of the environment", tenant.expected_by)
        case Status.PROVISIONING if tenant.entitlement is not None and not tenant.entitlement.allows_access:
            # A plan that has not begun ends without access, and is made again with it.
            return Waiting("a subscription that gives access")
        case Status.PROVISIONING | Status.RETURNING:
            return Waiting("the environment to be ready", tenant.expected_by)
        case Status.PROVISION_FAILED:
            return Waiting("an operator to retry the environment")
        case Status.SUSPENDED:
            origins = sorted({hold.origin for hold in tenant.holds})
            return Waiting(f"the end of a hold by {' and '.join(origins)}")
        case Status.OFFBOARDING:
            return Waiting("the export of the data", tenant.expected_by)
        case _:
            assert_never(tenant.status)


def _waiting_for_payment(tenant: Tenant) -> Waiting | None:
    if tenant.entitlement is not None:
        return None if tenant.entitlement.allows_access else Waiting("a payment")
    return Waiting("the first payment", None if tenant.legal_holds else tenant.valid_until, TIMER_DELAY)


def _is_leaving(tenant: Tenant) -> bool:
    return tenant.has_left and not _returns(tenant)


def _returns(tenant: Tenant) -> bool:
    """Returns True for a tenant that returns after its export, because its customer has subscribed again."""
    is_undone = tenant.status is Status.OFFBOARDING and tenant.left_by is HoldOrigin.BILLING
    return is_undone and tenant.entitlement is not None and tenant.entitlement.allows_access


def _check(rule: Callable[[Tenant], Difference | None]) -> Callable[[Sequence[Any], datetime], Difference | None]:
    """Returns the check of a rule that needs no time."""
    return lambda states, _: rule(states[0])


def _check_wait(states: Sequence[Any], now: datetime) -> Difference | None:
    return is_not_overdue(states[0], now)


RULES = (
    Invariant(
        1,
        "billing allows access exactly when the tenant has no hold of billing and is not leaving",
        _check(access_agrees),
    ),
    Invariant(
        2,
        "a tenant that is leaving has nothing at the provider that can still charge its customer, or an open incident "
        "with an owner",
        _check(leaves_nothing_that_charges),
    ),
    Invariant(
        3,
        "a customer that pays has a tenant that is active or on its way, or an open incident with an owner",
        _check(_is_served),
    ),
    Invariant(
        7,
        "a tenant that is not in a resting state shows what it waits for, and the wait ends in time",
        _check_wait,
    ),
)
