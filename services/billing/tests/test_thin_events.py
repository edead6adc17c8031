"""Thin events name only the changed object; they cause the same events once, with or without snapshot events."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from billing_testbed import SECRETS
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_runtime.testing import until

TENANT = "ten_" + "e" * 32


def thin(type_, kind, id_, **more):
    return {
        "id": "evt_test_1",
        "object": "v2.core.event",
        "type": type_,
        "created": "2026-03-01T12:00:00.000Z",
        "livemode": False,
        "related_object": {"id": id_, "type": kind, "url": f"/v1/{kind}s/{id_}"},
        **more,
    }


def received(event, signed):
    body = json.dumps(event).encode()
    return StripeInbound(SECRETS).receive(body, signed(body), datetime.now(UTC))


@pytest.mark.parametrize(
    ("type_", "kind", "id_", "target"),
    [
        ("v1.customer.subscription.updated", "subscription", "sub_1", "sub_1"),
        ("v1.customer.subscription.updated", "customer.subscription", "sub_1", "sub_1"),
        ("v1.invoice.payment_failed", "invoice", "in_1", "invoice/in_1"),
        (
            "v1.subscription_schedule.released",
            "subscription_schedule",
            "sub_sched_1",
            "subscription_schedule/sub_sched_1",
        ),
        ("v1.checkout.session.completed", "checkout.session", "cs_1", "checkout.session/cs_1"),
        ("v1.charge.refunded", "charge", "ch_1", "charge/ch_1"),
        ("v1.charge.succeeded", "charge", "ch_1", None),
        ("v1.refund.created", "refund", "re_1", "refund/re_1"),
        ("v1.charge.dispute.created", "dispute", "du_1", "dispute/du_1"),
        ("v1.product.created", "product", "prod_1", None),
    ],
)
def test_a_thin_event_targets_its_related_object(signed, type_, kind, id_, target):
    delivery = received(thin(type_, kind, id_), signed)

    assert (delivery.target, delivery.object_id) == (target, id_)
    assert delivery.created == datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_thin_copy_has_the_id_of_its_snapshot_event(signed):
    named = thin("v1.customer.subscription.updated", "subscription", "sub_1", snapshot_event="evt_1")

    assert received(named, signed).event_id == "evt_1"
    assert received({**named, "snapshot_event": None}, signed).event_id == "evt_test_1"


@pytest.mark.parametrize("related", [None, 7, {}, {"id": "sub_1"}, {"type": "subscription"}, {"id": 1, "type": []}])
def test_a_thin_event_without_a_related_object_has_no_target(signed, related):
    odd = {**thin("v1.customer.subscription.updated", "subscription", "sub_1"), "related_object": related}

    assert received(odd, signed).target is None


@pytest.mark.parametrize("created", ["yesterday", "2026-03-01T12:00:00", "9999-12-31T23:59:59-12:00", 10**30, None, []])
def test_an_invalid_time_is_replaced_by_the_time_of_receipt(signed, created):
    before = datetime.now(UTC)

    assert received(thin("v1.x", "x", "x_1", created=created), signed).created >= before


@pytest.mark.parametrize("payload", ["thin", "both"])
async def test_the_payment_journey_is_the_same_with_thin_events(testbed, payload):
    control = testbed.fake.control
    await asyncio.to_thread(control.set_payload, payload)
    await asyncio.to_thread(lambda: control.faults(duplicate=2, reorder=True))
    subscription = await testbed.subscribed(TENANT)
    customer = (await testbed.account(TENANT))["customer"]

    await asyncio.to_thread(control.set_payment, customer, "fail")
    await asyncio.to_thread(control.renew, subscription["provider_subscription"])
    await testbed.subscription(TENANT, "grace")
    await testbed.settled()
    (failed,) = await testbed.log.facts("billing.payment_failed")
    await asyncio.to_thread(control.pay_invoice, failed.event.invoice)
    await testbed.subscription(TENANT, "active")

    assert (failed.event.amount.minor, failed.event.attempt) == (2900, 1)
    expected = ("subscription_activated", "subscription_grace_started", "payment_failed", "subscription_recovered")
    await testbed.settled()
    assert await testbed.emitted(*expected) == dict.fromkeys(expected, 1)


async def test_an_alert_about_a_failed_event_fetches_its_object(testbed):
    subscription, control = await testbed.subscribed(TENANT), testbed.fake.control
    await testbed.settled()
    await asyncio.to_thread(control.set_payload, "both")
    await asyncio.to_thread(lambda: control.faults(lose=["customer.subscription.deleted"]))
    await asyncio.to_thread(testbed.fake.stripe.subscriptions.cancel, subscription["provider_subscription"])

    await asyncio.to_thread(
        control.report_generation_failure, "customer.subscription.deleted", subscription["provider_subscription"]
    )

    await testbed.subscription(TENANT, "ended")


def test_a_complete_alert_targets_its_object_at_once(signed):
    alert = thin("v2.core.health.event_generation_failure.resolved", "x", "y")
    lost = {"event_type": "x", "related_object": {"id": "sub_1", "type": "subscription", "url": "/"}}

    assert received({**alert, "data": {"impact": lost}}, signed).target == "sub_1"
    assert received({**alert, "related_object": None}, signed).target == "event/evt_test_1"


async def test_an_alert_without_an_object_is_fetched_and_leaves_the_queue(testbed, outside, signed):
    body = json.dumps({**thin("v2.core.health.event_generation_failure.resolved", "x", "y"), "related_object": None})

    await outside.post("/webhooks/stripe", content=body, headers=signed(body.encode()))

    async def done():
        return await testbed.sql("SELECT target FROM webhooks WHERE done_at IS NOT NULL")

    assert await until(done) == [("event/evt_test_1",)]
