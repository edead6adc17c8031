"""Tests of reporting usage to Stripe: a closed window becomes one meter event, and Stripe's sum equals its value."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from billing_testbed import eventually
from paybill_billing.usage.jobs import WindowCloser
from paybill_contracts.usage import Usage
from paybill_runtime.jobs.kinds import RetryAfter

TENANT = "ten_" + "d" * 32
PLANS = """
product: shop
meters:
  - {meter: calls, window: hour, lateness: 30d, provider_meters: {stripe: api_calls}}
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: calls, kind: metered, meter: calls, included: 100}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""


@pytest.mark.parametrize("catalogue", [PLANS], indirect=True)
async def test_stripe_counts_a_window_once_after_a_refused_report_is_retried(testbed):
    await testbed.subscribed(TENANT)
    await eventually(lambda: _entitled(testbed))
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    for quantity in (5, 7):
        await testbed.metering.submit(Usage(tenant_id=TENANT, meter="calls", quantity=quantity, occurred_at=hour))
    await testbed.log.facts("billing.usage_recorded", at_least=2)
    closing = WindowCloser(testbed.served.running.context)

    async def closed():
        with suppress(RetryAfter):  # usage waits in INTAKE
            return await closing.tick(datetime.now(UTC) + timedelta(days=40))

    await eventually(closed)
    failed = await eventually(lambda: _window(testbed, "failed"))
    meter = await asyncio.to_thread(
        testbed.fake.stripe.billing.meters.create,
        {
            "display_name": "Calls",
            "event_name": "api_calls",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        },
    )
    await testbed.served.client.post(f"/v1/usage/windows/{failed['id']}/report")
    window = await eventually(lambda: _window(testbed, "reported"))
    await testbed.served.client.post(f"/v1/usage/windows/{failed['id']}/count")
    await eventually(lambda: _counted(testbed))

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
            "end_time": int((hour + timedelta(hours=1)).timestamp()),
        },
    )
    assert [summary.aggregated_value for summary in summaries.data] == [12]
    await closing.disconnect()


async def _entitled(testbed):
    return (await testbed.account(TENANT))["entitlements"]


async def _window(testbed, status):
    found = (await testbed.get("/v1/usage/windows", status=status))["windows"]
    return found[0] if found else None


async def _counted(testbed):
    found = await _window(testbed, "reported")
    return found if found["answered"] == found["asked"] == 1 else None
