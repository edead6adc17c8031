"""Adoption: an existing customer of the provider becomes a tenant with its subscriptions."""

import asyncio
from datetime import UTC, datetime

import pytest
from paybill_billing.providers.stripe import pages, provider
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT, OTHER = "ten_" + "a" * 32, "ten_" + "b" * 32
OURS = "starter_v1_month_eur"
"""Lookup key of the first price of the plan starter."""


@pytest.fixture
def bought(fake):
    """Creates a customer with a subscription at the provider, without a message."""

    def make(lookup_key=OURS, *, ended=False):
        stripe = fake.stripe
        held = {"lookup_key": lookup_key} if lookup_key else {}
        customer = stripe.customers.create({"name": "Old", "email": "old@acme.example"})
        price = next(iter(stripe.prices.list({"lookup_keys": [lookup_key]}).data), None) if lookup_key else None
        price = price or stripe.prices.create(
            {"currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}, "product_data": {"name": "Old"}}
            | held
        )
        params = {"customer": customer.id, "items": [{"price": price.id}], "trial_period_days": 30}
        subscription = stripe.subscriptions.create(params)
        if ended:
            stripe.subscriptions.cancel(subscription.id)
        return customer.id, subscription.id

    async def run(*arguments, **more):
        fake.control.faults(lose=1000)
        made = await asyncio.to_thread(make, *arguments, **more)
        fake.control.faults(lose=0)
        return made

    return run


async def failed(testbed, tenant_id):
    async def probe():
        account = await testbed.account(tenant_id)
        return account if account and account["status"] == "failed" else None

    return (await until(probe))["failure"]


async def test_existing_subscriptions_entitle_without_message_and_checkout(testbed, bought) -> None:
    customer, subscription = await bought()

    await testbed.tenants.request_tenant(TENANT, customer=customer)
    subscription_ = await testbed.subscription(TENANT, "trialing")

    account = await testbed.account(TENANT)
    (fact,) = await testbed.log.facts("billing.account_adopted")
    assert (subscription_["provider_subscription"], subscription_["plan"]["plan"]) == (subscription, "starter")
    assert (account["customer"], account["checkout_url"]) == (customer, None)
    assert (fact.event.tenant_id, fact.event.provider, fact.event.customer) == (TENANT, "stripe", customer)
    found = await asyncio.to_thread(testbed.fake.stripe.customers.retrieve, customer)
    assert found.metadata["tenant_id"] == TENANT
    running = testbed.served.running
    report = await replay(running.service, running.settings, running.database)
    assert report.equal, report.as_dict()


async def test_a_customer_belongs_to_one_tenant(testbed, bought) -> None:
    customer, _ = await bought()
    await testbed.tenants.request_tenant(TENANT, customer=customer)
    await testbed.opened(TENANT)

    await testbed.tenants.request_tenant(OTHER, customer=customer)
    refused = await failed(testbed, OTHER)
    await asyncio.to_thread(testbed.fake.stripe.customers.update, customer, {"metadata": {"tenant_id": ""}})
    third = "ten_" + "c" * 32
    await testbed.tenants.request_tenant(third, customer=customer)

    assert "another tenant" in refused
    assert "another tenant" in await failed(testbed, third)
    whose = await testbed.get(f"/v1/providers/stripe/customers/{customer}")
    assert (whose["tenant_id"], whose["status"]) == (TENANT, "open")


@pytest.mark.parametrize("strangers", [0, 1, 25, 26])
async def test_a_customer_is_adopted_among_subscriptions_that_sell_no_plan(testbed, monkeypatch, strangers) -> None:
    """strangers: subscriptions of the customer, which Stripe lists by 25."""
    for module in (pages, provider):
        monkeypatch.setattr(module, "PAGE", 25)
    stripe = testbed.fake.stripe

    def subscribe() -> str:
        customer = stripe.customers.create({"name": "Old", "email": "old@acme.example"}).id
        price = {"currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
        items = [{"price": stripe.prices.create(price | {"product_data": {"name": "other"}}).id}]
        for _ in range(strangers):
            stripe.subscriptions.create({"customer": customer, "items": items, "trial_period_days": 30})
        return customer

    customer = await asyncio.to_thread(subscribe)
    before = await testbed.reconciled(repair=False)
    await testbed.tenants.request_tenant(TENANT, customer=customer)
    account = await testbed.opened(TENANT)
    after = await testbed.reconciled(repair=True)

    drifts = await testbed.drifts(before)
    assert (before["looked"], after["looked"]) == (strangers, strangers)
    assert [(drift["kind"], drift["customer"], drift["plan"]) for drift in drifts] == [
        ("unknown_customer", customer, None)
    ] * strangers
    assert (account["customer"], account["subscriptions"]) == (customer, [])


async def test_adopting_an_unknown_customer_is_refused_with_the_reason(testbed) -> None:
    await testbed.tenants.request_tenant(TENANT, customer="cus_nobody")

    assert "Stripe has no such object" in await failed(testbed, TENANT)
    answer = await testbed.served.client.get("/v1/providers/stripe/customers/cus_nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_customer")


async def test_adopting_at_a_provider_without_adoption_is_refused(testbed) -> None:
    await testbed.tenants.request_tenant(TENANT, payment="manual", customer="cus_1")

    assert "manual cannot adopt an existing customer" in await failed(testbed, TENANT)


async def test_an_adoption_with_an_unknown_outcome_happens_once(testbed, bought) -> None:
    customer, _ = await bought()
    await asyncio.to_thread(testbed.fake.control.fail_calls, 1, path="/v1/customers", after=True)

    await testbed.tenants.request_tenant(TENANT, customer=customer)

    await testbed.subscription(TENANT, "trialing")
    assert len(await testbed.log.facts("billing.account_adopted")) == 1


async def test_a_subscription_that_ended_before_the_adoption_emits_nothing(testbed, bought) -> None:
    customer, _ = await bought(ended=True)
    await testbed.tenants.request_tenant(TENANT, customer=customer)
    await testbed.opened(TENANT)

    run = await testbed.reconciled(repair=True)

    assert (run["looked"], run["drifted"]) == (1, 0)
    assert (await testbed.account(TENANT))["subscriptions"] == []
    assert await testbed.log.facts("billing.subscription_ended", at_least=0) == []


async def test_an_adopted_tenant_that_leaves_is_cancelled(testbed, bought) -> None:
    customer, _ = await bought()
    await testbed.tenants.request_tenant(TENANT, customer=customer)
    await testbed.subscription(TENANT, "trialing")

    await testbed.tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=datetime.now(UTC))
    )

    await testbed.subscription(TENANT, "ended")


async def test_a_dry_run_shows_customer_and_plan_of_an_unknown_subscription(testbed, bought) -> None:
    customer, subscription = await bought()
    other, unsold = await bought(None)
    run = await testbed.reconciled(repair=False)

    found = {
        drift["provider_object"]: [drift[name] for name in ("customer", "provider_status", "plan", "version")]
        for drift in await testbed.drifts(run)
    }
    assert found == {
        subscription: [customer, "trialing", "starter", 1],
        unsold: [other, "trialing", None, None],
    }


async def test_reconciliation_reports_a_failed_sync_with_its_reason(testbed, bought) -> None:
    customer, subscription = await bought(None)
    await testbed.tenants.request_tenant(TENANT, customer=customer)

    async def waits():
        return [one for one in await testbed.get("/v1/webhooks/waiting") if one["reason"]]

    await until(waits)
    run = await testbed.reconciled(repair=False)

    (drift,) = await testbed.drifts(run)
    assert (drift["tenant_id"], drift["provider_object"]) == (TENANT, subscription)
    assert "provider_prices" in drift["differences"][0]["there"]


async def test_providers_are_listed_with_their_capabilities(testbed) -> None:
    found = {one["name"]: one for one in await testbed.get("/v1/providers")}

    assert {name: one["default"] for name, one in found.items()} == {"manual": False, "stripe": True}
    assert found["manual"]["capabilities"] == []
    assert found["stripe"]["capabilities"] == ["messages", "redelivers", "lists", "adopts", "meters", "portal"]
