"""Access of a tenant, as billing decides it: billing's hold follows the subscriptions and the entitlements."""

from datetime import datetime, timedelta

from paybill_contracts.accounts import DebtChanged
from paybill_contracts.billing import EntitlementsSet, SubscriptionPaused, SubscriptionSuspended
from paybill_contracts.tenant import DebtNoted, EntitlementNoted, Hold, HoldOrigin, OffboardingWithdrawn, SuspensionMode

from paybill_tenant.domain import holds, offboarding
from paybill_tenant.domain.tenants import BUILD_TIME, Status, Tenant, TenantEvent, evolve

PLAN_TIME = timedelta(minutes=5)
"""A plan of the environment that takes longer is overdue."""
NO_ACCESS = "no subscription gives access"


def on_subscription_suspended(tenant: Tenant, fact: SubscriptionSuspended | SubscriptionPaused) -> list[TenantEvent]:
    """Suspends the tenant, unless another subscription gives access."""
    if fact.instead is not None:
        return []
    return holds.hold(tenant, _billing_hold(f"the subscription is {fact.subscription.access}"))


def on_subscription_entitling(tenant: Tenant) -> list[TenantEvent]:
    """Lifts billing's hold and withdraws a scheduled offboarding: the subscription gives access.

    It became active, recovered, or is in its grace period.
    """
    if tenant.has_left:
        return []
    withdrawn = [OffboardingWithdrawn(tenant_id=tenant.id)] if tenant.scheduled is not None else []
    return [*withdrawn, *holds.lift(tenant, HoldOrigin.BILLING)]


def on_entitlements_set(tenant: Tenant, fact: EntitlementsSet, now: datetime) -> list[TenantEvent]:
    """Records what billing allows, and makes billing's hold agree with it. A tenant that left because of it returns."""
    noted = EntitlementNoted(
        tenant_id=tenant.id,
        allows_access=fact.allows_access,
        plan=fact.plan.plan,
        tier=fact.tier,
        placement=fact.placement,
        entitlements_hash=fact.entitlements_hash,
        expected_by=_expected_by(tenant, now) if fact.allows_access else None,
    )
    after = evolve(tenant, noted)
    events: list[TenantEvent] = [] if after == tenant else [noted]
    if not fact.allows_access:
        is_held = any(held.origin is HoldOrigin.BILLING for held in tenant.holds)
        return events if is_held else [*events, *holds.hold(after, _billing_hold(NO_ACCESS))]
    if tenant.status in {Status.RETAINED, Status.CANCELLED}:
        return [*events, *offboarding.come_back(after, now)]
    return [*events, *on_subscription_entitling(after)]


def _expected_by(tenant: Tenant, now: datetime) -> datetime | None:
    """Returns the end of the wait that begins with access; None when none begins."""
    if tenant.status is Status.REQUESTED and tenant.entitlement is None:
        return now + PLAN_TIME
    if tenant.status is Status.PROVISIONING and tenant.entitlement is not None and not tenant.entitlement.allows_access:
        return now + BUILD_TIME
    return None


def on_debt_changed(tenant: Tenant, fact: DebtChanged) -> list[TenantEvent]:
    """Records what the customer owes. It does not change access: billing decides that."""
    return [] if tenant.debt == fact.debt else [DebtNoted(tenant_id=tenant.id, debt=fact.debt)]


def _billing_hold(reason: str) -> Hold:
    return Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason=reason)
