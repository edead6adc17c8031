"""Payloads that others recorded from Stripe are accepted, stored and mapped, in the API versions of every year."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import recorded
from billing_testbed import SECRETS
from paybill_billing.providers.port import MalformedObjectError
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_billing.providers.stripe.mappers import attempt, customer_of, subscription_of, subscription_snapshot
from paybill_billing.providers.stripe.payment_mappers import dispute, refund
from paybill_runtime.testing import until

pytestmark = recorded.needed


def test_every_recorded_event_is_accepted_unchanged(signed):
    inbound, now = StripeInbound(SECRETS), datetime.now(UTC)
    for name, body in recorded.events().items():
        delivery = inbound.receive(body, signed(body), now)
        assert (delivery.event_id, delivery.type) == (json.loads(body)["id"], json.loads(body)["type"]), name
        if inbound.is_payment_failure(delivery.type):
            assert inbound.failed_attempt(delivery.event_id, body) is not None, name

    assert len(recorded.events()) >= 95


def test_every_recorded_subscription_invoice_and_customer_is_mapped():
    for name, item in recorded.of_kind("subscription").items():
        found = subscription_snapshot(item)
        assert found.id == subscription_of(item), name
        assert found.period_end is not None, name
        assert found.items[0].price.id, name
    for name, item in recorded.of_kind("invoice").items():
        # An upcoming invoice has no id, and a deleted one has no amount.
        if "id" in item and not item.get("deleted"):
            assert attempt("evt_1", item).invoice == item["id"], name
    for name, item in recorded.of_kind("customer").items():
        assert customer_of(item) == item["id"], name
    for name, item in recorded.of_kind("refund").items():
        assert refund(item).id == item["id"], name
    for name, item in recorded.of_kind("dispute").items():
        if "id" in item:
            assert dispute(item).amount.minor == item["amount"], name


@pytest.mark.parametrize("shape", [recorded.current, recorded.of_2020, recorded.of_2017])
def test_a_recorded_subscription_maps_alike_in_the_format_of_every_year(shape):
    for name, item in recorded.of_kind("subscription").items():
        assert subscription_snapshot(shape(item)).items[0] == subscription_snapshot(item).items[0], name
        same, was = subscription_snapshot(shape(item)), subscription_snapshot(item)
        assert (same.status, same.period_start, same.period_end, same.cancel_at, same.trial_end, same.paid_until) == (
            was.status,
            was.period_start,
            was.period_end,
            was.cancel_at,
            was.trial_end,
            was.paid_until,
        ), name


def test_no_recorded_object_crashes_a_mapper():
    for item in recorded.objects().values():
        for read in (subscription_snapshot, lambda it: attempt("evt_1", it), refund, dispute):
            with suppress(MalformedObjectError):
                read(item)
        subscription_of(item)
        customer_of(item)


async def test_every_recorded_payload_is_stored_and_none_stops_the_worker(testbed, outside, signed):
    bodies = [json.loads(body) for body in recorded.events().values()]
    bodies += [
        {"object": "event", "type": f"{item.get('object', 'none')}.updated", "created": 1, "data": {"object": item}}
        for item in recorded.objects().values()
    ]
    for number, event in enumerate(bodies):
        body = json.dumps({**event, "id": f"evt_{number}", "livemode": False}).encode()
        answer = await outside.post("/webhooks/stripe", content=body, headers=signed(body))
        assert answer.status_code == 200, answer.text

    async def fetched():
        rows = await testbed.sql("SELECT DISTINCT error FROM chassis.job WHERE kind LIKE 'sync/%'")
        return rows if (None,) not in rows else None

    # Their customers are unknown; objects without a customer are fetched and not found.
    assert await until(fetched, 30) == [("no account has this customer",)]
    assert await testbed.sql("SELECT count(*) FROM webhooks") == [(len(bodies),)]
    assert len(bodies) > 300
