"""What a subscription pins and what it is about to become, of all that its items and the catalogue say."""

from dataclasses import replace

import pytest
from billing_samples import BASIC, CATALOGUE, DAY, EMAIL, EUR_20, ITEM, NOW, SOLD, TENANT, snapshot
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


def sold(shown, standing=None):
    return subscriptions.sold(CATALOGUE, ACCOUNT, standing, shown)


def standing_of(shown):
    (said,) = subscriptions.sync(None, shown, tenant_id=TENANT, provider="stripe", sold=SOLD, failures=(), now=NOW)
    return subscriptions.evolve(None, said)


def test_the_plan_is_that_of_the_first_item_whose_price_sells_one():
    found = sold(snapshot("active", items=(ODD, PRO_2, ITEM)))

    assert (found.plan.plan, found.plan.version, found.item) == ("pro", 2, PRO_2)


def test_prices_that_sell_nothing_keep_the_plan_that_there_is_and_count_by_the_first_item():
    found = sold(snapshot("active", items=(ODD,)), standing_of(snapshot("active")))

    assert (found.plan.plan, found.plan.version, found.item) == ("pro", 1, ODD)


def test_a_first_subscription_at_a_price_of_its_own_is_the_plan_that_was_signed_up_for():
    assert sold(snapshot("active", items=(ODD,))).plan == BASIC


def test_a_subscription_that_is_none_of_ours_is_refused_with_all_its_prices():
    with pytest.raises(UnknownPriceError, match="price_odd, price_odd"):
        sold(snapshot("active", tenant=None, items=(ODD, ODD)))


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
    ids=["another version", "among other items", "more seats", "the same", "none of ours"],
)
def test_what_it_is_about_to_become_is_told_when_it_differs(items, pending):
    found = sold(snapshot("active", pending=PendingSnapshot(items, NOW + DAY)))

    assert found.pending == pending


def test_what_is_told_of_a_subscription_is_all_that_was_seen_of_it():
    shown = snapshot("active", trial_end=NOW - DAY, pending=PendingSnapshot((PRO_2,), NOW + DAY))

    (said,) = subscriptions.sync(
        None, shown, tenant_id=TENANT, provider="stripe", sold=sold(shown), failures=(), now=NOW
    )

    told = said.subscription
    assert (told.trial_end, told.paid_until, told.interval) == (NOW - DAY, NOW + 29 * DAY, Interval.MONTH)
    assert (told.pending.version, told.grace_s, told.past_end) == (2, 7 * 86_400, False)
