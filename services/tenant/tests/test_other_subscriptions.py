"""Changes of one subscription of a tenant that has another entitling subscription."""

from paybill_contracts.billing import AccessState, SubscriptionEnded, SubscriptionPaused, SubscriptionSuspended
from paybill_contracts.tenant import HoldOrigin, OffboardingScheduled, TenantReactivated, TenantSuspended
from paybill_tenant.domain import access, offboarding
from tenant_samples import ACTIVE, ID, NOW, POLICY, SUSPENDED, subscription_fields

SECOND = "sub_" + "2" * 32


def test_one_of_several_subscriptions_does_not_suspend_the_tenant() -> None:
    for kind in (SubscriptionSuspended, SubscriptionPaused):
        only = kind(**subscription_fields(ID, AccessState.SUSPENDED))

        assert access.on_subscription_suspended(ACTIVE, only.model_copy(update={"instead": SECOND})) == []
        assert access.on_subscription_suspended(ACTIVE, only) != []


def test_the_end_of_one_of_several_subscriptions_lifts_its_hold_only() -> None:
    last = SubscriptionEnded(**subscription_fields(ID, AccessState.ENDED), retention_s=60)
    one_of_two = last.model_copy(update={"others": 1})

    assert offboarding.on_subscription_ended(ACTIVE, one_of_two, POLICY, NOW) == []
    assert offboarding.on_subscription_ended(SUSPENDED, one_of_two, POLICY, NOW) == [
        TenantReactivated(tenant_id=ID, lifted=HoldOrigin.BILLING)
    ]
    assert [type(event) for event in offboarding.on_subscription_ended(ACTIVE, last, POLICY, NOW)] == [
        TenantSuspended,
        OffboardingScheduled,
    ]
