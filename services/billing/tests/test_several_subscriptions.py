"""A tenant with several subscriptions keeps access as long as one of them gives it."""

import asyncio

from billing_world import eventually
from paybill_billing.domain.subscriptions import subscription_id
from paybill_runtime.replay import replay

TENANT = "ten_" + "a" * 32


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
    facts = await world.log.facts("billing.subscription_ended", at_least=count)
    return facts[-1]


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
