"""Subscriptions for tests of rules that follow them."""

from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import Interval, PlanRef
from paybill_contracts.money import Money


def subscription_of(tenant_id, **changes):
    """Returns an active monthly subscription of the plan `pro`."""
    known = Subscription(
        subscription_id="sub_" + "1" * 32,
        tenant_id=tenant_id,
        provider="stripe",
        provider_subscription="sub_1",
        provider_status="active",
        access=AccessState.ACTIVE,
        plan=PlanRef(plan="pro", version=1, catalogue_hash="c" * 64),
        quantity=1,
        price=Money(minor=5000, currency="EUR"),
        period_start=None,
        period_end=None,
        cancel_at=None,
        grace_until=None,
        interval=Interval.MONTH,
    )
    return known.model_copy(update=changes)
