"""Running reconciliation: lost changes are found at the provider, recorded and repaired."""

import asyncio

import pytest
from paybill_billing.app import service
from paybill_billing.reconciliation.jobs import redelivery
from paybill_contracts.reconciliation import DriftKind
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32


async def lost(testbed, change, *arguments):
    """Changes something at the provider without a message; returns what the provider answers."""
    await asyncio.to_thread(testbed.fake.control.wait_delivered)
    await asyncio.to_thread(testbed.fake.control.faults, lose=1000)
    answer = await asyncio.to_thread(change, *arguments)
    await asyncio.to_thread(testbed.fake.control.faults, lose=0)
    return answer


@pytest.fixture
async def changed(testbed):
    """Creates a subscription that was cancelled at the provider without a message."""
    subscription = await testbed.subscribed(TENANT)
    await testbed.settled()
    await lost(testbed, testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])
    return subscription


async def test_no_drift_when_every_message_arrived(testbed) -> None:
    await testbed.subscribed(TENANT)
    await testbed.settled()

    run = await testbed.reconciled(repair=True)

    assert (run["looked"], run["drifted"]) == (1, 0)


@pytest.mark.parametrize("strangers", [0, 1, 25, 26])
async def test_a_list_in_which_nothing_is_ours_ends_the_run_and_nothing_else(testbed, strangers) -> None:
    stripe = testbed.fake.stripe

    def subscribe() -> None:
        price = {"currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
        price_id = stripe.prices.create(price | {"product_data": {"name": "other"}}).id
        for number in range(strangers):
            customer = stripe.customers.create({"name": f"stranger {number}"})
            item = {"price": price_id}
            stripe.subscriptions.create({"customer": customer.id, "items": [item], "trial_period_days": 30})

    await asyncio.to_thread(subscribe)

    runs = [await testbed.reconciled(repair=True) for _ in range(2)]

    assert [(run["status"], run["looked"]) for run in runs] == [("finished", strangers)] * 2


async def test_a_dry_run_records_drifts_and_repairs_nothing(testbed, changed) -> None:
    run = await testbed.reconciled(repair=False)

    (drift,) = await testbed.drifts(run)
    assert (drift["kind"], drift["repaired"], drift["provider_object"]) == (
        "different",
        False,
        changed["provider_subscription"],
    )
    assert {d["field"]: (d["here"], d["there"]) for d in drift["differences"]}["access"] == ("active", "ended")
    assert (await testbed.account(TENANT))["subscriptions"][0]["access"] == "active"


async def test_a_drift_is_recorded_and_repaired(testbed, changed) -> None:
    run = await testbed.reconciled(repair=True)

    await testbed.subscription(TENANT, "ended")
    (fact,) = await testbed.log.facts("billing.drift_found")
    assert fact.event.kind is DriftKind.DIFFERENT
    assert (fact.event.run_id, fact.event.tenant_id, fact.event.repaired) == (run["id"], TENANT, True)
    assert (await testbed.reconciled(repair=True))["drifted"] == 0


async def test_an_unknown_subscription_is_found(testbed) -> None:
    await testbed.tenants.request_tenant(TENANT)
    account = await testbed.opened(TENANT)
    checkout = account["checkout_url"].rpartition("/")[2]
    await lost(testbed, testbed.fake.control.pay_checkout, checkout)

    run = await testbed.reconciled(repair=True)

    assert [drift["kind"] for drift in await testbed.drifts(run)] == ["unknown_here"]
    await testbed.subscription(TENANT, "active")


async def test_a_subscription_to_no_plan_is_no_repaired_drift_until_it_has_ended(testbed) -> None:
    await testbed.subscribed(TENANT)
    customer, stripe = (await testbed.account(TENANT))["customer"], testbed.fake.stripe
    product = await asyncio.to_thread(stripe.products.create, {"name": "Training"})
    recurring = {"product": product.id, "currency": "eur", "unit_amount": 5000, "recurring": {"interval": "month"}}
    price = await asyncio.to_thread(stripe.prices.create, recurring)
    params = {"customer": customer, "items": [{"price": price.id}], "trial_period_days": 30}
    other = await lost(testbed, stripe.subscriptions.create, params)

    running = await testbed.drifts(await testbed.reconciled(repair=True))
    await lost(testbed, stripe.subscriptions.cancel, other.id)
    ended = await testbed.drifts(await testbed.reconciled(repair=True))

    assert [(drift["provider_object"], drift["repaired"]) for drift in running] == [(other.id, False)]
    assert "add one to provider_prices" in running[0]["differences"][0]["there"]
    assert ended == []


async def test_drifts_of_unknown_customers_and_lost_subscriptions_are_not_repaired(testbed) -> None:
    known = await testbed.subscribed(TENANT)
    await testbed.settled()
    await asyncio.to_thread(testbed.fake.control.reset)
    stripe = testbed.fake.stripe

    def stranger():
        customer = stripe.customers.create({"name": "stranger"})
        price = stripe.prices.create(
            {
                "currency": "eur",
                "unit_amount": 100,
                "recurring": {"interval": "month"},
                "product_data": {"name": "other"},
            }
        )
        return stripe.subscriptions.create(
            {"customer": customer.id, "items": [{"price": price.id}], "trial_period_days": 30}
        ).id

    strange = await asyncio.to_thread(stranger)

    run = await testbed.reconciled(repair=True)

    found = {drift["provider_object"]: (drift["kind"], drift["repaired"]) for drift in await testbed.drifts(run)}
    assert found == {
        strange: ("unknown_customer", False),
        known["provider_subscription"]: ("unknown_there", False),
    }


async def test_a_dismissed_customer_is_no_drift_of_a_run_that_repairs(testbed) -> None:
    await testbed.subscribed(TENANT)
    await testbed.settled()
    stripe = testbed.fake.stripe

    def stranger() -> str:
        customer = stripe.customers.create({"name": "stranger"})
        price = {"currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
        made = stripe.prices.create(price | {"product_data": {"name": "other"}})
        items = [{"price": made.id}]
        return stripe.subscriptions.create({"customer": customer.id, "items": items, "trial_period_days": 30}).id

    strange = await asyncio.to_thread(stranger)

    async def waits() -> bool:
        found = await testbed.get("/v1/webhooks/waiting")
        return [each["object"] for each in found if each["reason"]] == [strange]

    await until(waits)
    path = f"/v1/webhooks/waiting/stripe/{strange}/dismiss"
    (await testbed.served.client.post(path, json={"reason": "not ours"})).raise_for_status()

    repairing, dry = await testbed.reconciled(repair=True), await testbed.reconciled(repair=False)

    assert (repairing["drifted"], dry["drifted"]) == (0, 1)


async def test_a_provider_has_one_run_at_a_time_which_can_be_stopped(testbed) -> None:
    await testbed.subscribed(TENANT)
    await asyncio.to_thread(testbed.fake.control.fail_calls, 1000, path="/v1/subscriptions")
    client = testbed.served.client
    run = (await client.post("/v1/providers/stripe/reconciliations", json={})).json()

    second = await client.post("/v1/providers/stripe/reconciliations", json={})
    stopped = await client.post(f"/v1/reconciliations/{run['id']}/stop")
    again = await client.post(f"/v1/reconciliations/{run['id']}/stop")

    assert (second.status_code, second.json()["code"]) == (409, "reconciliation_runs")
    assert stopped.json()["status"] == "stopped"
    assert (again.status_code, again.json()["code"]) == (409, "reconciliation_ended")


async def test_the_notes_of_a_stopped_run_are_deleted_by_the_next_one(testbed, databases) -> None:
    url = str(testbed.served.running.settings.database_url)
    await databases.execute(url, "billing", "INSERT INTO reconciliation_seen VALUES ('rec_stopped', 'sub_1')")

    await testbed.reconciled(repair=True)

    assert await testbed.sql("SELECT * FROM reconciliation_seen") == []


async def test_a_provider_that_cannot_list_is_refused_by_name(testbed) -> None:
    answer = await testbed.served.client.post("/v1/providers/manual/reconciliations", json={})

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_provider")
    assert "stripe" in answer.json()["detail"]


async def test_an_undelivered_message_is_fetched(testbed_of, settings, monkeypatch) -> None:
    monkeypatch.setattr(redelivery, "MIN_AGE", redelivery.MIN_AGE * 0)
    settings["sweep_every_s"] = 0.2
    testbed = await testbed_of(service())
    subscription = await testbed.subscribed(TENANT)
    await testbed.settled()

    await lost(testbed, testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])

    await testbed.subscription(TENANT, "ended")
    found = await testbed.log.facts("billing.drift_found", at_least=1)
    assert {fact.event.kind for fact in found} == {DriftKind.UNDELIVERED}
    assert subscription["provider_subscription"] in {fact.event.provider_object for fact in found}


async def test_reconciliations_replay_to_the_same_tables(testbed, changed) -> None:
    await testbed.reconciled(repair=True)
    await testbed.subscription(TENANT, "ended")

    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report
