"""What Stripe lists, counts and links to: subscriptions, undelivered events, meters, the portal."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from billing_samples import plan
from paybill_billing.providers.port import Lists, MeterReading, Meters, Order, Portal, ProviderRefusedError, Redelivers
from paybill_billing.providers.stripe import provider as at_stripe
from paybill_billing.providers.stripe.provider import Stripe

EMAIL = "ada@acme.example"


@pytest.fixture
async def provider(fake):
    async with AsyncExitStack() as stack:
        made = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 2000)
        stack.push_async_callback(made.close)
        yield made


async def buy(provider, fake, number):
    """The customer and the subscription."""
    order = Order(f"ten_{number:032x}", "Acme", f"{number}.{EMAIL}", "shop", plan("pro", 1))
    opened = await provider.open(order, f"key-{number}")
    paid = await asyncio.to_thread(fake.control.pay_checkout, opened.checkout)
    return opened.customer, paid["subscription"]


def now(fake):
    return datetime.fromtimestamp(fake.control.clock()["now"], UTC)


def test_stripe_can_do_all_that_only_some_can():
    assert all(isinstance(Stripe("sk_test_1", "", "http://x", 1), port) for port in (Lists, Redelivers, Meters, Portal))


async def test_subscriptions_are_listed_over_all_pages_with_those_that_ended(provider, fake, monkeypatch):
    monkeypatch.setattr(at_stripe, "PAGE", 2)
    bought = [(await buy(provider, fake, number))[1] for number in range(5)]
    fake.stripe.subscriptions.cancel(bought[0])

    pages, after = [], None
    while True:
        page = await provider.subscriptions(after)
        pages.append(page)
        after = page.next
        if after is None:
            break

    seen = {one.id: one.status for page in pages for one in page.snapshots}
    assert [len(page.snapshots) for page in pages] == [2, 2, 1]
    assert seen == {bought[0]: "canceled", **dict.fromkeys(bought[1:], "active")}
    assert [one for page in pages for one in page.snapshots if one.id == bought[3]] == [await provider.fetch(bought[3])]


async def test_what_nobody_took_is_listed_with_its_body_and_what_was_taken_is_not(provider, fake):
    began = now(fake)
    _, lost = await buy(provider, fake, 1)

    missed = await provider.undelivered(began - timedelta(minutes=1), None)

    by_type = {delivery.type: (delivery, body) for delivery, body in missed.messages}
    delivery, body = by_type["customer.subscription.created"]
    assert (delivery.target, delivery.livemode, delivery.quarantine) == (lost, False, None)
    assert json.loads(body)["id"] == delivery.event_id
    assert json.loads(body)["data"]["object"]["id"] == lost
    assert (await provider.undelivered(now(fake) + timedelta(hours=1), None)).messages == ()


async def test_undelivered_messages_come_page_by_page_the_oldest_last(provider, fake, monkeypatch):
    monkeypatch.setattr(at_stripe, "PAGE", 3)
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


async def test_a_reading_is_counted_once_for_its_key(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    meter(fake)
    at = now(fake)

    for key, quantity in (("a", 5), ("a", 5), ("b", 7)):
        await provider.report(MeterReading(customer, "calls", quantity, at), key)

    since, until = at - timedelta(hours=1), at + timedelta(minutes=1)
    assert await provider.reported("calls", customer, since, until) == 12
    assert await provider.reported("calls", customer, since - timedelta(days=2), since) == 0


async def test_a_reading_whose_key_the_provider_knows_is_taken_for_sent_even_when_its_answer_is_forgotten(
    provider, fake
):
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


async def test_the_fields_of_a_meter_are_those_that_it_declares(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    meter(
        fake,
        customer_mapping={"type": "by_id", "event_payload_key": "who"},
        value_settings={"event_payload_key": "many"},
    )

    await provider.report(MeterReading(customer, "calls", 3, now(fake)), "a")

    until = now(fake) + timedelta(minutes=1)
    assert await provider.reported("calls", customer, until - timedelta(hours=1), until) == 3


async def test_a_meter_that_is_not_there_and_a_reading_that_is_too_old_are_refused(provider, fake):
    customer, _ = await buy(provider, fake, 1)
    with pytest.raises(ProviderRefusedError, match="no active meter"):
        await provider.report(MeterReading(customer, "calls", 1, now(fake)), "a")
    meter(fake)

    with pytest.raises(ProviderRefusedError):
        await provider.report(MeterReading(customer, "calls", 1, now(fake) - timedelta(days=40)), "b")


async def test_the_portal_is_a_link_that_opens(provider, fake):
    customer, _ = await buy(provider, fake, 1)

    link = await provider.portal(customer, "http://127.0.0.1/back")

    assert link.startswith(fake.url)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(link)).status_code == 200
