"""Changes of one subscription of a tenant that has another entitling subscription."""

from paybill_contracts.billing import AccessState, SubscriptionEnded, SubscriptionPaused, SubscriptionSuspended
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted, TenantReactivated
from paybill_tenant.domain import tenants
from tenant_samples import ACTIVE, ID, NOW, SUSPENDED, subscription_fields

SECOND = "sub_" + "2" * 32


def test_one_of_several_subscriptions_does_not_suspend_the_tenant() -> None:
    for kind in (SubscriptionSuspended, SubscriptionPaused):
        only = kind(**subscription_fields(ID, AccessState.SUSPENDED))

        assert tenants.on_subscription_suspended(ACTIVE, only.model_copy(update={"instead": SECOND})) == []
        assert tenants.on_subscription_suspended(ACTIVE, only) != []


def test_the_end_of_one_of_several_subscriptions_lifts_its_hold_only() -> None:
    last = SubscriptionEnded(**subscription_fields(ID, AccessState.ENDED), retention_s=60)
    one_of_two = last.model_copy(update={"others": 1})

    assert tenants.on_subscription_ended(ACTIVE, one_of_two, NOW) == []
    assert tenants.on_subscription_ended(SUSPENDED, one_of_two, NOW) == [
        TenantReactivated(tenant_id=ID, lifted=HoldOrigin.BILLING)
    ]
    assert [type(event) for event in tenants.on_subscription_ended(ACTIVE, last, NOW)] == [OffboardingStarted]
