"""A confirmed change costs what was quoted, or is refused: what happens at Stripe between quote and confirmation."""

import asyncio

import pytest
from paybill_runtime.testing import until

TENANT = "ten_" + "a" * 32
CATALOGUE = """
product: shop
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 5}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
  - plan: plus
    version: 1
    name: Plus
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: projects, kind: limit, limit: 7}
    prices:
      - {minor: 4750, currency: EUR, interval: month}
"""
pytestmark = pytest.mark.parametrize("catalogue", [CATALOGUE], indirect=True)


class Customer:
    """A paying customer whose subscription changes at Stripe and by quotes of billing."""

    def __init__(self, testbed, subscription):
        self.testbed = testbed
        self.control = testbed.fake.control
        self.stripe = testbed.fake.stripe
        self.path = f"/v1/subscriptions/{subscription['subscription_id']}"
        self.id = subscription["provider_subscription"]

    def invoices(self):
        return self.stripe.invoices.list({"subscription": self.id}).data

    def update(self, **params):
        self.stripe.subscriptions.update(self.id, params)

    def set_seats(self, quantity):
        (item,) = self.stripe.subscription_items.list({"subscription": self.id}).data
        self.stripe.subscription_items.update(item.id, {"quantity": quantity, "proration_behavior": "always_invoice"})

    def refund(self):
        intent = self.stripe.payment_intents.list({"customer": self.invoices()[0].customer}).data[0]
        self.stripe.refunds.create({"payment_intent": intent.id})

    async def at_stripe(self, action, *args, **params):
        """Does something at Stripe; its webhooks are processed."""
        await asyncio.to_thread(lambda: action(*args, **params))
        await self.testbed.settled()

    async def change(self, change, *statuses):
        async def load():
            found = await self.testbed.get(f"/v1/changes/{change['id']}")
            return found if found["status"] in statuses else None

        return await until(load)

    async def quoted(self, **terms):
        body = {"kind": "plan", "reason": "asked", **terms}
        answer = await self.testbed.served.client.post(f"{self.path}/changes", json=body)
        assert answer.status_code == 202, answer.text
        return await self.change(answer.json(), "quoted", "refused")

    async def confirmed(self, change):
        body = {"quote_hash": change["quote"]["quote_hash"]}
        answer = await self.testbed.served.client.post(f"/v1/changes/{change['id']}/confirm", json=body)
        assert answer.status_code == 202, answer.text
        return await self.change(change, "applied", "refused")


def due_now(change):
    return change["quote"]["proration"]["due_now"]["minor"]


def next_amount(change):
    return change["quote"]["proration"]["next_amount"]["minor"]


async def test_a_payment_that_was_refunded_after_the_quote_gives_no_credit(testbed):
    subscription = await testbed.subscribed(TENANT, "plus", 4)
    customer = Customer(testbed, subscription)
    change = await customer.quoted(quantity=1)

    await customer.at_stripe(customer.refund)
    refused = await customer.confirmed(change)

    (invoice,) = customer.invoices()
    assert (change["status"], invoice.amount_paid) == ("quoted", 19_000)
    assert refused["code"] == "period_unpaid"
    assert "was given back" in refused["refusal"]
    assert customer.stripe.customers.retrieve(invoice.customer).balance == 0


async def test_a_payment_that_was_disputed_after_the_quote_gives_no_credit(testbed):
    subscription = await testbed.subscribed(TENANT, "starter", 10)
    customer = Customer(testbed, subscription)
    change = await customer.quoted(quantity=1)

    (invoice,) = customer.invoices()
    await customer.at_stripe(customer.control.dispute, invoice.id)
    refused = await customer.confirmed(change)

    assert (change["status"], invoice.amount_paid) == ("quoted", 29_000)
    assert refused["code"] == "period_unpaid"
    assert len(customer.invoices()) == 1


async def test_seats_that_were_added_after_the_quote_are_not_charged_at_its_price(testbed):
    customer = Customer(testbed, await testbed.subscribed(TENANT, "starter"))
    change = await customer.quoted(plan="plus")

    await customer.at_stripe(customer.set_seats, 30)
    before = len(customer.invoices())
    refused = await customer.confirmed(change)
    again = await customer.quoted(plan="plus")
    applied = await customer.confirmed(again)

    assert due_now(change) == 1850
    assert refused["code"] == "quote_outdated"
    assert "would be due now instead of 18.50 EUR; request the change again" in refused["refusal"]
    assert applied["status"] == "applied"
    assert len(customer.invoices()) == before + 1
    assert customer.invoices()[0].amount_paid == due_now(again) > 55_000


async def test_a_coupon_that_was_removed_after_the_quote_makes_it_outdated(testbed):
    customer = Customer(testbed, await testbed.subscribed(TENANT, "starter", 10))
    coupon = customer.stripe.coupons.create({"percent_off": 50, "duration": "forever"}).id
    await customer.at_stripe(customer.update, discounts=[{"coupon": coupon}])
    await asyncio.to_thread(customer.control.renew, customer.id)
    await testbed.settled()
    change = await customer.quoted(plan="plus")

    await customer.at_stripe(customer.update, discounts="")
    refused = await customer.confirmed(change)

    assert due_now(change) == 9250
    assert refused["code"] == "quote_outdated"


async def test_a_later_price_that_changed_after_the_quote_makes_it_outdated(testbed):
    customer = Customer(testbed, await testbed.subscribed(TENANT, "plus", 4))
    change = await customer.quoted(plan="starter")

    await customer.at_stripe(customer.set_seats, 40)
    refused = await customer.confirmed(change)

    assert (due_now(change), next_amount(change)) == (0, 11_600)
    assert refused["code"] == "quote_outdated"


async def test_a_pause_whose_webhook_was_lost_refuses_the_quote(testbed):
    customer = Customer(testbed, await testbed.subscribed(TENANT, "plus"))
    await testbed.settled()
    await asyncio.to_thread(customer.control.faults, lose=1000)
    await asyncio.to_thread(customer.update, pause_collection={"behavior": "void"})

    refused = await customer.quoted(quantity=9)
    shown = await until(lambda: paused(customer))

    assert (refused["code"], shown["access"]) == ("subscription_paused", "paused")


async def paused(customer):
    found = await customer.testbed.get(customer.path)
    return found if found["access"] == "paused" else None


async def test_a_pause_after_the_quote_whose_webhook_was_lost_refuses_the_confirmed_change(testbed):
    customer = Customer(testbed, await testbed.subscribed(TENANT, "plus"))
    change = await customer.quoted(quantity=9)
    await testbed.settled()
    await asyncio.to_thread(customer.control.faults, lose=1000)
    await asyncio.to_thread(customer.update, pause_collection={"behavior": "void"})

    refused = await customer.confirmed(change)

    assert refused["code"] == "subscription_paused"
    assert len(customer.invoices()) == 1
