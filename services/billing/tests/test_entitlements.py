"""A tenant may use what its plan version gives, as long as its subscription gives access."""

from billing_samples import BASIC, NOW, PRO_1, SOLD, TENANT, seen
from paybill_billing.domain import entitlements, subscriptions
from paybill_contracts.billing import AccessState
from paybill_contracts.event import digest


def subscription(status, id_="sub_P1"):
    (said,) = subscriptions.sync(
        None, seen(status, id=id_), tenant_id=TENANT, provider="stripe", sold=SOLD, failures=(), now=NOW
    )
    return said.subscription


ACTIVE = subscription("active")
HELD = entitlements.evolve(None, *entitlements.settle(None, ACTIVE, PRO_1))


def test_an_active_subscription_gives_what_its_plan_holds():
    assert HELD.features == PRO_1.features
    assert HELD.allows_access
    assert len(HELD.entitlements_hash) == len(digest({}))


def test_a_subscription_that_was_never_paid_gives_nothing():
    assert entitlements.settle(None, subscription("incomplete"), PRO_1) == []


def test_a_change_that_gives_the_same_says_nothing():
    assert entitlements.settle(HELD, ACTIVE.model_copy(update={"quantity": 9}), PRO_1) == []
    assert entitlements.settle(HELD, subscription("past_due"), PRO_1) == []


def test_losing_access_and_getting_it_back_are_told():
    (lost,) = entitlements.settle(HELD, subscription("unpaid"), PRO_1)
    (back,) = entitlements.settle(entitlements.evolve(HELD, lost), ACTIVE, PRO_1)

    assert not lost.allows_access
    assert back.allows_access
    assert back.entitlements_hash == HELD.entitlements_hash != lost.entitlements_hash


def test_another_plan_is_told():
    (said,) = entitlements.settle(HELD, ACTIVE, BASIC)

    assert said.features == BASIC.features


def test_a_second_subscription_neither_pushes_out_the_first_nor_takes_it_away():
    second = subscription("active", "sub_P2")

    assert entitlements.settle(HELD, second, BASIC) == []
    assert entitlements.settle(HELD, second.model_copy(update={"access": AccessState.ENDED}), BASIC) == []


def test_a_second_subscription_takes_over_from_one_that_gives_no_access():
    lost = entitlements.evolve(HELD, *entitlements.settle(HELD, subscription("canceled"), PRO_1))

    (said,) = entitlements.settle(lost, subscription("active", "sub_P2"), PRO_1)

    assert said.subscription_id != HELD.subscription_id
