"""Changes of subscriptions from the request to what the subscription shows, with Stripe's stand-in."""

import asyncio
from datetime import datetime, timedelta

import pytest
from billing_world import eventually
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay

TENANT = "ten_" + "a" * 32


@pytest.fixture
async def subscribed(world):
    """A tenant with the plan `starter`."""
    return await world.subscribed(TENANT, "starter")


async def ask(world, subscription, kind, **more):
    body = {"kind": kind, "reason": "asked for", **more}
    return await world.served.client.post(f"/v1/subscriptions/{subscription['subscription_id']}/changes", json=body)


async def asked(world, subscription, kind, **more):
    answer = await ask(world, subscription, kind, **more)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def at(world, change, *standings):
    """The change, once it stands there."""

    async def look():
        found = await world.get(f"/v1/changes/{change['id']}")
        return found if found["status"] in standings else None

    return await eventually(look)


async def confirmed(world, change):
    quoted = await at(world, change, "quoted")
    path = f"/v1/changes/{change['id']}/confirm"
    answer = await world.served.client.post(path, json={"quote_hash": quoted["quote"]["quote_hash"]})
    assert answer.status_code == 202, answer.text
    return quoted


async def shows(world, subscription, condition):
    async def look():
        found = await world.get(f"/v1/subscriptions/{subscription['subscription_id']}")
        return found if condition(found) else None

    return await eventually(look)


async def test_a_change_is_quoted_then_confirmed_then_shown_and_costs_what_was_quoted(world, subscribed):
    change = await asked(world, subscribed, "plan", plan="business", quantity=2)
    quoted = await confirmed(world, change)
    done = await at(world, change, "applied", "refused")
    shown = await shows(world, subscribed, lambda found: found["plan"]["plan"] == "business")

    quote = quoted["quote"]
    newest = world.fake.stripe.invoices.list({"subscription": subscribed["provider_subscription"]}).data[0]
    assert done["status"] == "applied"
    assert newest.amount_paid == quote["proration"]["due_now"]["minor"] > 0
    assert (shown["quantity"], shown["access"]) == (2, "active")
    assert (quote["tier_before"], quote["tier_after"]) == ("starter", "business")
    assert (quote["placement_before"], quote["placement_after"]) == ("pooled", "silo")
    facts = await world.log.facts(
        "billing.change_requested",
        "billing.change_quoted",
        "billing.change_confirmed",
        "billing.change_applied",
        at_least=4,
    )
    assert [fact.event.TYPE.rpartition("_")[2] for fact in facts] == ["requested", "quoted", "confirmed", "applied"]
    assert facts[1].origin.cause == facts[0].id
    assert facts[3].origin.cause == facts[2].id


async def test_a_change_at_period_end_waits_is_shown_and_happens_then(world, subscribed):
    change = await asked(world, subscribed, "plan", plan="business", when="period_end")
    quoted = await confirmed(world, change)
    waiting = await shows(world, subscribed, lambda found: found["pending"] is not None)
    ends = datetime.fromisoformat(quoted["quote"]["proration"]["effective_at"])
    await asyncio.to_thread(world.fake.control.advance_clock, timedelta(days=32))
    then = await shows(world, subscribed, lambda found: found["plan"]["plan"] == "business")

    assert waiting["plan"]["plan"] == "starter"
    assert (waiting["pending"]["plan"], datetime.fromisoformat(waiting["pending"]["at"])) == ("business", ends)
    assert then["pending"] is None
    assert then["price"] == quoted["quote"]["proration"]["next_amount"]


async def test_a_cancellation_is_taken_back_before_it_happens(world, subscribed):
    cancelled = await asked(world, subscribed, "cancel", when="period_end", confirm=True)
    await at(world, cancelled, "applied")
    until = await shows(world, subscribed, lambda found: found["cancel_at"] is not None)
    back = await asked(world, subscribed, "reactivate", confirm=True)
    await at(world, back, "applied")
    after = await shows(world, subscribed, lambda found: found["cancel_at"] is None)

    assert (until["access"], after["access"]) == ("active", "active")


async def test_a_subscription_is_paused_resumed_and_cancelled_now(world, subscribed):
    for kind, access in (("pause", "paused"), ("resume", "active"), ("cancel", "ended")):
        change = await asked(world, subscribed, kind, confirm=True)
        await at(world, change, "applied")
        await shows(world, subscribed, lambda found, access=access: found["access"] == access)

    (ended,) = await world.log.facts("billing.subscription_ended")
    assert ended.event.subscription_id == subscribed["subscription_id"]


async def test_there_is_one_open_change_at_a_time_and_a_discarded_one_makes_room(world, subscribed):
    first = await asked(world, subscribed, "plan", plan="business")
    second = await ask(world, subscribed, "cancel")
    await at(world, first, "quoted")
    gone = await world.served.client.post(f"/v1/changes/{first['id']}/discard")
    third = await ask(world, subscribed, "cancel", when="period_end")

    assert (second.status_code, second.json()["code"]) == (409, "change_open")
    assert first["id"] in second.json()["detail"]
    assert gone.json()["status"] == "discarded"
    assert third.status_code == 202


async def test_two_changes_asked_for_at_once_are_one(world, subscribed):
    answers = await asyncio.gather(*(ask(world, subscribed, "plan", quantity=number) for number in range(2, 8)))

    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "change_open"}


async def test_the_same_request_under_one_key_is_one_change(world, subscribed):
    path = f"/v1/subscriptions/{subscribed['subscription_id']}/changes"
    body = {"kind": "plan", "plan": "business", "reason": "grow"}

    answers = [await world.served.client.post(path, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_another_quote_than_the_one_that_was_seen_is_not_confirmed(world, subscribed):
    change = await asked(world, subscribed, "plan", plan="business")
    quoted = await at(world, change, "quoted")
    path = f"/v1/changes/{change['id']}/confirm"

    ((due,),) = await world.sql("SELECT due FROM changes")
    wrong = await world.served.client.post(path, json={"quote_hash": "0" * 64})
    right = [await world.served.client.post(path, json={"quote_hash": quoted["quote"]["quote_hash"]}) for _ in range(2)]

    assert due == quoted["quote"]["valid_until"].rstrip("Z"), "the timer looks here"
    assert (wrong.status_code, wrong.json()["code"]) == (409, "quote_changed")
    assert [answer.status_code for answer in right] == [202, 202]


async def test_what_the_provider_refuses_is_refused_with_its_codes_and_nothing_changes(world, subscribed):
    customer = (await world.account(TENANT))["customer"]
    await asyncio.to_thread(world.fake.control.set_payment, customer, "fail")

    change = await asked(world, subscribed, "plan", plan="business", confirm=True)
    refused = await at(world, change, "refused")
    after = await world.get(f"/v1/subscriptions/{subscribed['subscription_id']}")

    assert refused["code"] == "provider_refused"
    assert "402" in refused["refusal"]
    assert (after["plan"]["plan"], after["access"]) == ("starter", "active")


REFUSALS = [
    ({"kind": "plan", "plan": "starter"}, 409, "nothing_to_change"),
    ({"kind": "plan"}, 409, "nothing_to_change"),
    ({"kind": "plan", "plan": "gold"}, 404, "unknown_plan"),
    ({"kind": "plan", "plan": "business", "version": 99}, 404, "unknown_plan"),
    ({"kind": "plan", "quantity": 0}, 422, "quantity_out_of_bounds"),
    ({"kind": "plan", "quantity": 10_000_000}, 422, "quantity_out_of_bounds"),
    ({"kind": "resume"}, 409, "not_paused"),
    ({"kind": "reactivate"}, 409, "nothing_to_reactivate"),
    ({"kind": "pause", "when": "period_end"}, 422, "only_now"),
    ({"kind": "upgrade"}, 422, "invalid_request"),
    ({"kind": "cancel", "plan": "business"}, 422, "invalid_request"),
    ({"kind": "plan", "version": 1}, 422, "invalid_request"),
    ({"kind": "plan", "plan": "business", "colour": "red"}, 422, "invalid_request"),
]


async def test_what_cannot_be_is_refused_with_a_code(world, subscribed):
    answers = [await ask(world, subscribed, **body) for body, _, _ in REFUSALS]

    said = [(answer.status_code, answer.json()["code"]) for answer in answers]
    assert said == [(status, code) for _, status, code in REFUSALS]


async def test_what_is_not_there_is_not_found(world):
    nobody = {"subscription_id": "sub_" + "0" * 32}

    for answer in (
        await ask(world, nobody, "cancel"),
        await world.served.client.get(f"/v1/subscriptions/{nobody['subscription_id']}"),
        await world.served.client.get("/v1/changes/chg_" + "0" * 32),
        await world.served.client.post("/v1/changes/chg_" + "0" * 32 + "/discard"),
    ):
        assert answer.status_code == 404


async def test_a_tenant_that_leaves_changes_nothing_any_more(world, subscribed):
    await asyncio.to_thread(world.fake.control.pause_delivery)
    now = datetime.fromisoformat(subscribed["period_start"])
    await world.tenants.say(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=now)
    )
    await world.log.facts("billing.cancellation_requested")

    answer = await ask(world, subscribed, "plan", plan="business")

    assert (answer.status_code, answer.json()["code"]) == (409, "tenant_leaving")


async def test_changes_replay_to_the_same_tables(world, subscribed):
    change = await asked(world, subscribed, "plan", plan="business")
    await confirmed(world, change)
    await at(world, change, "applied")
    await shows(world, subscribed, lambda found: found["plan"]["plan"] == "business")
    await world.quiet()
    running = world.served.running

    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report.as_dict()
