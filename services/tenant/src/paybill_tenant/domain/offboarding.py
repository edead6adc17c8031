"""Offboarding of a tenant, by an operator or after the end of its last subscription, and its return."""

from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.accounts import LeftoverEnded, LeftoverFound
from paybill_contracts.billing import SubscriptionEnded
from paybill_contracts.provisioner import EnvironmentRetained
from paybill_contracts.tenant import (
    ContactForgotten,
    Hold,
    HoldOrigin,
    OffboardingScheduled,
    OffboardingStarted,
    RemainderNoted,
    ReturnRuledOut,
    ReturnStarted,
    SuspensionMode,
    TenantCancelled,
    TenantRetained,
)

from paybill_tenant.domain import holds, purging
from paybill_tenant.domain.policies import LifecyclePolicy
from paybill_tenant.domain.tenants import (
    BUILD_TIME,
    RetentionUnknownError,
    Status,
    Tenant,
    TenantEvent,
    next_change,
)

EXPORT_TIME = timedelta(days=1)
"""An export that takes longer is overdue."""
ENDED = "the subscription ended"
ABANDONED = "nobody paid, so the sign-up was abandoned"


def offboard(tenant: Tenant, reason: str, now: datetime) -> list[TenantEvent]:
    """Offboards the tenant. Its data is kept for the retention period of its plan.

    One that billing has offboarded can no longer return; the time of its data stays. Raises LegalHoldError,
    RetentionUnknownError.
    """
    if _may_return(tenant):
        return [ReturnRuledOut(tenant_id=tenant.id, reason=reason)]
    return _offboard(tenant, HoldOrigin.OPERATOR, reason, tenant.retention_s, now)


def on_subscription_ended(
    tenant: Tenant, fact: SubscriptionEnded, policy: LifecyclePolicy, now: datetime
) -> list[TenantEvent]:
    """Closes access, and schedules the offboarding; with another entitling subscription it lifts billing's hold.

    The delay covers a customer that cancels one subscription before it creates the next.
    """
    if fact.others:
        return holds.lift(tenant, HoldOrigin.BILLING)
    if tenant.has_left or tenant.scheduled is not None:
        return []
    at = now + timedelta(seconds=policy.offboarding_delay_s)
    return [
        *holds.hold(tenant, Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason=ENDED)),
        OffboardingScheduled(
            tenant_id=tenant.id, reason=ENDED, retention_s=fact.retention_s, at=at, remaining=fact.remaining
        ),
    ]


def on_time(tenant: Tenant, now: datetime) -> list[TenantEvent]:
    """Begins what is due by time: an offboarding, a purge, the end of an unpaid sign-up or of a contact digest."""
    forgotten: list[TenantEvent] = []
    if tenant.contact_until is not None and now >= tenant.contact_until:
        forgotten = [ContactForgotten(tenant_id=tenant.id)]
    at = next_change(tenant)
    if at is None or now < at:
        return forgotten
    if tenant.status is Status.RETAINED:
        return [*forgotten, *purging.purge(tenant, now)]
    if tenant.scheduled is not None:
        scheduled = tenant.scheduled
        return [*forgotten, *_offboard(tenant, HoldOrigin.BILLING, scheduled.reason, scheduled.retention_s, now)]
    abandoned = TenantCancelled(tenant_id=tenant.id, origin=HoldOrigin.BILLING, reason=ABANDONED, is_abandoned=True)
    return [*forgotten, abandoned]


def on_environment_retained(tenant: Tenant, fact: EnvironmentRetained, now: datetime) -> list[TenantEvent]:
    """Ends offboarding: the data is exported and retained. A customer that has subscribed meanwhile returns.

    `retain_until` is known since offboarding began.
    """
    match tenant.status:
        case Status.OFFBOARDING:
            if tenant.retain_until is None:
                raise RetentionUnknownError(f"tenant {tenant.id} is offboarding without a date")
            retained = TenantRetained(tenant_id=tenant.id, retain_until=tenant.retain_until, export=fact.export)
            return [retained, *come_back(tenant, now)]
        case Status.REQUESTED | Status.AWAITING_APPROVAL | Status.PROVISIONING | Status.PROVISION_FAILED:
            return []
        case Status.ACTIVE | Status.CHANGING | Status.SUSPENDED | Status.QUARANTINED:
            return []
        case Status.RETAINED | Status.RETURNING | Status.CANCELLED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def on_account_closed(tenant: Tenant) -> list[TenantEvent]:
    """Forgets what remained when the subscription ended: billing cancels it, or reports what still exists."""
    return _remaining(tenant, ())


def on_leftover_found(tenant: Tenant, fact: LeftoverFound) -> list[TenantEvent]:
    """Records an object of the provider that can still charge the customer."""
    return _remaining(tenant, (*(each for each in tenant.remaining if each != fact.subscription), fact.subscription))


def on_leftover_ended(tenant: Tenant, fact: LeftoverEnded) -> list[TenantEvent]:
    """Records that it can no longer charge."""
    return _remaining(tenant, tuple(each for each in tenant.remaining if each != fact.subscription))


def _remaining(tenant: Tenant, remaining: tuple[str, ...]) -> list[TenantEvent]:
    changed = set(remaining) != set(tenant.remaining)
    return [RemainderNoted(tenant_id=tenant.id, remaining=remaining)] if changed else []


def come_back(tenant: Tenant, now: datetime) -> list[TenantEvent]:
    """Returns the tenant to its customer: with access and the same data, which is no longer to be deleted.

    Only after an offboarding by billing, and while billing allows access. An operator's offboarding is final, and so is
    an abandoned sign-up, whose slug is free.
    """
    entitlement = tenant.entitlement
    if not _may_return(tenant) or entitlement is None or not entitlement.allows_access:
        return []
    return [
        ReturnStarted(
            tenant_id=tenant.id,
            holds=tuple(held for held in tenant.holds if held.origin is not HoldOrigin.BILLING),
            plan=entitlement.plan,
            tier=entitlement.tier,
            placement=entitlement.placement,
            entitlements_hash=entitlement.entitlements_hash,
            expected_by=now + BUILD_TIME,
        )
    ]


def _may_return(tenant: Tenant) -> bool:
    has_data = tenant.status in {Status.OFFBOARDING, Status.RETAINED, Status.CANCELLED}
    return has_data and tenant.left_by is HoldOrigin.BILLING and not tenant.slug_is_free


def _offboard(
    tenant: Tenant, origin: HoldOrigin, reason: str, retention_s: int | None, now: datetime
) -> list[TenantEvent]:
    """Starts offboarding, or cancels a tenant that has no environment with data. An unpaid sign-up frees its slug."""
    if tenant.has_left:
        return []
    holds.require_no_legal_hold(tenant)
    match tenant.status:
        case Status.REQUESTED | Status.AWAITING_APPROVAL | Status.PROVISION_FAILED if tenant.epoch is None:
            had_subscription = tenant.entitlement is not None or tenant.scheduled is not None
            abandoned = origin is HoldOrigin.OPERATOR and not had_subscription
            return [TenantCancelled(tenant_id=tenant.id, origin=origin, reason=reason, is_abandoned=abandoned)]
        case _:
            if retention_s is None:
                raise RetentionUnknownError(
                    f"billing has not published the retention period of tenant {tenant.slug}; try again when it runs"
                )
            return [
                OffboardingStarted(
                    tenant_id=tenant.id,
                    origin=origin,
                    reason=reason,
                    retain_until=now + timedelta(seconds=retention_s),
                    expected_by=now + EXPORT_TIME,
                )
            ]
