"""Tests of usage that internal services report: counted once, or quarantined without blocking later usage."""

import json
from datetime import UTC, datetime, timedelta

from paybill_billing.app import service
from paybill_contracts.event import encode
from paybill_contracts.usage import Usage
from paybill_runtime.clock import new_id
from paybill_runtime.testing import until

TENANT = "ten_" + "d" * 32


def used(quantity=5, **changes):
    values = {"tenant_id": TENANT, "meter": "calls", "quantity": quantity, "occurred_at": datetime.now(UTC)}
    return Usage(**{**values, **changes})


async def test_usage_is_counted_once_and_shown_with_the_included_amount(testbed):
    await testbed.subscribed(TENANT)
    await _entitled(testbed)
    repeated = new_id()
    for id_ in (repeated, repeated, new_id()):
        await testbed.metering.submit(used(), id_=id_)

    async def counted():
        usage = (await testbed.account(TENANT))["usage"]
        return usage if usage and usage[0]["total"] == 10 else None

    assert await until(counted) == [{"meter": "calls", "total": 10, "records": 2, "included": 10000}]
    facts = await testbed.log.facts("billing.usage_recorded", at_least=2)
    assert [(fact.event.quantity, fact.event.total) for fact in facts] == [(5, 5), (5, 10)]


async def test_refused_usage_is_quarantined_with_the_reason_and_later_usage_counts(testbed):
    await testbed.subscribed(TENANT)
    await _entitled(testbed)
    now = datetime.now(UTC)
    refused = {
        "there is no tenant": used(tenant_id="ten_" + "e" * 32),
        "does not count disk": used(meter="disk"),
        "35 days ago": used(occurred_at=now - timedelta(days=36)),
        "5 minutes ahead": used(occurred_at=now + timedelta(hours=1)),
    }
    for measurement in refused.values():
        await testbed.metering.submit(measurement)
    await testbed.metering.submit(used(7))

    facts = await testbed.log.facts("billing.intake_quarantined", at_least=len(refused))
    assert [any(why in fact.event.reason for fact in facts) for why in refused] == [True] * len(refused)

    async def counted():
        return [meter["total"] for meter in (await testbed.account(TENANT))["usage"]] == [7]

    await until(counted)
    listed = await testbed.get("/v1/operations/quarantine")
    assert len(listed) == len(refused)


async def test_usage_of_a_publisher_without_a_grant_is_quarantined(testbed_of, settings):
    settings["publishers_file"].write_text(json.dumps({"metering": {"tenants": ["ten_" + "9" * 32]}}))
    testbed = await testbed_of(service())
    await testbed.subscribed(TENANT)

    await testbed.metering.submit(used())

    (fact,) = await testbed.log.facts("billing.intake_quarantined")
    assert "may not publish" in fact.event.reason


async def test_a_message_with_a_repeated_key_is_quarantined(testbed):
    """Its publisher and another consumer may read another value than the one that would be counted."""
    await testbed.subscribed(TENANT)
    await _entitled(testbed)
    payload = encode(used(5)).replace(b'"quantity":5', b'"quantity":9,"quantity":5')
    assert payload != encode(used(5))
    await testbed.metering.submit(used(5), payload=payload)

    (fact,) = await testbed.log.facts("billing.intake_quarantined")
    assert "'quantity' is repeated" in fact.event.reason


async def _entitled(testbed):
    async def entitlements():
        return (await testbed.account(TENANT))["entitlements"]

    await until(entitlements)
