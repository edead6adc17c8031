"""Subscription changes from the request to the synced subscription, with the Stripe fake."""

import asyncio
from datetime import datetime, timedelta

import pytest
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32


@pytest.fixture
async def subscribed(testbed):
    """A tenant with the plan `starter`."""
    return await testbed.subscribed(TENANT, "starter")


async def send_request(testbed, subscription, kind, **more):
    body = {"kind": kind, "reason": "asked for", **more}
    return await testbed.served.client.post(f"/v1/subscriptions/{subscription['subscription_id']}/changes", json=body)


async def requested(testbed, subscription, kind, **more):
    response = await send_request(testbed, subscription, kind, **more)
    assert response.status_code == 202, response.text
    return response.json()


async def at(testbed, change, *statuses):
    """Returns the change as soon as it has one of the statuses."""

    async def load():
        found = await testbed.get(f"/v1/changes/{change['id']}")
        return found if found["status"] in statuses else None

    return await until(load)


async def confirmed(testbed, change):
    quoted = await at(testbed, change, "quoted")
    path = f"/v1/changes/{change['id']}/confirm"
    response = await testbed.served.client.post(path, json={"quote_hash": quoted["quote"]["quote_hash"]})
    assert response.status_code == 202, response.text
    return quoted


async def shows(testbed, subscription, condition):
    async def load():
        found = await testbed.get(f"/v1/subscriptions/{subscription['subscription_id']}")
        return found if condition(found) else None

    return await until(load)


async def test_a_change_is_quoted_confirmed_and_applied_at_the_quoted_price(testbed, subscribed):
    change = await requested(testbed, subscribed, "plan", plan="business", quantity=2)
    quoted = await confirmed(testbed, change)
    done = await at(testbed, change, "applied", "refused")
    shown = await shows(testbed, subscribed, lambda found: found["plan"]["plan"] == "business")

    quote = quoted["quote"]
    newest = testbed.fake.stripe.invoices.list({"subscription": subscribed["provider_subscription"]}).data[0]
    assert done["status"] == "applied"
    assert newest.amount_paid == quote["proration"]["due_now"]["minor"] > 0
    assert (shown["quantity"], shown["access"]) == (2, "active")
    assert (quote["tier_before"], quote["tier_after"]) == ("starter", "business")
    assert (quote["placement_before"], quote["placement_after"]) == ("pooled", "silo")
    facts = await testbed.log.facts(
        "billing.change_requested",
        "billing.change_quoted",
        "billing.change_confirmed",
        "billing.change_applied",
        at_least=4,
    )
    assert [fact.event.TYPE.rpartition("_")[2] for fact in facts] == ["requested", "quoted", "confirmed", "applied"]
    assert facts[1].origin.cause == facts[0].id
    assert facts[3].origin.cause == facts[2].id


async def test_a_change_at_the_period_end_is_pending_until_then(testbed, subscribed):
    change = await requested(testbed, subscribed, "plan", plan="business", when="period_end")
    quoted = await confirmed(testbed, change)
    waiting = await shows(testbed, subscribed, lambda found: found["pending"] is not None)
    ends = datetime.fromisoformat(quoted["quote"]["proration"]["effective_at"])
    await asyncio.to_thread(testbed.fake.control.advance_clock, timedelta(days=32))
    then = await shows(testbed, subscribed, lambda found: found["plan"]["plan"] == "business")

    assert waiting["plan"]["plan"] == "starter"
    assert (waiting["pending"]["plan"], datetime.fromisoformat(waiting["pending"]["at"])) == ("business", ends)
    assert then["pending"] is None
    assert then["price"] == quoted["quote"]["proration"]["next_amount"]


async def test_a_scheduled_cancellation_can_be_reversed(testbed, subscribed):
    cancelled = await requested(testbed, subscribed, "cancel", when="period_end", confirm=True)
    await at(testbed, cancelled, "applied")
    leaving = await shows(testbed, subscribed, lambda found: found["cancel_at"] is not None)
    back = await requested(testbed, subscribed, "reactivate", confirm=True)
    await at(testbed, back, "applied")
    after = await shows(testbed, subscribed, lambda found: found["cancel_at"] is None)

    assert (leaving["access"], after["access"]) == ("active", "active")


async def test_a_subscription_is_paused_resumed_and_cancelled_now(testbed, subscribed):
    for kind, access in (("pause", "paused"), ("resume", "active"), ("cancel", "ended")):
        change = await requested(testbed, subscribed, kind, confirm=True)
        await at(testbed, change, "applied")
        await shows(testbed, subscribed, lambda found, access=access: found["access"] == access)

    (ended,) = await testbed.log.facts("billing.subscription_ended")
    assert ended.event.subscription_id == subscribed["subscription_id"]


async def test_a_subscription_has_one_open_change_until_it_is_discarded(testbed, subscribed):
    first = await requested(testbed, subscribed, "plan", plan="business")
    second = await send_request(testbed, subscribed, "cancel")
    await at(testbed, first, "quoted")
    discarded = await testbed.served.client.post(f"/v1/changes/{first['id']}/discard")
    third = await send_request(testbed, subscribed, "cancel", when="period_end")

    assert (second.status_code, second.json()["code"]) == (409, "change_open")
    assert first["id"] in second.json()["detail"]
    assert discarded.json()["status"] == "discarded"
    assert third.status_code == 202


async def test_concurrent_requests_create_one_change(testbed, subscribed):
    responses = await asyncio.gather(
        *(send_request(testbed, subscribed, "plan", quantity=number) for number in range(2, 8))
    )

    assert sorted(response.status_code for response in responses) == [202, 409, 409, 409, 409, 409]
    assert {response.json().get("code") for response in responses} == {None, "change_open"}


async def test_a_request_is_idempotent_by_its_key(testbed, subscribed):
    path = f"/v1/subscriptions/{subscribed['subscription_id']}/changes"
    body = {"kind": "plan", "plan": "business", "reason": "grow"}

    responses = [
        await testbed.served.client.post(path, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)
    ]
    dry_run = await testbed.served.client.post(path, json=body, headers={"Idempotency-Key": "once", "Dry-Run": "true"})

    assert [response.status_code for response in responses] == [202, 202]
    assert responses[0].json()["id"] == responses[1].json()["id"]
    assert (dry_run.json()["already_executed"], dry_run.json()["result"]) == (True, responses[0].json())


async def test_a_confirmation_with_another_hash_is_refused(testbed, subscribed):
    change = await requested(testbed, subscribed, "plan", plan="business")
    quoted = await at(testbed, change, "quoted")
    path = f"/v1/changes/{change['id']}/confirm"

    ((due,),) = await testbed.sql("SELECT due FROM changes")
    wrong = await testbed.served.client.post(path, json={"quote_hash": "0" * 64})
    right = [
        await testbed.served.client.post(path, json={"quote_hash": quoted["quote"]["quote_hash"]}) for _ in range(2)
    ]

    assert due == quoted["quote"]["valid_until"].rstrip("Z"), "the timer reads this column"
    assert (wrong.status_code, wrong.json()["code"]) == (409, "quote_changed")
    assert [response.status_code for response in right] == [202, 202]


async def test_a_refusal_of_the_provider_is_recorded_with_its_codes_and_changes_nothing(testbed, subscribed):
    customer = (await testbed.account(TENANT))["customer"]
    await asyncio.to_thread(testbed.fake.control.set_payment, customer, "fail")

    change = await requested(testbed, subscribed, "plan", plan="business", confirm=True)
    refused = await at(testbed, change, "refused")
    after = await testbed.get(f"/v1/subscriptions/{subscribed['subscription_id']}")

    assert refused["code"] == "provider_refused"
    assert "402" in refused["refusal"]
    # The refusal is the answer: nothing is left for an operator to retry.
    assert (await testbed.jobs("make/stripe", "failed"), await testbed.jobs("make/stripe", "pending")) == ([], [])
    assert (after["plan"]["plan"], after["access"]) == ("starter", "active")


async def test_a_quote_that_the_provider_refuses_leaves_no_failed_job(testbed, subscribed):
    await asyncio.to_thread(testbed.fake.control.fail_calls, 99, status=400, path="/v1/invoices/create_preview")

    change = await requested(testbed, subscribed, "plan", quantity=4)
    refused = await at(testbed, change, "refused")
    await asyncio.to_thread(testbed.fake.control.fail_calls, 0)

    assert (refused["code"], refused["quote"]) == ("provider_refused", None)
    jobs = [await testbed.jobs("quote/stripe", state) for state in ("failed", "pending")]
    assert jobs == [[], []]
    assert (await testbed.get(f"/v1/why/{TENANT}"))["jobs"] == []


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


async def test_impossible_changes_are_refused_with_a_code(testbed, subscribed):
    responses = [await send_request(testbed, subscribed, **body) for body, _, _ in REFUSALS]

    refusals = [(response.status_code, response.json()["code"]) for response in responses]
    assert refusals == [(status, code) for _, status, code in REFUSALS]


async def test_unknown_subscriptions_and_changes_are_not_found(testbed):
    unknown = {"subscription_id": "sub_" + "0" * 32}

    for response in (
        await send_request(testbed, unknown, "cancel"),
        await testbed.served.client.get(f"/v1/subscriptions/{unknown['subscription_id']}"),
        await testbed.served.client.get("/v1/changes/chg_" + "0" * 32),
        await testbed.served.client.post("/v1/changes/chg_" + "0" * 32 + "/discard"),
    ):
        assert response.status_code == 404


async def test_a_leaving_tenant_cannot_change_its_subscription(testbed, subscribed):
    await asyncio.to_thread(testbed.fake.control.pause_delivery)
    now = datetime.fromisoformat(subscribed["period_start"])
    await testbed.tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=now)
    )
    await testbed.log.facts("billing.cancellation_requested")

    response = await send_request(testbed, subscribed, "plan", plan="business")

    assert (response.status_code, response.json()["code"]) == (409, "tenant_leaving")


async def test_changes_replay_to_the_same_tables(testbed, subscribed):
    change = await requested(testbed, subscribed, "plan", plan="business")
    await confirmed(testbed, change)
    await at(testbed, change, "applied")
    await shows(testbed, subscribed, lambda found: found["plan"]["plan"] == "business")
    await testbed.settled()
    running = testbed.served.running

    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report.as_dict()


async def _unpaid_after_a_pause(testbed, subscribed):
    """Resumes a subscription in a period whose invoice was void during a pause."""
    for kind in ("pause", "resume"):
        await requested(testbed, subscribed, kind, confirm=True)
        await shows(testbed, subscribed, lambda found, kind=kind: (found["access"] == "paused") is (kind == "pause"))
        if kind == "pause":
            await asyncio.to_thread(testbed.fake.control.renew, subscribed["provider_subscription"])
    customer = (await testbed.account(TENANT))["customer"]
    return lambda: asyncio.to_thread(lambda: testbed.fake.stripe.customers.retrieve(customer).balance)


async def test_a_change_after_an_unpaid_pause_is_refused_with_reason_and_amount(testbed, subscribed):
    balance = await _unpaid_after_a_pause(testbed, subscribed)

    for terms in ({"quantity": 2}, {"plan": "business"}):
        change = await requested(testbed, subscribed, "plan", confirm=True, **terms)
        refused = await at(testbed, change, "refused", "applied")
        assert refused["code"] == "period_unpaid"
        assert "of 29.00 EUR is void" in refused["refusal"]
        assert "29.00 EUR that were never paid" in refused["refusal"]
    later = await requested(testbed, subscribed, "plan", quantity=2, when="period_end", confirm=True)
    assert (await at(testbed, later, "refused", "applied"))["status"] == "applied"
    assert await balance() == 0


class TestWithoutProration:
    """The policy `without_proration`."""

    @pytest.fixture
    def settings(self, settings):
        return settings | {"changes_while_overdue": "without_proration"}

    async def test_a_cheaper_change_after_an_unpaid_pause_credits_nothing(self, testbed):
        subscribed = await testbed.subscribed(TENANT, "business")
        balance = await _unpaid_after_a_pause(testbed, subscribed)

        change = await requested(testbed, subscribed, "plan", plan="starter")
        proration = (await confirmed(testbed, change))["quote"]["proration"]
        await at(testbed, change, "applied")

        assert (proration["lines"], proration["due_now"]["minor"], proration["next_amount"]["minor"]) == ([], 0, 2900)
        assert proration["unpaid"]["amount"]["minor"] == 99_000
        assert proration["unpaid"]["reason"].endswith("of 990.00 EUR is void")
        assert await balance() == 0
        dearer = await requested(testbed, subscribed, "plan", quantity=2, confirm=True)
        assert (await at(testbed, dearer, "refused", "applied"))["code"] == "period_unpaid"
