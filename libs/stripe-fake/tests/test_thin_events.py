"""Thin events: sent, signed, parsed by the SDK, and fetched through it."""

import pytest
import stripe
from paybill_stripe_fake.client import FakeControlError


@pytest.fixture
def client(hooked):
    http_client = stripe.RequestsClient()
    yield stripe.StripeClient(hooked.key, base_addresses={"api": hooked.url}, http_client=http_client)
    http_client.close()


def types(events):
    return [event["type"] for event in events]


def notifications(client, receiver):
    """What was received, as the SDK reads it."""
    return [
        client.parse_event_notification(body, headers["Stripe-Signature"], receiver.secrets[0])
        for body, headers in zip(receiver.bodies, receiver.headers, strict=True)
    ]


def test_a_thin_notification_leads_to_the_event_and_to_what_changed(hooked, receiver, client):
    subscription = hooked.subscribe()
    hooked.control.set_payload("thin")
    hooked.control.wait_delivered()
    receiver.clear()
    hooked.stripe.subscriptions.update(subscription.id, {"metadata": {"a": "1"}}, {"idempotency_key": "k"})
    receiver.wait_for(len)

    [notified] = notifications(client, receiver)
    [sent] = receiver.taken
    [snapshot] = [event for event in hooked.events(subscription.id) if event.type.endswith(".updated")][-1:]
    assert isinstance(notified, stripe.events.V1CustomerSubscriptionUpdatedEventNotification)
    assert (notified.related_object.id, notified.related_object.type) == (subscription.id, "subscription")
    assert (notified.reason.request.idempotency_key, notified.livemode) == ("k", False)
    assert (sent["snapshot_event"], "data" in sent) == (snapshot.id, False)
    assert notified.fetch_related_object().metadata.to_dict() == {"a": "1"}
    event = notified.fetch_event()
    assert (event.id, event.snapshot_event, event.type) == (
        notified.id,
        snapshot.id,
        "v1.customer.subscription.updated",
    )
    assert event.changes.to_dict() == {"before": {"metadata": {"a": None}}, "after": {"metadata": {"a": "1"}}}
    assert event.fetch_related_object().id == subscription.id


def test_every_thin_event_is_one_that_the_sdk_knows(hooked, receiver, client):
    hooked.control.set_payload("thin")
    hooked.control.set_payment(hooked.subscribe().customer, "fail")
    hooked.control.pay_checkout(hooked.checkout(customer_email="ada@example.com").id)
    hooked.control.wait_delivered()

    notified = notifications(client, receiver)
    assert {event.type for event in notified} >= {"v1.invoice.paid", "v1.customer.subscription.created"}
    assert [event for event in notified if isinstance(event, stripe.events.UnknownEventNotification)] == []
    assert {event.fetch_related_object().id for event in notified} == {event.related_object.id for event in notified}


def test_an_endpoint_can_have_both_forms_and_lose_either(hooked, receiver):
    hooked.control.set_payload("both")
    hooked.control.faults(lose=["v1.product.created"])
    hooked.customer(card=None)
    hooked.stripe.products.create({"name": "P"})
    hooked.control.wait_delivered()

    assert types(receiver.taken) == ["customer.created", "v1.customer.created", "product.created"]
    snapshot, thin, _ = receiver.taken
    assert thin["snapshot_event"] == snapshot["id"]
    undelivered = hooked.stripe.events.list({"delivery_success": False}).data
    assert [(event.type, event.pending_webhooks) for event in undelivered] == [("product.created", 1)]
    [again, _] = sorted(hooked.control.redeliver(undelivered[0].id), key=lambda delivery: delivery["payload"])[::-1]
    assert again["type"] == "v1.product.created"
    hooked.control.wait_delivered()
    assert hooked.stripe.events.list({"delivery_success": False}).data == []


def test_the_command_line_and_each_endpoint_decide_the_form(start, receiver, tmp_path):
    fake = start("--webhook-payload", "thin", receiver=receiver)
    other = fake.stripe.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["v1.customer.created"]})
    fake.control.set_payload("thin", other.id)
    receiver.secrets = []
    fake.customer(card=None)
    fake.stripe.products.create({"name": "P"})
    fake.control.wait_delivered()

    assert sorted(types(receiver.taken)) == ["v1.customer.created", "v1.customer.created", "v1.product.created"]
    with pytest.raises(FakeControlError, match="No such webhook endpoint"):
        fake.control.set_payload("thin", "we_nothing")
    with pytest.raises(FakeControlError, match="payload"):
        fake.control.set_payload("fat")


def test_usage_of_nobody_is_told_by_an_event_that_has_no_snapshot(hooked, receiver, client):
    aggregation = {"default_aggregation": {"formula": "sum"}}
    meter = hooked.stripe.billing.meters.create({"display_name": "C", "event_name": "calls", **aggregation})
    hooked.control.wait_delivered()
    receiver.clear()
    hooked.control.set_payload("both")
    payload = {"stripe_customer_id": "cus_nobody", "value": "1"}
    hooked.stripe.billing.meter_events.create({"event_name": "calls", "payload": payload, "identifier": "i1"})
    receiver.wait_for(len)

    [notified] = notifications(client, receiver)
    event = notified.fetch_event()
    assert (event.type, event.snapshot_event) == ("v1.billing.meter.error_report_triggered", None)
    [error] = event.data.reason.error_types
    assert (error.code, error.sample_errors[0].request.identifier) == ("meter_event_customer_not_found", "i1")
    assert notified.fetch_related_object().id == meter.id


def test_an_event_that_could_not_be_generated_is_told_by_an_alert(hooked, receiver, client):
    customer = hooked.customer(card=None)
    hooked.control.wait_delivered()
    receiver.clear()
    hooked.control.set_payload("both")
    hooked.control.alert_lost("customer.updated", customer.id)
    receiver.wait_for(len)

    [notified] = notifications(client, receiver)
    event = client.v2.core.events.retrieve(notified.id)
    assert event.type == "v2.core.health.event_generation_failure.resolved"
    assert event.data.impact.related_object.to_dict() == {
        "id": customer.id,
        "type": "customer",
        "url": f"/v1/customers/{customer.id}",
    }
    with pytest.raises(FakeControlError, match="No such object"):
        hooked.control.alert_lost("customer.updated", "cus_nobody")


def test_thin_events_are_listed_and_walked(hooked, client):
    customer = hooked.customer(card=None)
    for number in range(5):
        hooked.stripe.products.create({"name": str(number)})
    events = client.v2.core.events
    walked = list(events.list({"limit": 2, "types": ["v1.product.created"]}).auto_paging_iter())

    assert [event.type for event in walked] == ["v1.product.created"] * 5
    assert len({event.id for event in walked}) == 5
    [created] = events.list({"object_id": customer.id}).data
    assert (created.type, created.related_object.id) == ("v1.customer.created", customer.id)
    assert events.retrieve(created.id).snapshot_event == created.snapshot_event
    assert events.list({"created": {"gt": created.created}, "object_id": customer.id}).data == []


@pytest.mark.parametrize("path", ["/v2/core/events/evt_test_nothing", "/v2/core/events/evt_1", "/v2/core/nothing"])
def test_what_is_no_thin_event_is_a_404(hooked, path):
    assert hooked.http.get(path).status_code == 404


@pytest.mark.parametrize("query", ["page=nothing", "created[gt]=yesterday", "limit=0", "colour=red"])
def test_a_list_that_makes_no_sense_is_refused(hooked, query):
    assert hooked.http.get(f"/v2/core/events?{query}").status_code == 400
