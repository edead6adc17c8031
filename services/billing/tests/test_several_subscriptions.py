"""A tenant with several subscriptions keeps access as long as one of them gives it."""

import asyncio
from importlib.resources import files

import pytest
from billing_samples import BASIC, CATALOGUE, NOW, PINNED_PLAN, PRO_1, snapshot
from billing_samples import TENANT as ID
from billing_world import eventually
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.entitling import ENTITLING, fallback_subscription
from paybill_billing.subscriptions.domain.subscriptions import subscription_id
from paybill_contracts.billing import AccessState
from paybill_runtime.replay.verify import replay

TENANT = "ten_" + "a" * 32
QUICK = files("paybill_billing").joinpath("plans.yaml").read_text().replace("grace: 7d", "grace: 3s")


def after(evolve, state, events):
    for event in events:
        state = evolve(state, event)
    return state


def standing(status):
    told = subscriptions.sync(
        None, snapshot(status), tenant_id=ID, provider="stripe", pinned=PINNED_PLAN, failures=(), now=NOW
    )
    return after(subscriptions.evolve, None, told)


def now_with(access, subscription):
    return subscription.model_copy(update={"access": access})


GRACE, ACTIVE = standing("past_due"), standing("active").subscription
SECOND = ACTIVE.model_copy(update={"subscription_id": "sub_" + "2" * 32})
HELD = after(entitlements.evolve, None, entitlements.apply_subscription(None, ACTIVE, PRO_1, NOW))


def test_what_entitles_hands_over_to_another_that_gives_access_at_once():
    second = SECOND.model_copy(update={"plan": SECOND.plan.model_copy(update={"plan": "basic"})})

    for access in (AccessState.ENDED, AccessState.SUSPENDED, AccessState.PAUSED):
        (said,) = entitlements.apply_subscription(HELD, now_with(access, ACTIVE), PRO_1, NOW, (second, BASIC))
        assert (said.subscription_id, said.plan, said.tier) == (SECOND.subscription_id, second.plan, "basic")
        assert said.allows_access


def test_it_hands_over_to_one_of_the_same_plan_too_so_that_the_end_of_that_one_is_the_end():
    second = after(
        entitlements.evolve,
        HELD,
        entitlements.apply_subscription(HELD, now_with(AccessState.ENDED, ACTIVE), PRO_1, NOW, (SECOND, PRO_1)),
    )
    (lost,) = entitlements.apply_subscription(second, now_with(AccessState.ENDED, SECOND), PRO_1, NOW)

    assert (second.subscription_id, second.allows_access) == (SECOND.subscription_id, True)
    assert (second.entitlements_hash, lost.allows_access) == (HELD.entitlements_hash, False)


def test_what_does_not_entitle_changes_nothing_when_it_ends_beside_a_third():
    third = ACTIVE.model_copy(update={"subscription_id": "sub_" + "3" * 32})

    assert entitlements.apply_subscription(HELD, now_with(AccessState.ENDED, SECOND), BASIC, NOW, (third, PRO_1)) == []
    assert entitlements.apply_subscription(HELD, now_with(AccessState.GRACE, ACTIVE), PRO_1, NOW, (third, PRO_1)) == []


@given(st.lists(st.sampled_from(AccessState), max_size=6), st.randoms())
def test_the_same_one_takes_over_in_whatever_order_they_are_read(states, random):
    others = [
        now_with(access, ACTIVE.model_copy(update={"subscription_id": f"sub_{number:032x}"}))
        for number, access in enumerate(states)
    ]
    expected = next((each for each in others if each.access in ENTITLING), None)
    random.shuffle(others)

    chosen = entitlements.fallback_of(others, CATALOGUE)

    assert chosen == (expected and (expected, PRO_1))
    assert fallback_subscription(others) == (expected and expected.subscription_id)


def test_a_timer_that_suspends_names_what_gives_access_instead():
    other = subscriptions.SubscriptionState(SECOND.subscription_id, SECOND)
    gone = subscriptions.SubscriptionState(SECOND.subscription_id, now_with(AccessState.ENDED, SECOND))

    told = [subscriptions.on_time(GRACE, GRACE.due, others)[0].instead for others in ([], [gone], [gone, other])]

    assert told == [None, None, SECOND.subscription_id]


async def bought_besides(world, plan):
    """Another subscription of the same customer, of which the provider tells us."""
    stripe, account = world.fake.stripe, await world.account(TENANT)
    price = stripe.prices.list({"lookup_keys": [f"{plan}_v1_month_eur"]}).data[0]
    wanted = {"customer": account["customer"], "items": [{"price": price.id}], "trial_period_days": 30}
    made = await asyncio.to_thread(stripe.subscriptions.create, wanted)
    await world.standing(TENANT, "trialing")
    return made.id


async def entitled_by(world, theirs, *, allows):
    id_ = subscription_id("stripe", theirs)

    async def look():
        held = (await world.account(TENANT))["entitlements"]
        return held if (held["subscription_id"], held["allows_access"]) == (id_, allows) else None

    return await eventually(look)


async def ended(world, theirs, count):
    await asyncio.to_thread(world.fake.stripe.subscriptions.cancel, theirs)
    return (await world.log.facts("billing.subscription_ended", at_least=count))[-1]


async def replays(world):
    running = world.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


async def test_the_second_takes_over_in_the_same_decision_and_only_the_last_says_that_none_is_left(world) -> None:
    first = (await world.subscribed(TENANT))["provider_subscription"]
    second = await bought_besides(world, "starter")
    await entitled_by(world, first, allows=True)

    over = await ended(world, first, 1)
    await entitled_by(world, second, allows=True)
    taken = (await world.log.facts("billing.entitlements_set", at_least=2))[-1]
    last = await ended(world, second, 2)
    await entitled_by(world, second, allows=False)

    assert (over.event.others, last.event.others) == (1, 0)
    assert taken.origin.cause == over.origin.cause
    sets = await world.log.facts("billing.entitlements_set", at_least=3)
    assert [fact.event.allows_access for fact in sets] == [True, True, False]
    await replays(world)


async def test_two_that_end_at_once_leave_none_and_exactly_one_of_them_says_so(world) -> None:
    first = (await world.subscribed(TENANT))["provider_subscription"]
    second = await bought_besides(world, "starter")

    await asyncio.gather(
        *(asyncio.to_thread(world.fake.stripe.subscriptions.cancel, theirs) for theirs in (first, second))
    )
    facts = await world.log.facts("billing.subscription_ended", at_least=2)

    assert sorted(fact.event.others for fact in facts) == [0, 1]
    assert not (await world.account(TENANT))["entitlements"]["allows_access"]
    await replays(world)


@pytest.mark.parametrize("catalogue", [QUICK], indirect=True)
async def test_when_time_alone_suspends_the_first_the_second_takes_over(world) -> None:
    control, theirs = world.fake.control, (await world.subscribed(TENANT))["provider_subscription"]
    second = await bought_besides(world, "starter")

    await asyncio.to_thread(control.set_payment, (await world.account(TENANT))["customer"], "fail")
    await asyncio.to_thread(control.renew, theirs)
    await entitled_by(world, second, allows=True)

    (suspended,) = await world.log.facts("billing.subscription_suspended")
    assert suspended.origin.actor == "service:billing"
    assert suspended.event.instead == subscription_id("stripe", second)
    sets = await world.log.facts("billing.entitlements_set", at_least=2)
    assert [fact.event.allows_access for fact in sets] == [True, True]
    await replays(world)
