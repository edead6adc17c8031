"""Sample subscription for tests of changes and plan migrations."""

from billing_samples import CATALOGUE, DAY, EUR_20, NOW, TENANT
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import PlanRef

SUBSCRIPTION_ID = "sub_" + "1" * 32
PINNED = PlanRef(plan="pro", version=1, catalogue_hash=CATALOGUE.content_hash)
SUBSCRIPTION = Subscription(
    subscription_id=SUBSCRIPTION_ID,
    tenant_id=TENANT,
    provider="stripe",
    provider_subscription="sub_P1",
    provider_status="active",
    access=AccessState.ACTIVE,
    plan=PINNED,
    quantity=3,
    price=EUR_20,
    period_start=NOW - DAY,
    period_end=NOW + 29 * DAY,
    cancel_at=None,
    grace_until=None,
)


def having(**changes_):
    return SUBSCRIPTION.model_copy(update=changes_)
