"""Customer journeys from sign-up to cancellation, with the Stripe fake over the network."""

import asyncio
from datetime import timedelta

from billing_samples import NOW
from billing_testbed import EMAIL
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32


async def test_a_new_tenant_gets_an_account_and_a_checkout(testbed):
    await testbed.tenants.request_tenant(TENANT)

    account = await testbed.opened(TENANT)

    customer = testbed.fake.stripe.customers.retrieve(account["customer"])
    assert (customer.email, customer.name, customer.metadata["tenant_id"]) == (EMAIL, "Acme Inc", TENANT)
    assert account["checkout_url"].startswith(testbed.fake.url)
    assert account["subscriptions"] == []
    facts = await testbed.log.facts("billing.account_registered", "billing.account_opened", at_least=2)
    assert facts[1].origin.cause == facts[0].id


async def test_a_plan_is_created_once_at_the_provider_under_our_lookup_key(testbed):
    for number in range(3):
        await testbed.tenants.request_tenant(f"ten_{number:032x}", "team")
    for number in range(3):
        await testbed.opened(f"ten_{number:032x}")

    prices = testbed.fake.stripe.prices.list({"lookup_keys": ["team_v1_month_eur"]}).data

    assert [(price.unit_amount, price.currency) for price in prices] == [(19900, "eur")]
    assert prices[0].product == "paybill-demo_team"


async def test_payment_activates_the_subscription_and_sets_the_entitlements(testbed):
    subscription = await testbed.subscribed(TENANT, "business")

    async def entitled():
        return (await testbed.account(TENANT))["entitlements"]

    held = await until(entitled)
    assert (subscription["plan"]["plan"], subscription["price"]) == ("business", {"minor": 99000, "currency": "EUR"})
    assert (held["tier"], held["placement"], held["allows_access"]) == ("business", "silo", True)
    assert held == await testbed.get(f"/v1/tenants/{TENANT}/entitlements")
    facts = await testbed.log.facts("billing.subscription_activated", "billing.entitlements_set", at_least=2)
    assert facts[1].origin.cause == facts[0].origin.cause
    assert facts[0].origin.actor == "webhook:stripe"


async def test_a_failed_renewal_starts_the_grace_period_and_payment_recovers(testbed):
    subscription = await testbed.subscribed(TENANT)
    control, customer = testbed.fake.control, (await testbed.account(TENANT))["customer"]

    await asyncio.to_thread(control.set_payment, customer, "fail")
    await asyncio.to_thread(control.renew, subscription["provider_subscription"])
    grace = await testbed.subscription(TENANT, "grace")
    (failed,) = await testbed.log.facts("billing.payment_failed")
    await asyncio.to_thread(control.pay_invoice, failed.event.invoice)
    recovered = await testbed.subscription(TENANT, "active")

    assert (failed.event.amount.minor, failed.event.attempt) == (2900, 1)
    assert grace["grace_until"] is not None
    assert recovered["grace_until"] is None
    events = await testbed.log.facts("billing.subscription_grace_started", "billing.subscription_recovered", at_least=2)
    assert [fact.event.TYPE.partition("_")[2] for fact in events] == ["grace_started", "recovered"]


async def test_the_last_failed_collection_suspends_the_tenant_and_keeps_its_plan(testbed):
    subscription = await testbed.subscribed(TENANT)
    control, customer = testbed.fake.control, (await testbed.account(TENANT))["customer"]

    await asyncio.to_thread(control.set_payment, customer, "fail")
    await asyncio.to_thread(control.renew, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "grace")
    await asyncio.to_thread(control.advance_clock, timedelta(days=30))
    await testbed.subscription(TENANT, "suspended")

    async def shut_out():
        held = (await testbed.account(TENANT))["entitlements"]
        return held if not held["allows_access"] else None

    assert (await until(shut_out))["tier"] == "starter"


async def test_a_subscription_cancelled_at_the_provider_ends_with_its_retention(testbed):
    subscription = await testbed.subscribed(TENANT)

    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "ended")

    (ended,) = await testbed.log.facts("billing.subscription_ended")
    assert ended.event.retention_s == 30 * 86_400


async def test_an_offboarded_tenant_is_cancelled_at_the_provider(testbed):
    subscription = await testbed.subscribed(TENANT)

    await testbed.tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=NOW)
    )
    await testbed.subscription(TENANT, "ended")

    found = testbed.fake.stripe.subscriptions.retrieve(subscription["provider_subscription"])
    assert found.status == "canceled"
    assert (await testbed.account(TENANT))["leaving"]


async def test_the_checkout_of_a_leaving_tenant_is_closed(testbed):
    await testbed.tenants.request_tenant(TENANT)
    account = await testbed.opened(TENANT)

    await testbed.tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=NOW)
    )

    async def closed():
        session = testbed.fake.stripe.checkout.sessions.retrieve(account["checkout_url"].rpartition("/")[2])
        return session.status == "expired"

    await until(closed)


async def test_an_unknown_plan_is_refused_and_the_refusal_is_recorded(testbed):
    await testbed.tenants.request_tenant(TENANT, "gold")

    (refused,) = await testbed.log.facts("billing.request_refused")

    assert refused.event.code == "unknown_plan"
    assert await testbed.account(TENANT) is None


async def test_the_log_replays_to_the_same_tables(testbed):
    subscription = await testbed.subscribed(TENANT)
    customer = (await testbed.account(TENANT))["customer"]
    await asyncio.to_thread(testbed.fake.control.set_payment, customer, "fail")
    await asyncio.to_thread(testbed.fake.control.renew, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "grace")
    await testbed.settled()
    running = testbed.served.running

    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report.as_dict()
