"""Plan version and scheduled change of a subscription, from its items and the catalogue."""

from dataclasses import replace

import pytest
from billing_samples import BASIC, CATALOGUE, DAY, EMAIL, EUR_20, ITEM, NOW, PINNED_PLAN, TENANT, snapshot
from paybill_billing.catalogue.domain.catalogue import UnknownPriceError
from paybill_billing.providers.port.snapshots import PendingSnapshot, PriceSnapshot, SnapshotItem
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_contracts.billing import PendingChange
from paybill_contracts.catalogue import Interval

ACCOUNT = Account(
    id=TENANT, name="Acme", contact_email=EMAIL, plan="basic", plan_version=1, provider="stripe", retention_s=0
)
ODD = SnapshotItem(PriceSnapshot("price_odd", None, None, None), 9, EUR_20)
PRO_2 = SnapshotItem(PriceSnapshot("price_pro2", None, None, None), 4, EUR_20, Interval.MONTH)


def pinned_plan(current, state=None):
    return subscriptions.pinned_plan(CATALOGUE, ACCOUNT, state, current)


def state_of(current):
    (event,) = subscriptions.sync(
        None, current, tenant_id=TENANT, provider="stripe", pinned=PINNED_PLAN, failures=(), now=NOW
    )
    return subscriptions.evolve(None, event)


def test_the_plan_is_that_of_the_first_item_with_a_price_of_a_plan():
    found = pinned_plan(snapshot("active", items=(ODD, PRO_2, ITEM)))

    assert (found.plan.plan, found.plan.version, found.item) == ("pro", 2, PRO_2)


def test_prices_of_no_plan_keep_the_pinned_plan_and_use_the_first_item():
    found = pinned_plan(snapshot("active", items=(ODD,)), state_of(snapshot("active")))

    assert (found.plan.plan, found.plan.version, found.item) == ("pro", 1, ODD)


def test_a_first_subscription_with_a_custom_price_gets_the_plan_of_the_sign_up():
    assert pinned_plan(snapshot("active", items=(ODD,))).plan == BASIC


def test_a_foreign_subscription_is_refused_and_the_error_names_its_prices():
    with pytest.raises(UnknownPriceError, match="price_odd, price_odd"):
        pinned_plan(snapshot("active", tenant=None, items=(ODD, ODD)))


@pytest.mark.parametrize(
    ("items", "pending"),
    [
        ((PRO_2,), PendingChange(plan="pro", version=2, quantity=4, at=NOW + DAY, interval=Interval.MONTH)),
        ((ODD, PRO_2), PendingChange(plan="pro", version=2, quantity=4, at=NOW + DAY, interval=Interval.MONTH)),
        (
            (replace(ITEM, quantity=2),),
            PendingChange(plan="pro", version=1, quantity=2, at=NOW + DAY, interval=Interval.MONTH),
        ),
        ((ITEM,), None),
        ((ODD,), None),
    ],
    ids=["another version", "among other items", "more seats", "the same", "no plan of ours"],
)
def test_a_scheduled_change_is_pending_only_if_it_changes_something(items, pending):
    found = pinned_plan(snapshot("active", pending=PendingSnapshot(items, NOW + DAY)))

    assert found.pending == pending


def test_the_event_contains_all_fields_of_the_snapshot():
    current = snapshot("active", trial_end=NOW - DAY, pending=PendingSnapshot((PRO_2,), NOW + DAY))

    (event,) = subscriptions.sync(
        None, current, tenant_id=TENANT, provider="stripe", pinned=pinned_plan(current), failures=(), now=NOW
    )

    subscription = event.subscription
    assert (subscription.trial_end, subscription.paid_until, subscription.interval) == (
        NOW - DAY,
        NOW + 29 * DAY,
        Interval.MONTH,
    )
    assert (subscription.pending.version, subscription.grace_s, subscription.past_end) == (2, 7 * 86_400, False)
