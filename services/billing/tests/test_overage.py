"""Overage prices: sold at the checkout, invoiced by usage, and replaced by a change of plan."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from billing_samples import plan, published
from change_samples import SUBSCRIPTION
from paybill_billing.catalogue.domain import differences
from paybill_billing.catalogue.domain.catalogue import lookup_key, metered_prices
from paybill_billing.providers.port import MeteredPrice, MeterReading, Order, ProviderRefusedError
from paybill_billing.providers.port.desired import DesiredSubscription
from paybill_billing.providers.stripe.provider import Stripe
from paybill_billing.subscriptions.domain.quotes import overage_after
from paybill_billing.usage.jobs import WindowCloser
from paybill_contracts.catalogue import Catalogue, Interval, Meter, OveragePrice, PlanRef, Price
from paybill_contracts.changes import ChangeKind, WantedChange
from paybill_contracts.money import Money
from paybill_contracts.usage import Usage
from paybill_runtime.testing import until

TENANT = "ten_" + "e" * 32
PLANS = """
product: shop
meters:
  - {meter: calls, window: month, lateness: 1d, provider_meters: {stripe: api_calls}}
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - key: calls
        kind: metered
        meter: calls
        included: 10
        overage: [{minor: 7, currency: EUR, interval: month}]
    prices:
      - {minor: 2900, currency: EUR, interval: month}
  - plan: business
    version: 1
    name: Business
    tier: business
    placement: silo
    grace: 7d
    retention: 30d
    features:
      - key: calls
        kind: metered
        meter: calls
        included: 20
        overage: [{minor: 500, currency: EUR, interval: month, per: 10}]
    prices:
      - {minor: 9900, currency: EUR, interval: month}
"""


def overage(minor, units=1, interval=Interval.MONTH):
    amount = Money(minor=minor, currency="EUR")
    return OveragePrice(feature="calls", amount=amount, interval=interval, units=units)


def metered_plan(name, *prices):
    return plan(name, 1).model_copy(update={"overage": prices})


STARTER, BUSINESS = metered_plan("starter", overage(7)), metered_plan("business", overage(500, 10))
METER = Meter(meter="calls", provider_meters={"stripe": "api_calls"})


def test_an_overage_price_is_sold_with_the_price_of_its_interval_where_the_provider_has_the_meter():
    yearly = metered_plan("starter", overage(7), overage(6, interval=Interval.YEAR))
    catalogue = published(Catalogue(product="shop", plans=(yearly,), meters=(METER,)))

    sold = metered_prices(catalogue, yearly, yearly.prices[0], "stripe")
    assert sold == (MeteredPrice(overage(7), "api_calls"),)
    assert metered_prices(catalogue, yearly, yearly.prices[0], "manual") == ()
    assert metered_prices(catalogue, yearly, None, "stripe") == ()
    assert lookup_key(yearly, sold[0].price) == "starter_v1_month_eur/calls"


def test_the_difference_of_two_versions_shows_their_overage_prices():
    catalogue = published(Catalogue(product="shop", plans=(STARTER,), meters=(METER,)))
    newer = STARTER.model_copy(update={"version": 2, "overage": (overage(9),)})

    (version,) = differences.between(catalogue, Catalogue(product="shop", plans=(newer,), meters=(METER,))).versions
    assert [(each.before, each.after) for each in version.overage] == [(overage(7), overage(9))]


@pytest.mark.parametrize(
    ("kind", "shown"), [(ChangeKind.PLAN, [500]), (ChangeKind.RESUME, [500]), (ChangeKind.CANCEL, [])]
)
def test_a_quote_shows_the_overage_prices_that_apply_after_the_change(kind, shown):
    target = PlanRef(plan="business", version=1, catalogue_hash="a" * 64) if kind is ChangeKind.PLAN else None
    desired = WantedChange(kind=kind, at_period_end=False, plan=target, price_index=0, quantity=None)

    found = overage_after(desired, SUBSCRIPTION, STARTER, BUSINESS)
    assert [price.amount.minor for price in found] == shown
    assert [(price.included, price.units) for price in found] == [(100, 10)] * len(shown)


@pytest.fixture
async def provider(fake):
    async with AsyncExitStack() as stack:
        provider = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
        stack.push_async_callback(provider.close)
        yield provider


def order(price):
    metered = (MeteredPrice(price, "api_calls"),)
    return Order(
        tenant_id="ten_" + "1" * 32, name="Acme", email="a@b.example", product="shop", plan=STARTER, metered=metered
    )


async def test_a_price_at_stripe_that_differs_from_the_overage_price_is_refused(fake, provider):
    opened = await provider.open(order(overage(7)), "one")
    again = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
    try:
        with pytest.raises(ProviderRefusedError, match="an amount other than the plan's"):
            await again.open(order(overage(7, 10)), "two")
    finally:
        await again.close()

    lines = await asyncio.to_thread(fake.stripe.checkout.sessions.line_items.list, opened.checkout)
    assert [(line.price.recurring.usage_type, line.price.unit_amount) for line in lines.data] == [
        ("licensed", 2000),
        ("metered", 7),
    ]


async def test_a_change_at_the_period_end_replaces_the_metered_item_then(fake, provider):
    opened = await provider.open(order(overage(7)), "one")
    bought = (await asyncio.to_thread(fake.control.pay_checkout, opened.checkout))["subscription"]
    desired = DesiredSubscription(
        ChangeKind.PLAN,
        at_period_end=True,
        product="shop",
        plan=BUSINESS,
        price=BUSINESS.prices[0],
        pinned=STARTER,
        metered=(MeteredPrice(overage(500, 10), "api_calls"),),
    )
    now = datetime.fromtimestamp((await asyncio.to_thread(fake.control.clock))["now"], UTC)

    await provider.change(bought, desired, now, "change")
    waiting = await asyncio.to_thread(_metered_amounts, fake, bought)
    snapshot = await provider.fetch(bought)
    await asyncio.to_thread(fake.control.advance_clock, timedelta(days=32))

    assert (waiting, await asyncio.to_thread(_metered_amounts, fake, bought)) == ([7], [500])
    assert [item.price.lookup_key for item in snapshot.pending.items] == [
        "business_v1_month_eur",
        "business_v1_month_eur/calls",
    ]


async def test_another_interval_invoices_the_usage_so_far_once_and_as_quoted(fake, provider):
    opened = await provider.open(order(overage(7)), "one")
    bought = (await asyncio.to_thread(fake.control.pay_checkout, opened.checkout))["subscription"]
    yearly = Price(amount=Money(minor=20_000, currency="EUR"), interval=Interval.YEAR, provider_prices={})
    price = overage(6, interval=Interval.YEAR)
    target = metered_plan("starter", price).model_copy(update={"version": 2, "prices": (yearly,)})
    desired = DesiredSubscription(
        ChangeKind.PLAN,
        at_period_end=False,
        product="shop",
        plan=target,
        price=yearly,
        pinned=STARTER,
        metered=(MeteredPrice(price, "api_calls"),),
    )
    await asyncio.to_thread(fake.control.advance_clock, timedelta(days=3))
    now = datetime.fromtimestamp((await asyncio.to_thread(fake.control.clock))["now"], UTC)
    used = MeterReading(opened.customer, "api_calls", 30, now - timedelta(days=1))
    await provider.report(used, "use")

    before = await provider.quote(bought, replace(desired, unreported={"api_calls": 12}), now)
    await provider.report(replace(used, quantity=12), "rest")
    quote = await provider.quote(bought, desired, now)
    await provider.change(bought, desired, now, "change")
    await provider.change(bought, desired, now, "again")
    invoices = await asyncio.to_thread(_invoices, fake, bought)

    assert len(invoices) == 2
    assert invoices[0].total == quote.due_now.minor == before.due_now.minor
    assert [line.amount.minor for line in before.lines if "not reported yet" in line.text] == [84]
    assert _usage_lines(invoices[0]) == [("42 x Starter calls", 294)]
    assert quote.next_amount == yearly.amount
    assert await asyncio.to_thread(_metered_amounts, fake, bought) == [6]


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_usage_beyond_what_is_included_is_on_the_invoice_at_the_price_of_its_plan(testbed):
    subscription = await testbed.subscribed(TENANT, "starter")
    target = subscription["provider_subscription"]
    await testbed.log.facts("billing.billing_period_started", at_least=1)
    await _use(testbed, 12)
    change = await _request(testbed, subscription, {"kind": "plan", "plan": "business", "reason": "more"})
    quoted = await until(lambda: _at(testbed, change, "quoted"))
    path = f"/v1/changes/{change['id']}/confirm"
    await testbed.served.client.post(path, json={"quote_hash": quoted["quote"]["quote_hash"]})
    await until(lambda: _at(testbed, change, "applied"))
    upgraded = (await asyncio.to_thread(_invoices, testbed.fake, target))[0]
    await until(lambda: _has_plan(testbed, subscription, "business"))

    await _use(testbed, 15, at_least=2)
    await asyncio.to_thread(testbed.fake.control.finalize_after, timedelta(hours=1))
    end = datetime.fromisoformat((await testbed.subscription(TENANT, "active"))["period_end"])
    closing = WindowCloser(testbed.served.running.context)
    await _advance_to(testbed, end - timedelta(minutes=9))
    await closing.tick(end - timedelta(minutes=9))
    await testbed.log.facts("billing.usage_reported", at_least=2)
    await _advance_to(testbed, end + timedelta(hours=2))
    renewed = (await asyncio.to_thread(_invoices, testbed.fake, target))[0]
    compared = (await testbed.get(f"/v1/tenants/{TENANT}/usage/invoiced"))["periods"]
    await closing.disconnect()

    quote = quoted["quote"]
    assert quote["overage"] == [
        {"feature": "calls", "included": 20, "amount": {"minor": 500, "currency": "EUR"}, "units": 10}
    ]
    assert quote["proration"]["next_amount"] == {"minor": 9900, "currency": "EUR"}
    assert _usage_lines(upgraded) == [("2 x Starter calls", 14)]
    assert upgraded.amount_paid == quote["proration"]["due_now"]["minor"]
    assert _usage_lines(renewed) == [("5 x Business calls", 500)]
    assert renewed.total == 9900 + 500
    assert await asyncio.to_thread(_metered_amounts, testbed.fake, target) == [500]
    assert [(each["reported"], each["invoiced"]) for each in compared if each["invoiced"]] == [(2, 2), (5, 5)]
    assert not any(each["differs"] for each in compared)


def _metered_amounts(fake, subscription):
    items = fake.stripe.subscriptions.retrieve(subscription)["items"].data
    return [item.price.unit_amount for item in items if item.price.recurring.usage_type == "metered"]


def _invoices(fake, subscription):
    return fake.stripe.invoices.list({"subscription": subscription}).data


def _usage_lines(invoice):
    return [
        (line.description, line.amount) for line in invoice.lines.data if "calls" in line.description and line.amount
    ]


async def _use(testbed, quantity, at_least=1):
    used = Usage(tenant_id=TENANT, meter="calls", quantity=quantity, occurred_at=datetime.now(UTC))
    await testbed.metering.submit(used)
    await testbed.log.facts("billing.usage_recorded", at_least=at_least)


async def _request(testbed, subscription, body):
    path = f"/v1/subscriptions/{subscription['subscription_id']}/changes"
    answer = await testbed.served.client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def _at(testbed, change, status):
    found = await testbed.get(f"/v1/changes/{change['id']}")
    assert found["status"] != "refused", found
    return found if found["status"] == status else None


async def _has_plan(testbed, subscription, name):
    found = await testbed.get(f"/v1/subscriptions/{subscription['subscription_id']}")
    return found["plan"]["plan"] == name


async def _advance_to(testbed, moment):
    now = (await asyncio.to_thread(testbed.fake.control.clock))["now"]
    await asyncio.to_thread(testbed.fake.control.advance_clock, moment - datetime.fromtimestamp(now, UTC))
