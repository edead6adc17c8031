"""Sample subscription for tests of changes and plan migrations."""

from billing_samples import CATALOGUE, DAY, EUR_20, NOW, TENANT
from paybill_billing.subscriptions.domain import changes
from paybill_billing.subscriptions.domain.change_requests import ChangeIntent, resolve
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.changes import ChangeKind, Proration

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


CHANGE_ID = "chg_" + "1" * 32
PRORATION = Proration(lines=(), due_now=EUR_20, next_amount=EUR_20, effective_at=NOW)
UPGRADE = ChangeIntent(ChangeKind.PLAN, plan="pro")


def resolved(intent, subscription=SUBSCRIPTION, sold=CATALOGUE, *, leaving=False):
    return resolve(sold, subscription, intent, leaving=leaving)


def requested(*, confirmed=False, intent=UPGRADE):
    events = changes.request(
        None,
        SUBSCRIPTION,
        resolved(intent),
        change_id=CHANGE_ID,
        confirmed=confirmed,
        reason="grow",
        open_change=None,
    )
    return changes.evolve(None, events[0])


def after(change, events):
    for event in events:
        change = changes.evolve(change, event)
    return change
