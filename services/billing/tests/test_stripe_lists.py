"""Stripe adapter: lists of subscriptions and undelivered events, meters, and the customer portal."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from billing_samples import plan
from paybill_billing.providers.port import (
    CustomerPortal,
    MeterReading,
    Order,
    ProviderRefusedError,
    RedeliverySource,
    SubscriptionLister,
    UsageReporter,
)
from paybill_billing.providers.stripe import pages as stripe_pages
from paybill_billing.providers.stripe.provider import Stripe

EMAIL = "ada@acme.example"


@pytest.fixture
async def provider(fake):
    async with AsyncExitStack() as stack:
        made = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 2000)
        stack.push_async_callback(made.close)
        yield made


async def buy(provider, fake, number):
    """Returns the ids of a new customer and its subscription."""
    order = Order(f"ten_{number:032x}", "Acme", f"{number}.{EMAIL}", "shop", plan("pro", 1))
    opened = await provider.open(order, f"key-{number}")
    paid = await asyncio.to_thread(fake.control.pay_checkout, opened.checkout)
    return opened.customer, paid["subscription"]


def now(fake):
    return datetime.fromtimestamp(fake.control.clock()["now"], UTC)


def test_stripe_has_all_optional_capabilities():
    assert all(
        isinstance(Stripe("sk_test_1", "", "http://x", 1), port)
        for port in (SubscriptionLister, RedeliverySource, UsageReporter, CustomerPortal)
    )


async def test_all_pages_of_subscriptions_are_listed_with_ended_ones(provider, fake, monkeypatch):
    monkeypatch.setattr(stripe_pages, "PAGE", 2)
    bought = [(await buy(provider, fake, number))[1] for number in range(5)]
    fake.stripe.subscriptions.cancel(bought[0])

    pages, after = [], None
    while True:
        page = await provider.subscriptions(after)
        pages.append(page)
        after = page.next
        if after is None:
            break

    statuses = {snapshot.id: snapshot.status for page in pages for snapshot in page.snapshots}
    assert [len(page.snapshots) for page in pages] == [2, 2, 1]
    assert statuses == {bought[0]: "canceled", **dict.fromkeys(bought[1:], "active")}
    assert [snapshot for page in pages for snapshot in page.snapshots if snapshot.id == bought[3]] == [
        await provider.fetch(bought[3])
    ]


async def test_undelivered_events_are_listed_with_their_bodies(provider, fake):
    began = now(fake)
    _, subscription = await buy(provider, fake, 1)

    missed = await provider.undelivered(began - timedelta(minutes=1), None)

    by_type = {delivery.type: (delivery, body) for delivery, body in missed.messages}
    delivery, body = by_type["customer.subscription.created"]
    assert (delivery.target, delivery.livemode, delivery.quarantine) == (subscription, False, None)
    assert json.loads(body)["id"] == delivery.event_id
    assert json.loads(body)["data"]["object"]["id"] == subscription
    assert (await provider.undelivered(now(fake) + timedelta(hours=1), None)).messages == ()


async def test_all_pages_of_undelivered_events_are_listed_the_oldest_last(provider, fake, monkeypatch):
    monkeypatch.setattr(stripe_pages, "PAGE", 3)
    began = now(fake)
    await buy(provider, fake, 1)

    found, after = [], None
    while True:
        missed = await provider.undelivered(began - timedelta(minutes=1), after)
        found += [delivery for delivery, _ in missed.messages]
        after = missed.next
        if after is None:
            break

    created = [delivery.created for delivery in found]
    assert len({delivery.event_id for delivery in found}) == len(found) > 3
    assert created == sorted(created, reverse=True)


def meter(fake, **more):
    return fake.stripe.billing.meters.create(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}, **more}
    )


async def test_a_reading_is_idempotent_by_its_key(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    meter(fake)
    at = now(fake)

    for key, quantity in (("a", 5), ("a", 5), ("b", 7)):
        await provider.report(MeterReading(customer, "calls", quantity, at), key)

    since, until = at - timedelta(hours=1), at + timedelta(minutes=1)
    assert await provider.reported("calls", customer, since, until) == 12
    assert await provider.reported("calls", customer, since - timedelta(days=2), since) == 0


async def test_a_reading_with_an_identifier_that_stripe_knows_counts_as_sent(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    meter(fake)
    at = now(fake)
    fake.stripe.billing.meter_events.create(
        {
            "event_name": "calls",
            "identifier": "a",
            "timestamp": int(at.timestamp()),
            "payload": {"stripe_customer_id": customer, "value": "5"},
        }
    )

    await provider.report(MeterReading(customer, "calls", 5, at), "a")

    assert await provider.reported("calls", customer, at - timedelta(hours=1), at + timedelta(minutes=1)) == 5


async def test_a_reading_uses_the_payload_fields_that_its_meter_declares(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    meter(
        fake,
        customer_mapping={"type": "by_id", "event_payload_key": "who"},
        value_settings={"event_payload_key": "many"},
    )

    await provider.report(MeterReading(customer, "calls", 3, now(fake)), "a")

    until = now(fake) + timedelta(minutes=1)
    assert await provider.reported("calls", customer, until - timedelta(hours=1), until) == 3


async def test_a_missing_meter_and_an_old_reading_are_refused(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    with pytest.raises(ProviderRefusedError, match="no active meter"):
        await provider.report(MeterReading(customer, "calls", 1, now(fake)), "a")
    meter(fake)

    with pytest.raises(ProviderRefusedError):
        await provider.report(MeterReading(customer, "calls", 1, now(fake) - timedelta(days=40)), "b")


async def test_the_portal_link_opens(provider, fake):
    customer, _ = await buy(provider, fake, 1)

    link = await provider.portal(customer, "http://127.0.0.1/back")

    assert link.startswith(fake.url)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(link)).status_code == 200


async def test_a_subscription_that_has_ended_meanwhile_counts_as_cancelled(provider, fake):
    customer, subscription = await buy(provider, fake, 1)

    for _ in range(2):
        await provider.cancel(subscription)
    await provider.cancel_all(customer)

    ended = await provider.fetch(subscription)
    assert ended is not None
    assert ended.status == "canceled"
    await provider.cancel("sub_unknown")
    await provider.cancel_all("cus_unknown")
