"""Subscriptions, features, overrides and grants for tests of entitlements."""

from billing_samples import EUR_20, NOW, PRO_1, TENANT
from paybill_billing.entitlements.domain import entitlements
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, MeteredFeature, PlanRef, StaticFeature

ACTIVE = Subscription(
    subscription_id="sub_" + "1" * 32,
    tenant_id=TENANT,
    provider="stripe",
    provider_subscription="sub_P1",
    provider_status="active",
    access=AccessState.ACTIVE,
    plan=PlanRef(plan="pro", version=1, catalogue_hash="c" * 64),
    quantity=1,
    price=EUR_20,
    period_start=None,
    period_end=None,
    cancel_at=None,
    grace_until=None,
)
ON_BASIC = ACTIVE.model_copy(update={"plan": PlanRef(plan="basic", version=1, catalogue_hash="c" * 64)})
SECOND = ACTIVE.model_copy(update={"subscription_id": "sub_" + "2" * 32})
SSO = BooleanFeature(kind="boolean", key="sso", enabled=False)
SUPPORT = StaticFeature(kind="static", key="support", value="community")
QUOTA = MeteredFeature(kind="metered", key="calls", meter="calls", included=100, quota=200)
EXTENDED_PLAN = PRO_1.model_copy(update={"features": (*PRO_1.features, SSO, SUPPORT)})


def with_access(access, subscription=ACTIVE):
    return subscription.model_copy(update={"access": access})


def after(current, events):
    for event in events:
        current = entitlements.evolve(current, event)
    return current


def applied(current, subscription, plan, now=NOW):
    return after(current, entitlements.apply_subscription(current, subscription, plan, now))


PRO = applied(None, ACTIVE, PRO_1)
EXTENDED = applied(None, ACTIVE, EXTENDED_PLAN)


def limit(number, key="projects"):
    return LimitFeature(kind="limit", key=key, limit=number)


def overridden(current, feature, since=NOW, until=None, number=1, now=NOW):
    return entitlements.override(
        current,
        override_id=f"ovr_{number:032x}",
        feature=feature,
        valid_from=since,
        valid_until=until,
        reason="contract 7",
        meters=["calls"],
        now=now,
    )


def granted(current, feature, amount=0, since=NOW, until=None, number=1, now=NOW):
    return entitlements.grant(
        current,
        grant_id=f"grt_{number:032x}",
        feature=feature,
        amount=amount,
        valid_from=since,
        valid_until=until,
        reason="a gift",
        now=now,
    )
