"""Sample values for tests of the rules."""

from datetime import UTC, datetime, timedelta

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.providers.port.snapshots import PriceSnapshot, ProviderSnapshot, SnapshotItem
from paybill_billing.subscriptions.domain.accounts import Account, Status
from paybill_billing.subscriptions.domain.subscriptions import PinnedPlan
from paybill_contracts.catalogue import Catalogue as Content
from paybill_contracts.catalogue import Interval, LimitFeature, MeteredFeature, PlanVersion, Price
from paybill_contracts.money import Money
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import Source, TenantRequested

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TENANT = "ten_" + "1" * 32
OTHER = "ten_" + "2" * 32
EMAIL = Personal[str](key=f"tenant/{TENANT}", sealed="A" * 60)
EUR_20 = Money(minor=2000, currency="EUR")


def plan(name, version, price_id=None, grace_s=7 * 86_400):
    return PlanVersion(
        plan=name,
        version=version,
        name=name.title(),
        tier=name,
        placement=Preset.POOLED,
        trial_days=0,
        grace_s=grace_s,
        retention_s=30 * 86_400,
        features=(
            LimitFeature(kind="limit", key="projects", limit=version * 10),
            MeteredFeature(kind="metered", key="calls", meter="calls", included=100),
        ),
        prices=(
            Price(
                amount=EUR_20,
                interval=Interval.MONTH,
                provider_prices={"stripe": price_id} if price_id else {},
            ),
        ),
    )


BASIC = plan("basic", 1)
PRO_1 = plan("pro", 1)
PRO_2 = plan("pro", 2, "price_pro2")
CONTENT = Content(product="shop", plans=(BASIC, PRO_1, PRO_2))


def published(*contents):
    state = None
    for content in contents:
        for event in catalogue.publish(state, content):
            state = catalogue.evolve(state, event)
    return state


CATALOGUE = published(CONTENT)
PRICE = PriceSnapshot("price_1", "pro_v1_month_eur", None, None)
ITEM = SnapshotItem(PRICE, 1, EUR_20, Interval.MONTH)


def pinned_plan(version=1, item=ITEM, pending=None, **changes):
    found = catalogue.published(CATALOGUE, "pro", version)
    return PinnedPlan(found.plan.model_copy(update=changes), found.catalogue_hash, item, pending)


PINNED_PLAN = pinned_plan()

REQUESTED = TenantRequested(
    tenant_id=TENANT,
    slug="acme",
    name="Acme Inc",
    plan="pro",
    region="local",
    contact_email=EMAIL,
    source=Source.API,
)


def snapshot(status, **changes):
    """Returns a subscription in a paid period, or with failed collection in the next one, which has just begun."""
    failing = status in {"past_due", "unpaid"}
    began = NOW - timedelta(hours=2) if failing else NOW - DAY
    values = {
        "id": "sub_P1",
        "customer": "cus_1",
        "tenant": TENANT,
        "status": status,
        "collection_paused": False,
        "items": (ITEM,),
        "period_start": began,
        "period_end": began + 30 * DAY,
        "cancel_at": None,
        "invoice": "in_1",
        "paid_until": began if failing else began + 30 * DAY if status == "active" else None,
    }
    return ProviderSnapshot(**{**values, **changes})


ACCOUNT = Account(
    id=TENANT,
    name="Acme",
    contact_email=EMAIL,
    plan="pro",
    plan_version=1,
    provider="stripe",
    retention_s=0,
    status=Status.OPEN,
    customer="cus_1",
)
"""Of a tenant that can pay, and has not."""
