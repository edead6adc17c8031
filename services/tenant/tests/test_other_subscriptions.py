"""Changes of one subscription of a tenant that has another entitling subscription."""

from dataclasses import replace
from datetime import UTC, datetime

from paybill_contracts.billing import (
    AccessState,
    Subscription,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionSuspended,
)
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.money import Money
from paybill_contracts.tenant import Hold, HoldOrigin, OffboardingStarted, SuspensionMode, TenantReactivated
from paybill_tenant.domain import tenants
from paybill_tenant.domain.tenants import Status, Tenant

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ID, FIRST, SECOND = "ten_" + "1" * 32, "sub_" + "1" * 32, "sub_" + "2" * 32
ACTIVE = Tenant(id=ID, slug="acme", name="Acme", plan="pro", region="eu-1", status=Status.ACTIVE)
HOLD = Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="unpaid")
SUSPENDED = replace(ACTIVE, status=Status.SUSPENDED, holds=(HOLD,))
SNAPSHOT = Subscription(
    subscription_id=FIRST,
    tenant_id=ID,
    provider="stripe",
    provider_subscription="sub_1",
    provider_status="unpaid",
    access=AccessState.SUSPENDED,
    plan=PlanRef(plan="pro", version=1, catalogue_hash="a" * 64),
    quantity=1,
    price=Money(minor=2500, currency="EUR"),
    period_start=None,
    period_end=None,
    cancel_at=None,
    grace_until=None,
)


def test_one_of_several_subscriptions_does_not_suspend_the_tenant() -> None:
    for kind in (SubscriptionSuspended, SubscriptionPaused):
        only = kind(tenant_id=ID, subscription_id=FIRST, subscription=SNAPSHOT)

        assert tenants.on_subscription_suspended(ACTIVE, only.model_copy(update={"instead": SECOND})) == []
        assert tenants.on_subscription_suspended(ACTIVE, only) != []


def test_the_end_of_one_of_several_subscriptions_lifts_its_hold_only() -> None:
    last = SubscriptionEnded(tenant_id=ID, subscription_id=FIRST, subscription=SNAPSHOT, retention_s=60)
    one_of_two = last.model_copy(update={"others": 1})

    assert tenants.on_subscription_ended(ACTIVE, one_of_two, NOW) == []
    assert tenants.on_subscription_ended(SUSPENDED, one_of_two, NOW) == [
        TenantReactivated(tenant_id=ID, lifted=HoldOrigin.BILLING)
    ]
    assert [type(event) for event in tenants.on_subscription_ended(ACTIVE, last, NOW)] == [OffboardingStarted]
