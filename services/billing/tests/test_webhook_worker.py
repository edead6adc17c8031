"""Billing converges to the provider's state, however messages arrive: late, twice, reordered or early."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from billing_samples import EUR_20
from billing_testbed import EMAIL, SECRETS
from paybill_billing.app import service
from paybill_billing.providers.port import ProviderUnavailableError
from paybill_billing.providers.port.snapshots import PriceSnapshot, ProviderSnapshot, SnapshotItem
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_billing.providers.sync_queue import kind_of
from paybill_billing.subscriptions.domain.expiry import SYNC_DELAY
from paybill_billing.webhooks.jobs import ProviderSync
from paybill_runtime.jobs.kinds import Kind
from paybill_runtime.testing import until

TENANT = "ten_" + "b" * 32
QUICK = """\
product: paybill-demo
plans:
  - plan: starter
    version: 1
    name: Quick
    tier: starter
    placement: pooled
    grace: 10s
    retention: 1d
    features: []
    prices:
      - {minor: 100, currency: EUR, interval: month}
"""


def about(subscription, customer, number=1, type_="customer.subscription.updated", **item):
    """Returns a message of Stripe about a subscription."""
    item = {"id": subscription, "object": "subscription", "customer": customer, **item}
    return json.dumps({"id": f"evt_{number}", "type": type_, "created": 1, "data": {"object": item}}).encode()


async def test_reordered_messages_sent_three_times_emit_every_event_once(testbed):
    control = testbed.fake.control
    await asyncio.to_thread(lambda: control.faults(duplicate=3, reorder=True))
    subscription = await testbed.subscribed(TENANT)
    customer = (await testbed.account(TENANT))["customer"]
    await asyncio.to_thread(control.set_payment, customer, "fail")
    await asyncio.to_thread(control.renew, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "grace")
    await testbed.settled()

    counted = await testbed.emitted("subscription_activated", "payment_failed", "subscription_grace_started")

    assert counted == {"subscription_activated": 1, "payment_failed": 1, "subscription_grace_started": 1}


async def test_messages_before_the_account_is_open_lead_to_the_same_state(testbed):
    stripe = testbed.fake.stripe
    card = {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    customer = stripe.customers.create({"email": EMAIL, "metadata": {"tenant_id": TENANT}, **card})
    price = stripe.prices.create(
        {
            "product_data": {"name": "Starter"},
            "currency": "eur",
            "unit_amount": 2900,
            "recurring": {"interval": "month"},
            "lookup_key": "starter_v1_month_eur",
        }
    )
    stripe.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})

    async def waits():
        return [waiting for waiting in await testbed.get("/v1/webhooks/waiting") if waiting["reason"]]

    (waiting,) = await until(waits)
    await testbed.tenants.request_tenant(TENANT)
    await testbed.subscription(TENANT, "active")
    await testbed.settled()

    assert (waiting["reason"], waiting["customer"]) == ("no account has this customer", customer.id)
    assert (await testbed.account(TENANT))["customer"] == customer.id
    assert await testbed.emitted("subscription_activated") == {"subscription_activated": 1}


async def test_messages_of_an_unknown_customer_wait_and_delay_no_other(testbed, outside, signed):
    body = about("sub_foreign", "cus_foreign")
    await outside.post("/webhooks/stripe", content=body, headers=signed(body))

    await testbed.subscribed(TENANT)

    async def waits():
        found = await testbed.get("/v1/webhooks/waiting")
        return [each for each in found if each["object"] == "sub_foreign" and each["reason"]]

    (waiting,) = await until(waits)
    assert waiting["reason"] == "no account has this customer"


async def test_a_subscription_unknown_to_the_provider_leaves_the_queue(testbed, outside, signed):
    await testbed.tenants.request_tenant(TENANT)
    body = about("sub_gone", (await testbed.opened(TENANT))["customer"])

    await outside.post("/webhooks/stripe", content=body, headers=signed(body))

    async def done():
        return await testbed.sql("SELECT 1 FROM webhooks WHERE event_id = 'evt_1' AND done_at IS NOT NULL")

    await until(done)


@pytest.mark.parametrize("catalogue", [QUICK], indirect=True)
async def test_the_grace_period_ends_by_our_clock_without_messages(testbed):
    subscription = await testbed.subscribed(TENANT)
    control, customer = testbed.fake.control, (await testbed.account(TENANT))["customer"]

    await asyncio.to_thread(control.set_payment, customer, "fail")
    await asyncio.to_thread(control.renew, subscription["provider_subscription"])
    suspended = await testbed.subscription(TENANT, "suspended")

    async def shut_out():
        return not (await testbed.account(TENANT))["entitlements"]["allows_access"]

    await until(shut_out)
    assert suspended["provider_status"] == "past_due"
    counted = await testbed.emitted("subscription_grace_started", "subscription_suspended")
    assert counted == {"subscription_grace_started": 1, "subscription_suspended": 1}


class Scripted:
    """A provider with scripted snapshots. It is unavailable for the first `unavailable` fetches."""

    def __init__(self, *shown, unavailable=0):
        self.shown = list(shown)
        self.unavailable = unavailable
        self.fetches = []

    async def fetch(self, subscription):
        self.fetches.append(subscription)
        if len(self.fetches) <= self.unavailable:
            raise ProviderUnavailableError(0.1, "it is unavailable")
        return self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]


def shown(customer, status="active", lookup_key="starter_v1_month_eur", tenant=None, **more):
    return ProviderSnapshot(
        id="sub_1",
        customer=customer,
        tenant=tenant,
        status=status,
        collection_paused=False,
        items=(SnapshotItem(PriceSnapshot("price_1", lookup_key, None, None), 1, EUR_20),),
        period_start=None,
        period_end=more.pop("period_end", None),
        cancel_at=None,
        invoice=None,
        **more,
    )


@pytest.fixture
async def scripted(testbed_of, signed):
    """Runs billing with stored messages, then syncs with a scripted provider; both have the customer."""

    async def never(_job):
        raise AssertionError("its kind has no slots")

    testbed = await testbed_of(
        replace(service(), job_kinds=lambda _context: [Kind(kind_of("stripe"), never, concurrency=0)])
    )
    await testbed.tenants.request_tenant(TENANT)
    customer = (await testbed.opened(TENANT))["customer"]
    running = testbed.served.running

    async def run(provider_of, bodies_of):
        for body in bodies_of(customer):
            answer = await testbed.served.client.post("/webhooks/stripe", content=body, headers=signed(body))
            assert answer.is_success
        provider = provider_of(customer)
        kind = ProviderSync(running.context, "stripe", provider, StripeInbound(SECRETS)).kind()
        running.worker.kinds[kind.name] = kind
        running.worker.wake()
        return provider, testbed

    yield run
    await running.effects["stripe"].close()


async def test_a_hundred_messages_about_one_subscription_cost_one_fetch(scripted):
    provider, testbed = await scripted(
        lambda customer: Scripted(shown(customer)),
        lambda customer: [about("sub_1", customer, number) for number in range(100)],
    )

    await testbed.subscription(TENANT, "active")

    assert provider.fetches == ["sub_1"]
    assert await testbed.sql("SELECT count(*) FROM webhooks WHERE done_at IS NULL") == [(0,)]


async def test_a_fetch_is_retried_while_the_provider_is_away(scripted):
    provider, testbed = await scripted(
        lambda customer: Scripted(shown(customer), unavailable=3), lambda customer: [about("sub_1", customer)]
    )

    await testbed.subscription(TENANT, "active")

    assert len(provider.fetches) == 4


async def test_a_failed_sync_waits_with_its_reason_and_is_retried(scripted):
    _, testbed = await scripted(
        lambda customer: Scripted(shown(customer, "mystery"), shown(customer, lookup_key="other"), shown(customer)),
        lambda customer: [about("sub_1", customer)],
    )
    reasons = set()

    async def active():
        reasons.update(waiting["reason"] for waiting in await testbed.get("/v1/webhooks/waiting"))
        return any(each["access"] == "active" for each in (await testbed.account(TENANT))["subscriptions"])

    await until(active)
    assert any("UnknownStatusError" in (reason or "") for reason in reasons)
    assert any("UnknownPriceError" in (reason or "") for reason in reasons)


async def test_a_custom_price_keeps_the_plan_of_the_sign_up(scripted):
    _, testbed = await scripted(
        lambda customer: Scripted(shown(customer, lookup_key=None, tenant=TENANT)),
        lambda customer: [about("sub_1", customer)],
    )

    subscription = await testbed.subscription(TENANT, "active")

    assert (subscription["plan"]["plan"], subscription["price"]["minor"]) == ("starter", 2000)


async def test_a_subscription_with_another_tenant_in_its_metadata_gives_that_tenant_nothing(scripted):
    other = "ten_" + "c" * 32
    _, testbed = await scripted(
        lambda customer: Scripted(shown(customer, tenant=other)), lambda customer: [about("sub_1", customer)]
    )
    await testbed.tenants.request_tenant(other)
    await testbed.opened(other)

    await testbed.subscription(TENANT, "active")

    assert (await testbed.account(other))["subscriptions"] == []


async def test_messages_during_a_fetch_cause_another_fetch(scripted, signed):
    class Slow(Scripted):
        async def fetch(self, subscription):
            found = await super().fetch(subscription)
            if len(self.fetches) == 1:
                body = about("sub_1", found.customer, 2)
                await self.client.post("/webhooks/stripe", content=body, headers=signed(body))
            return found

    provider, testbed = await scripted(
        lambda customer: Slow(shown(customer), shown(customer, "canceled")), lambda _: []
    )
    provider.client = testbed.served.client
    body = about("sub_1", (await testbed.account(TENANT))["customer"])
    await testbed.served.client.post("/webhooks/stripe", content=body, headers=signed(body))

    await testbed.subscription(TENANT, "ended")

    assert len(provider.fetches) == 2


async def test_an_overdue_subscription_is_fetched_without_a_message(scripted):
    ended = datetime.now(UTC) - SYNC_DELAY + timedelta(seconds=2)
    provider, testbed = await scripted(
        lambda customer: Scripted(shown(customer, period_end=ended), shown(customer, "canceled")),
        lambda customer: [about("sub_1", customer)],
    )

    await testbed.subscription(TENANT, "ended")

    assert provider.fetches == ["sub_1", "sub_1"]
    assert len(await testbed.log.facts("billing.subscription_activated")) == 1


@pytest.mark.parametrize("catalogue", [QUICK], indirect=True)
async def test_a_stale_fetch_does_not_revert_the_decision_of_a_timer(scripted, signed):
    class Slow(Scripted):
        async def fetch(self, subscription):
            found = await super().fetch(subscription)
            if len(self.fetches) == 2:
                await self.testbed.subscription(TENANT, "suspended")
            return found

    provider, testbed = await scripted(
        lambda customer: Slow(shown(customer, "past_due"), shown(customer, "active"), shown(customer, "past_due")),
        lambda customer: [about("sub_1", customer)],
    )
    provider.testbed = testbed
    await testbed.subscription(TENANT, "grace")
    body = about("sub_1", (await testbed.account(TENANT))["customer"], 2)
    await testbed.served.client.post("/webhooks/stripe", content=body, headers=signed(body))

    async def fetched():
        return len(provider.fetches) >= 3 and await testbed.get("/v1/webhooks/waiting") == []

    await until(fetched)
    assert (await testbed.subscription(TENANT, "suspended"))["provider_status"] == "past_due"
    facts = await testbed.log.facts("billing.subscription_suspended", "billing.subscription_recovered")
    assert [fact.event.TYPE for fact in facts] == ["billing.subscription_suspended"]


async def test_a_worker_without_the_lease_records_nothing(scripted, signed):
    class Robbed(Scripted):
        async def fetch(self, subscription):
            async with self.running.database.engine.begin() as connection:
                await connection.exec_driver_sql("UPDATE chassis.lease SET epoch = epoch + 1 WHERE name = 'webhooks'")
            return await super().fetch(subscription)

    provider, testbed = await scripted(lambda customer: Robbed(shown(customer)), lambda _: [])
    provider.running = testbed.served.running
    body = about("sub_1", (await testbed.account(TENANT))["customer"])
    await testbed.served.client.post("/webhooks/stripe", content=body, headers=signed(body))

    async def fetched():
        return provider.fetches

    await until(fetched)
    await asyncio.sleep(0.3)
    assert (await testbed.account(TENANT))["subscriptions"] == []


async def test_a_worker_without_the_lease_stops_its_fetches(scripted, signed):
    class Slow(Scripted):
        ended = None

        async def fetch(self, subscription):
            self.fetches.append(subscription)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError as error:
                self.ended = error
                raise

    provider, testbed = await scripted(
        lambda customer: Slow(shown(customer)), lambda customer: [about("sub_1", customer)]
    )

    async def fetch_started():
        return provider.fetches

    async def ended():
        return provider.ended

    await until(fetch_started)
    async with testbed.served.running.database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for another_has_it in (
            "SET application_name = 'another'",
            "INSERT INTO chassis.member VALUES ('another', now() + interval '1 hour')",
            "UPDATE chassis.lease SET owner = 'another' WHERE name = 'webhooks'",
        ):
            await connection.exec_driver_sql(another_has_it)
        await until(ended)
        await connection.exec_driver_sql("RESET application_name")
