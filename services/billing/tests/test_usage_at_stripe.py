"""Tests of reporting usage to Stripe: each part of a window becomes one meter event, and invoices have all usage."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from paybill_billing.providers.stripe import meters, pages
from paybill_billing.usage.jobs import WindowCloser
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_contracts.usage import Usage
from paybill_runtime.jobs.kinds import RetryAfter
from paybill_runtime.testing import until

TENANT = "ten_" + "d" * 32
PLANS = """
product: shop
meters:
  - {meter: calls, window: hour, lateness: 35d, provider_meters: {stripe: api_calls}}
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: calls, kind: metered, meter: calls, included: 0}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""


@pytest.mark.parametrize("strangers", [0, 1, 25, 26])
@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_stripe_counts_a_window_once_after_a_refused_report_is_retried(testbed, monkeypatch, strangers):
    """strangers: meters that nobody reports to, which Stripe lists by 25."""
    monkeypatch.setattr(meters, "PAGE", 25)
    for number in range(strangers):
        await asyncio.to_thread(_meter, testbed, f"other_{number}")
    await testbed.subscribed(TENANT)
    await until(lambda: _entitled(testbed))
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    for quantity in (5, 7):
        await testbed.metering.submit(Usage(tenant_id=TENANT, meter="calls", quantity=quantity, occurred_at=hour))
    await testbed.log.facts("billing.usage_recorded", at_least=2)
    closing = WindowCloser(testbed.served.running.context)

    async def closed():
        with suppress(RetryAfter):  # usage waits in INTAKE
            return await closing.tick(datetime.now(UTC) + timedelta(days=40))

    await until(closed)
    failed = await until(lambda: _window(testbed, "failed"))
    meter = await asyncio.to_thread(_meter, testbed)
    await testbed.served.client.post(f"/v1/usage/windows/{failed['id']}/report")
    window = await until(lambda: _window(testbed, "reported"))
    await testbed.served.client.post(f"/v1/usage/windows/{failed['id']}/count")
    await until(lambda: _counted(testbed))

    assert "api_calls" in failed["failure"]
    assert (window["value"], window["reported"]) == (12, 12)
    assert (await _counted(testbed))["counted"] == 12
    customer = (await testbed.account(TENANT))["customer"]
    summaries = await asyncio.to_thread(
        testbed.fake.stripe.billing.meters.event_summaries.list,
        meter.id,
        {
            "customer": customer,
            "start_time": int(hour.timestamp()),
            # The usage is older than the subscription, so it is dated to the start of the first period.
            "end_time": int((hour + timedelta(hours=3)).timestamp()),
        },
    )
    assert [summary.aggregated_value for summary in summaries.data] == [12]
    await closing.disconnect()


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_a_cancellation_now_invoices_all_usage_so_far(testbed):
    subscription = await _metered(testbed)
    await _use(testbed, 7, 5, 30)

    change = await _request(testbed, subscription, {"kind": "cancel", "reason": "asked for", "confirm": True})
    await testbed.subscription(TENANT, "ended")

    quote = (await testbed.get(f"/v1/changes/{change['id']}"))["quote"]["proration"]
    (last, *_) = await asyncio.to_thread(_invoices, testbed, subscription)
    lines = [line for line in last.lines.data if line.pricing.unit_amount_decimal == 10]
    assert [(line.description, line.quantity, line.amount) for line in lines] == [("42 x Calls", 42, 420)]
    assert quote["due_now"]["minor"] == last.amount_due == 420
    assert await _window(testbed, "unbilled") is None


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_a_quote_reports_no_usage_so_that_a_later_grant_still_counts_for_it(testbed):
    subscription = await _metered(testbed)
    await _use(testbed, 1047)
    cancellation = {"kind": "cancel", "reason": "asked for"}

    first = await _quoted(testbed, await _request(testbed, subscription, cancellation))
    calls = await asyncio.to_thread(testbed.fake.control.calls)
    unreported = [await _window(testbed, status) for status in ("due", "reported")]
    await testbed.served.client.post(f"/v1/changes/{first['id']}/discard", json={"reason": "dry run"})
    grant = {"feature": "calls", "amount": 1000, "reason": "promised"}
    granted = await testbed.served.client.post(f"/v1/tenants/{TENANT}/entitlements/grants", json=grant)
    second = await _quoted(testbed, await _request(testbed, subscription, cancellation))
    confirmation = {"quote_hash": second["quote"]["quote_hash"]}
    await testbed.served.client.post(f"/v1/changes/{second['id']}/confirm", json=confirmation)
    await testbed.subscription(TENANT, "ended")

    due = [change["quote"]["proration"]["due_now"]["minor"] for change in (first, second)]
    (last, *_) = await asyncio.to_thread(_invoices, testbed, subscription)
    assert granted.status_code == 201, granted.text
    assert (due, last.amount_due) == ([10_470, 470], 470)
    assert unreported == [None, None]
    assert not any("meter_events" in call["path"] for call in calls["endpoints"])
    assert await _reported_units(testbed, 47)


@pytest.mark.parametrize("strangers", [0, 1, 25, 26])
@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_usage_is_on_the_invoice_of_its_period_which_stripe_finalises_an_hour_later(
    testbed, monkeypatch, strangers
):
    """strangers: invoices of the customer without usage, which Stripe lists by 25."""
    monkeypatch.setattr(pages, "PAGE", 25)
    await asyncio.to_thread(testbed.fake.control.finalize_after, timedelta(hours=1))
    subscription = await _metered(testbed)
    await asyncio.to_thread(_invoice, testbed, (await testbed.account(TENANT))["customer"], strangers)
    end = datetime.fromisoformat(subscription["period_end"])
    closing = WindowCloser(testbed.served.running.context)
    for quantity, moment in ((7, end - timedelta(minutes=9)), (35, end + timedelta(minutes=21))):
        used = Usage(tenant_id=TENANT, meter="calls", quantity=quantity, occurred_at=datetime.now(UTC))
        id_ = await testbed.metering.submit(used)
        await until(lambda id_=id_: _recorded(testbed, id_))
        await _advance_to(testbed, moment)
        await closing.tick(moment)
        await until(lambda quantity=quantity: _reported_units(testbed, quantity))
    await _advance_to(testbed, end + timedelta(hours=2))

    (period,) = (await testbed.get(f"/v1/tenants/{TENANT}/usage/invoiced"))["periods"]
    (last, *_) = await asyncio.to_thread(_invoices, testbed, subscription)
    assert (period["reported"], period["invoiced"], period["final"], period["differs"]) == (42, 42, True, False)
    assert (period["invoice"], [line.quantity for line in last.lines.data if line.amount == 420]) == (last.id, [42])
    await closing.disconnect()


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_the_last_invoice_of_a_leaving_tenant_has_its_usage(testbed):
    subscription = await _metered(testbed)
    await _use(testbed, 42)

    leaving = OffboardingStarted(
        tenant_id=TENANT, reason="left", origin=HoldOrigin.OPERATOR, retain_until=datetime.now(UTC)
    )
    await testbed.tenants.publish(leaving)
    await testbed.subscription(TENANT, "ended")

    (last, *_) = await asyncio.to_thread(_invoices, testbed, subscription)
    assert [(line.quantity, line.amount) for line in last.lines.data if line.amount] == [(42, 420)]
    assert await _window(testbed, "unbilled") is None


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_usage_that_was_not_reported_before_a_cancellation_at_stripe_is_unbilled(testbed):
    subscription = await _metered(testbed)
    await _use(testbed, 42)

    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])

    (fact,) = await testbed.log.facts("billing.usage_unbilled")
    assert fact.event.quantity == 42
    window = await until(lambda: _window(testbed, "unbilled"))
    assert (window["unbilled"], window["reported"], window["closed"]) == (42, None, False)
    (incident,) = await testbed.log.facts("billing.incident_opened")
    assert (incident.event.kind, incident.event.tenant_id) == ("unbilled_usage", TENANT)


def _meter(testbed, name="api_calls"):
    return testbed.fake.stripe.billing.meters.create(
        {
            "display_name": "Calls",
            "event_name": name,
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )


def _invoice(testbed, customer, count):
    """Creates invoices without usage."""
    for _ in range(count):
        testbed.fake.stripe.invoices.create({"customer": customer})


async def _metered(testbed):
    """Subscribes the tenant, with a metered item of 10 cents for each call."""
    subscription = await testbed.subscribed(TENANT)
    await asyncio.to_thread(_add_metered_item, testbed, subscription)
    await until(lambda: _entitled(testbed))
    await testbed.log.facts("billing.billing_period_started", at_least=1)
    await until(lambda: _has_run_a_second(subscription))
    return subscription


async def _has_run_a_second(subscription):
    """Stripe counts whole seconds: a period that ends in the second of its start contains no usage."""
    return datetime.now(UTC) >= datetime.fromisoformat(subscription["period_start"]) + timedelta(seconds=1)


def _add_metered_item(testbed, subscription):
    recurring = {"interval": "month", "usage_type": "metered", "meter": _meter(testbed).id}
    data = {"currency": "eur", "unit_amount": 10, "product_data": {"name": "Calls"}, "recurring": recurring}
    price = testbed.fake.stripe.prices.create(data)
    testbed.fake.stripe.subscription_items.create(
        {"subscription": subscription["provider_subscription"], "price": price.id, "proration_behavior": "none"}
    )


def _invoices(testbed, subscription):
    return testbed.fake.stripe.invoices.list({"subscription": subscription["provider_subscription"]}).data


async def _use(testbed, *quantities):
    """Submits usage of now, and waits until it is recorded."""
    for quantity in quantities:
        used = Usage(tenant_id=TENANT, meter="calls", quantity=quantity, occurred_at=datetime.now(UTC))
        await testbed.metering.submit(used)
    await testbed.log.facts("billing.usage_recorded", at_least=len(quantities))


async def _recorded(testbed, id_):
    facts = await testbed.log.facts("billing.usage_recorded", at_least=1)
    return any(fact.event.usage_id == id_ for fact in facts)


async def _reported_units(testbed, quantity):
    facts = await testbed.log.facts("billing.usage_reported", at_least=1)
    return quantity in [fact.event.quantity for fact in facts]


async def _advance_to(testbed, moment):
    now = (await asyncio.to_thread(testbed.fake.control.clock))["now"]
    await asyncio.to_thread(testbed.fake.control.advance_clock, moment - datetime.fromtimestamp(now, UTC))


async def _request(testbed, subscription, body):
    path = f"/v1/subscriptions/{subscription['subscription_id']}/changes"
    answer = await testbed.served.client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def _quoted(testbed, change):
    async def found():
        found = await testbed.get(f"/v1/changes/{change['id']}")
        return found if found["status"] == "quoted" else None

    return await until(found)


async def _entitled(testbed):
    return (await testbed.account(TENANT))["entitlements"]


async def _window(testbed, status):
    found = (await testbed.get("/v1/usage/windows", status=status))["windows"]
    return found[0] if found else None


async def _counted(testbed):
    found = await _window(testbed, "reported")
    return found if found["answered"] == found["asked"] == 1 else None
