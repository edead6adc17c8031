"""Thin events: sent, signed, parsed by the SDK, and fetched through it."""

import pytest
import stripe
from paybill_stripe_fake.client import FakeControlError


@pytest.fixture
def client(webhook_fake):
    http_client = stripe.RequestsClient()
    yield stripe.StripeClient(webhook_fake.key, base_addresses={"api": webhook_fake.url}, http_client=http_client)
    http_client.close()


def types(events):
    return [event["type"] for event in events]


def notifications(client, receiver):
    """Returns the received events as the SDK parses them."""
    return [
        client.parse_event_notification(body, headers["Stripe-Signature"], receiver.secrets[0])
        for body, headers in zip(receiver.bodies, receiver.headers, strict=True)
    ]


def test_a_thin_notification_leads_to_the_event_and_its_changes(webhook_fake, receiver, client):
    subscription = webhook_fake.subscribe()
    webhook_fake.control.set_payload("thin")
    webhook_fake.control.wait_delivered()
    receiver.clear()
    webhook_fake.stripe.subscriptions.update(subscription.id, {"metadata": {"a": "1"}}, {"idempotency_key": "k"})
    receiver.wait_for(len)

    [notified] = notifications(client, receiver)
    [sent] = receiver.received
    [snapshot] = [event for event in webhook_fake.events(subscription.id) if event.type.endswith(".updated")][-1:]
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


def test_every_thin_event_is_known_to_the_sdk(webhook_fake, receiver, client):
    webhook_fake.control.set_payload("thin")
    webhook_fake.control.set_payment(webhook_fake.subscribe().customer, "fail")
    webhook_fake.control.pay_checkout(webhook_fake.checkout(customer_email="ada@example.com").id)
    webhook_fake.control.wait_delivered()

    notified = notifications(client, receiver)
    assert {event.type for event in notified} >= {"v1.invoice.paid", "v1.customer.subscription.created"}
    assert [event for event in notified if isinstance(event, stripe.events.UnknownEventNotification)] == []
    assert {event.fetch_related_object().id for event in notified} == {event.related_object.id for event in notified}


def test_an_endpoint_can_have_both_forms_and_lose_either(webhook_fake, receiver):
    webhook_fake.control.set_payload("both")
    webhook_fake.control.faults(lose=["v1.product.created"])
    webhook_fake.customer(card=None)
    webhook_fake.stripe.products.create({"name": "P"})
    webhook_fake.control.wait_delivered()

    assert types(receiver.received) == ["customer.created", "v1.customer.created", "product.created"]
    snapshot, thin, _ = receiver.received
    assert thin["snapshot_event"] == snapshot["id"]
    undelivered = webhook_fake.stripe.events.list({"delivery_success": False}).data
    assert [(event.type, event.pending_webhooks) for event in undelivered] == [("product.created", 1)]
    [again, _] = sorted(webhook_fake.control.redeliver(undelivered[0].id), key=lambda delivery: delivery["payload"])[
        ::-1
    ]
    assert again["type"] == "v1.product.created"
    webhook_fake.control.wait_delivered()
    assert webhook_fake.stripe.events.list({"delivery_success": False}).data == []


def test_the_command_line_and_each_endpoint_set_the_payload_style(start, receiver, tmp_path):
    fake = start("--webhook-payload", "thin", receiver=receiver)
    other = fake.stripe.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["v1.customer.created"]})
    fake.control.set_payload("thin", other.id)
    receiver.secrets = []
    fake.customer(card=None)
    fake.stripe.products.create({"name": "P"})
    fake.control.wait_delivered()

    assert sorted(types(receiver.received)) == ["v1.customer.created", "v1.customer.created", "v1.product.created"]
    with pytest.raises(FakeControlError, match="No such webhook endpoint"):
        fake.control.set_payload("thin", "we_nothing")
    with pytest.raises(FakeControlError, match="payload"):
        fake.control.set_payload("fat")


def test_usage_of_an_unknown_customer_is_reported_by_an_event_without_snapshot(webhook_fake, receiver, client):
    aggregation = {"default_aggregation": {"formula": "sum"}}
    meter = webhook_fake.stripe.billing.meters.create({"display_name": "C", "event_name": "calls", **aggregation})
    webhook_fake.control.wait_delivered()
    receiver.clear()
    webhook_fake.control.set_payload("both")
    payload = {"stripe_customer_id": "cus_nobody", "value": "1"}
    webhook_fake.stripe.billing.meter_events.create({"event_name": "calls", "payload": payload, "identifier": "i1"})
    receiver.wait_for(len)

    [notified] = notifications(client, receiver)
    event = notified.fetch_event()
    assert (event.type, event.snapshot_event) == ("v1.billing.meter.error_report_triggered", None)
    [error] = event.data.reason.error_types
    assert (error.code, error.sample_errors[0].request.identifier) == ("meter_event_customer_not_found", "i1")
    assert notified.fetch_related_object().id == meter.id


def test_a_failure_to_generate_an_event_is_reported_by_an_alert(webhook_fake, receiver, client):
    customer = webhook_fake.customer(card=None)
    webhook_fake.control.wait_delivered()
    receiver.clear()
    webhook_fake.control.set_payload("both")
    webhook_fake.control.report_generation_failure("customer.updated", customer.id)
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
        webhook_fake.control.report_generation_failure("customer.updated", "cus_nobody")


def test_thin_events_are_listed_and_paged(webhook_fake, client):
    customer = webhook_fake.customer(card=None)
    for number in range(5):
        webhook_fake.stripe.products.create({"name": str(number)})
    events = client.v2.core.events
    walked = list(events.list({"limit": 2, "types": ["v1.product.created"]}).auto_paging_iter())

    assert [event.type for event in walked] == ["v1.product.created"] * 5
    assert len({event.id for event in walked}) == 5
    [created] = events.list({"object_id": customer.id}).data
    assert (created.type, created.related_object.id) == ("v1.customer.created", customer.id)
    assert events.retrieve(created.id).snapshot_event == created.snapshot_event
    assert events.list({"created": {"gt": created.created}, "object_id": customer.id}).data == []


@pytest.mark.parametrize("path", ["/v2/core/events/evt_test_nothing", "/v2/core/events/evt_1", "/v2/core/nothing"])
def test_an_event_without_a_thin_form_is_a_404(webhook_fake, path):
    assert webhook_fake.http.get(path).status_code == 404


@pytest.mark.parametrize("query", ["page=nothing", "created[gt]=yesterday", "limit=0", "colour=red"])
def test_an_invalid_list_request_is_refused(webhook_fake, query):
    assert webhook_fake.http.get(f"/v2/core/events?{query}").status_code == 400
