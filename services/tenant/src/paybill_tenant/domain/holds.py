"""Holds of a tenant: reasons to keep it suspended, and legal holds, which prevent its deletion."""

from typing import assert_never

from paybill_contracts.errors import ConflictError, NotFoundError
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    LegalHoldPlaced,
    LegalHoldReleased,
    SuspensionMode,
    TenantReactivated,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import QuarantineEnded, TenantQuarantined

from paybill_tenant.domain.tenants import LegalHoldError, Status, Tenant, TenantEvent, TenantLeftError

RUNNING = frozenset({Status.ACTIVE, Status.CHANGING, Status.SUSPENDED})
"""Statuses of tenants with an environment that is ready."""

MAX_HOLDS = 20
"""Maximum number of operators' holds, and of legal holds, of one tenant."""


class TooManyHoldsError(ConflictError):
    code = "too_many_holds"


class NotRunningError(ConflictError):
    """The tenant has no environment that is ready, or is quarantined for another reason."""

    code = "tenant_not_running"


class NoSuchHoldError(NotFoundError):
    """The tenant has no hold with this reason, or no legal hold for this case."""

    code = "no_such_hold"


def suspend(tenant: Tenant, mode: SuspensionMode, reason: str) -> list[TenantEvent]:
    """Suspends the tenant by an operator's hold and keeps its data. Holds with other reasons remain."""
    _require_customer(tenant)
    events = hold(tenant, Hold(origin=HoldOrigin.OPERATOR, mode=mode, reason=reason))
    placed = [held.reason for held in tenant.holds if held.origin is HoldOrigin.OPERATOR]
    if events and reason not in placed and len(placed) >= MAX_HOLDS:
        raise TooManyHoldsError(f"{tenant.slug} has {MAX_HOLDS} holds of operators; resume it from one of them first")
    return events


def resume(tenant: Tenant, reason: str | None = None) -> list[TenantEvent]:
    """Lifts the operators' holds, or only the one with this reason. Billing's hold stays until payment.

    Raises TenantLeftError, NoSuchHoldError.
    """
    _require_customer(tenant)
    if reason is None:
        return lift(tenant, HoldOrigin.OPERATOR)
    if not any(held.origin is HoldOrigin.OPERATOR and held.reason == reason for held in tenant.holds):
        reasons = ", ".join(repr(held.reason) for held in tenant.holds if held.origin is HoldOrigin.OPERATOR)
        others = f", only for {reasons}" if reasons else ""
        raise NoSuchHoldError(f"{tenant.slug} has no hold for {reason!r}{others}")
    return lift(tenant, HoldOrigin.OPERATOR, reason)


def place_legal_hold(tenant: Tenant, case: str) -> list[TenantEvent]:
    """Keeps the tenant's data for a legal case: nothing that leads to its deletion begins. Access does not change.

    Raises TenantLeftError for a tenant without data, TooManyHoldsError.
    """
    if tenant.status in {Status.CANCELLED, Status.PURGED}:
        raise TenantLeftError(f"tenant {tenant.slug} is {tenant.status}; it has no data to keep")
    if case in tenant.legal_holds:
        return []
    if len(tenant.legal_holds) >= MAX_HOLDS:
        raise TooManyHoldsError(f"{tenant.slug} has {MAX_HOLDS} legal holds; release one first")
    return [LegalHoldPlaced(tenant_id=tenant.id, case=case)]


def release_legal_hold(tenant: Tenant, case: str) -> list[TenantEvent]:
    """Ends the legal hold of a case. Offboarding that was due meanwhile begins. Raises NoSuchHoldError."""
    if case not in tenant.legal_holds:
        others = f", only for {', '.join(tenant.legal_holds)}" if tenant.legal_holds else ""
        raise NoSuchHoldError(f"{tenant.slug} has no legal hold for {case}{others}")
    return [LegalHoldReleased(tenant_id=tenant.id, case=case)]


def require_no_legal_hold(tenant: Tenant) -> None:
    """Raises LegalHoldError when the tenant's data must be kept. Every verb that leads to its deletion calls it."""
    if tenant.legal_holds:
        cases = ", ".join(tenant.legal_holds)
        raise LegalHoldError(f"the data of {tenant.slug} is kept for {cases}; release the legal hold first")


def hold(tenant: Tenant, new: Hold) -> list[TenantEvent]:
    """Adds a hold. It replaces billing's last one, or an operator's with the same reason.

    Ignored for a tenant that is leaving.
    """
    if new in tenant.holds or tenant.has_left:
        return []
    others = [held for held in tenant.holds if not _replaces(new, held)]
    holds = tuple(sorted([*others, new], key=lambda held: held.origin))
    match tenant.status:
        case (
            Status.REQUESTED
            | Status.AWAITING_APPROVAL
            | Status.PROVISIONING
            | Status.PROVISION_FAILED
            | Status.RETURNING
            | Status.QUARANTINED
        ):
            return [_changed(tenant, holds)]
        case Status.ACTIVE | Status.CHANGING | Status.SUSPENDED:
            return [suspended(tenant, holds)]
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def lift(tenant: Tenant, origin: HoldOrigin, reason: str | None = None) -> list[TenantEvent]:
    """Removes the holds of `origin`, or the one with this reason; without any hold, the tenant is reactivated.

    Ignored for a tenant that is leaving.
    """
    holds = tuple(held for held in tenant.holds if held.origin is not origin or reason not in {None, held.reason})
    if holds == tenant.holds or tenant.has_left:
        return []
    match tenant.status:
        case (
            Status.REQUESTED
            | Status.AWAITING_APPROVAL
            | Status.PROVISIONING
            | Status.PROVISION_FAILED
            | Status.RETURNING
            | Status.QUARANTINED
        ):
            return [_changed(tenant, holds)]
        case Status.ACTIVE | Status.CHANGING | Status.SUSPENDED:
            return [suspended(tenant, holds) if holds else TenantReactivated(tenant_id=tenant.id, lifted=origin)]
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def quarantine(tenant: Tenant, reason: str) -> list[TenantEvent]:
    """Takes all access from a tenant for its security, until the quarantine ends. Holds do not change.

    Raises TenantLeftError, NotRunningError.
    """
    _require_customer(tenant)
    if tenant.quarantine is not None and tenant.quarantine.reason == reason:
        return []
    if tenant.status not in RUNNING:
        raise NotRunningError(
            f"{tenant.slug} is {tenant.status}; only a tenant that runs is quarantined, suspend another one"
        )
    new = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.BLOCKED, reason=reason)
    return [TenantQuarantined(tenant_id=tenant.id, reason=reason, holds=(*tenant.holds, new))]


def end_quarantine(tenant: Tenant) -> list[TenantEvent]:
    """Ends a quarantine: the tenant is as its holds say. Idempotent. Raises TenantLeftError."""
    _require_customer(tenant)
    if tenant.quarantine is None:
        return []
    ended = QuarantineEnded(tenant_id=tenant.id)
    if tenant.holds:
        return [ended, suspended(tenant, tenant.holds)]
    return [ended, TenantReactivated(tenant_id=tenant.id, lifted=HoldOrigin.OPERATOR)]


def _changed(tenant: Tenant, holds: tuple[Hold, ...]) -> HoldsChanged:
    """Returns the event of other holds, which never takes away that of a quarantine."""
    in_force = holds if tenant.quarantine is None else (*holds, tenant.quarantine)
    return HoldsChanged(tenant_id=tenant.id, holds=in_force)


def suspended(tenant: Tenant, holds: tuple[Hold, ...]) -> TenantSuspended:
    """Returns the event of a suspension by these holds, in the strictest of their modes."""
    blocked = any(held.mode is SuspensionMode.BLOCKED for held in holds)
    mode = SuspensionMode.BLOCKED if blocked else SuspensionMode.READ_ONLY
    return TenantSuspended(tenant_id=tenant.id, mode=mode, holds=holds)


def _replaces(new: Hold, held: Hold) -> bool:
    return new.origin is held.origin and (new.origin is HoldOrigin.BILLING or new.reason == held.reason)


def _require_customer(tenant: Tenant) -> None:
    if tenant.has_left:
        raise TenantLeftError(f"tenant {tenant.slug} is {tenant.status}; it can no longer be suspended or resumed")
