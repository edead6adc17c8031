"""A tenant with several subscriptions has access while one of them is entitling."""

import asyncio
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from billing_samples import BASIC, CATALOGUE, NOW, PINNED_PLAN, PRO_1, snapshot
from billing_samples import TENANT as ID
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.entitling import ENTITLING, fallback_subscription
from paybill_billing.subscriptions.domain.subscriptions import subscription_id
from paybill_contracts.billing import AccessState
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32
QUICK = files("paybill_billing").joinpath("plans.yaml").read_text().replace("grace: 7d", "grace: 10s")


def after(evolve, state, events):
    for event in events:
        state = evolve(state, event)
    return state


def state(status):
    events = subscriptions.sync(
        None, snapshot(status), tenant_id=ID, provider="stripe", pinned=PINNED_PLAN, failures=(), now=NOW
    )
    return after(subscriptions.evolve, None, events)


def now_with(access, subscription):
    return subscription.model_copy(update={"access": access})


GRACE, ACTIVE = state("past_due"), state("active").subscription
SECOND = ACTIVE.model_copy(update={"subscription_id": "sub_" + "2" * 32})
HELD = after(entitlements.evolve, None, entitlements.apply_subscription(None, ACTIVE, PRO_1, NOW))


def test_the_end_of_an_entitling_subscription_falls_back_to_another_at_once():
    second = SECOND.model_copy(update={"plan": SECOND.plan.model_copy(update={"plan": "basic"})})

    for access in (AccessState.ENDED, AccessState.SUSPENDED, AccessState.PAUSED):
        (event,) = entitlements.apply_subscription(HELD, now_with(access, ACTIVE), PRO_1, NOW, (second, BASIC))
        assert (event.subscription_id, event.plan, event.tier) == (SECOND.subscription_id, second.plan, "basic")
        assert event.allows_access


def test_the_fallback_may_have_the_same_plan():
    second = after(
        entitlements.evolve,
        HELD,
        entitlements.apply_subscription(HELD, now_with(AccessState.ENDED, ACTIVE), PRO_1, NOW, (SECOND, PRO_1)),
    )
    (lost,) = entitlements.apply_subscription(second, now_with(AccessState.ENDED, SECOND), PRO_1, NOW)

    assert (second.subscription_id, second.allows_access) == (SECOND.subscription_id, True)
    assert (second.entitlements_hash, lost.allows_access) == (HELD.entitlements_hash, False)


def test_the_end_of_a_subscription_that_does_not_entitle_changes_nothing():
    third = ACTIVE.model_copy(update={"subscription_id": "sub_" + "3" * 32})

    assert entitlements.apply_subscription(HELD, now_with(AccessState.ENDED, SECOND), BASIC, NOW, (third, PRO_1)) == []
    assert entitlements.apply_subscription(HELD, now_with(AccessState.GRACE, ACTIVE), PRO_1, NOW, (third, PRO_1)) == []


@given(st.lists(st.sampled_from(AccessState), max_size=6), st.randoms())
def test_the_fallback_does_not_depend_on_the_order_of_reading(states, random):
    others = [
        now_with(access, ACTIVE.model_copy(update={"subscription_id": f"sub_{number:032x}"}))
        for number, access in enumerate(states)
    ]
    expected = next((each for each in others if each.access in ENTITLING), None)
    random.shuffle(others)

    chosen = entitlements.fallback_of(others, CATALOGUE)

    assert chosen == (expected and (expected, PRO_1))
    assert fallback_subscription(others) == (expected and expected.subscription_id)


def test_a_suspension_by_a_timer_names_the_fallback():
    other = subscriptions.SubscriptionState(SECOND.subscription_id, SECOND)
    gone = subscriptions.SubscriptionState(SECOND.subscription_id, now_with(AccessState.ENDED, SECOND))

    events = [subscriptions.on_time(GRACE, GRACE.due, others)[0].instead for others in ([], [gone], [gone, other])]

    assert events == [None, None, SECOND.subscription_id]


async def created_another(testbed, plan):
    """Creates another subscription of the same customer."""
    stripe, account = testbed.fake.stripe, await testbed.account(TENANT)
    price = stripe.prices.list({"lookup_keys": [f"{plan}_v1_month_eur"]}).data[0]
    params = {"customer": account["customer"], "items": [{"price": price.id}], "trial_period_days": 30}
    return (await asyncio.to_thread(stripe.subscriptions.create, params)).id


async def bought_another(testbed, plan):
    """Creates another subscription of the same customer, and waits for its webhooks."""
    made = await created_another(testbed, plan)
    await testbed.subscription(TENANT, "trialing")
    return made


async def entitled_by(testbed, theirs, *, allows):
    id_ = subscription_id("stripe", theirs)

    async def probe():
        held = (await testbed.account(TENANT))["entitlements"]
        return held if (held["subscription_id"], held["allows_access"]) == (id_, allows) else None

    return await until(probe)


async def ended(testbed, theirs, count):
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, theirs)
    return (await testbed.log.facts("billing.subscription_ended", at_least=count))[-1]


async def replays(testbed):
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


async def test_the_fallback_takes_over_in_the_same_decision_until_the_last_ends(testbed) -> None:
    first = (await testbed.subscribed(TENANT))["provider_subscription"]
    second = await bought_another(testbed, "starter")
    await entitled_by(testbed, first, allows=True)

    over = await ended(testbed, first, 1)
    await entitled_by(testbed, second, allows=True)
    taken = (await testbed.log.facts("billing.entitlements_set", at_least=2))[-1]
    last = await ended(testbed, second, 2)
    await entitled_by(testbed, second, allows=False)

    assert (over.event.others, last.event.others) == (1, 0)
    assert taken.origin.cause == over.origin.cause
    sets = await testbed.log.facts("billing.entitlements_set", at_least=3)
    assert [fact.event.allows_access for fact in sets] == [True, True, False]
    await replays(testbed)


async def test_a_customer_that_cancels_one_and_creates_the_next_keeps_its_access(testbed) -> None:
    first = (await testbed.subscribed(TENANT))["provider_subscription"]

    await asyncio.to_thread(testbed.fake.control.pause_delivery)
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, first)
    second = await created_another(testbed, "starter")
    await asyncio.to_thread(testbed.fake.control.resume_delivery)
    (over,) = await testbed.log.facts("billing.subscription_ended")
    await entitled_by(testbed, second, allows=True)
    await testbed.settled()

    assert (over.event.others, over.event.remaining) == (1, ())
    sets = await testbed.log.facts("billing.entitlements_set", at_least=2)
    assert [fact.event.allows_access for fact in sets] == [True, True]
    await replays(testbed)


async def test_of_two_that_end_at_once_exactly_one_is_reported_as_the_last(testbed) -> None:
    first = (await testbed.subscribed(TENANT))["provider_subscription"]
    second = await bought_another(testbed, "starter")

    await asyncio.gather(
        *(asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, theirs) for theirs in (first, second))
    )
    facts = await testbed.log.facts("billing.subscription_ended", at_least=2)

    assert sorted(fact.event.others for fact in facts) == [0, 1]
    assert not (await testbed.account(TENANT))["entitlements"]["allows_access"]
    await replays(testbed)


@pytest.mark.parametrize("catalogue", [QUICK], indirect=True)
async def test_the_fallback_takes_over_when_a_timer_suspends_the_first(testbed) -> None:
    control, theirs = testbed.fake.control, (await testbed.subscribed(TENANT))["provider_subscription"]
    second = await bought_another(testbed, "starter")

    await asyncio.to_thread(control.set_payment, (await testbed.account(TENANT))["customer"], "fail")
    await asyncio.to_thread(control.renew, theirs)
    await entitled_by(testbed, second, allows=True)

    (suspended,) = await testbed.log.facts("billing.subscription_suspended")
    assert suspended.origin.actor == "service:billing"
    assert suspended.event.instead == subscription_id("stripe", second)
    sets = await testbed.log.facts("billing.entitlements_set", at_least=2)
    assert [fact.event.allows_access for fact in sets] == [True, True]
    await replays(testbed)


async def test_a_second_subscription_is_reported_once_its_check_is_due(testbed) -> None:
    first = (await testbed.subscribed(TENANT))["provider_subscription"]
    other = await bought_another(testbed, "starter")
    await testbed.settled()

    (job,) = await testbed.get("/v1/operations/jobs", kind="check_subscriptions")
    retried = await testbed.served.client.post(f"/v1/operations/jobs/{job['id']}/retry")
    (opened,) = await testbed.log.facts("billing.incident_opened")
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, other)
    (closed,) = await testbed.log.facts("billing.incident_closed")

    shown = {each.value for each in opened.event.evidence}
    assert retried.status_code == 200, retried.text
    assert (opened.event.kind, closed.event.incident_id) == ("second_subscription", opened.event.incident_id)
    assert {first, other} <= shown


async def test_the_check_of_a_second_subscription_does_not_wait_for_that_of_an_earlier_end(testbed) -> None:
    first = (await testbed.subscribed(TENANT))["provider_subscription"]
    await ended(testbed, first, 1)

    async def due_in():
        jobs = await testbed.get("/v1/operations/jobs", kind="check_subscriptions")
        return [datetime.fromisoformat(job["due"]) - datetime.now(UTC) for job in jobs]

    (after_end,) = await until(due_in)
    await bought_another(testbed, "starter")
    await created_another(testbed, "starter")
    await testbed.settled()
    (after_second,) = await due_in()

    assert timedelta(minutes=29) < after_end <= timedelta(minutes=30)
    assert timedelta(minutes=14) < after_second <= timedelta(minutes=15)


async def test_a_check_that_the_provider_refuses_ends_with_an_incident_that_a_retry_closes(testbed) -> None:
    await testbed.subscribed(TENANT)
    await bought_another(testbed, "starter")
    await testbed.settled()
    await asyncio.to_thread(testbed.fake.control.fail_calls, 1_000_000, status=400, path="/v1/subscriptions")
    (job,) = await testbed.jobs("check_subscriptions", "pending")
    await testbed.retry(job)
    opened, failed, closed = await testbed.given_up_and_retried("check_subscriptions")

    assert (opened.event.kind, opened.event.tenant_id) == ("subscriptions_unknown", TENANT)
    assert opened.event.command == f"paybill jobs retry {failed['id']}"
    assert closed.event.incident_id == opened.event.incident_id
    assert await testbed.jobs("check_subscriptions", "failed") == []
