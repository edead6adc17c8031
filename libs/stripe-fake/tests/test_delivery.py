"""Webhooks: signed, in order, retried until accepted, and with faults on request."""

import signal
import time
from collections import Counter
from itertools import pairwise

import pytest
import stripe
from paybill_stripe_fake import sender
from paybill_stripe_fake.client import FakeControlError


def types(events):
    return [event["type"] for event in events]


def has(kind):
    return lambda received: kind in types(received)


def test_the_signature_equals_the_sdks():
    header = sender.signature_header('{"a":"é"}', ("whsec_x",), 1_700_000_000)

    assert header == stripe.WebhookSignature.generate_signature_header('{"a":"é"}', "whsec_x", 1_700_000_000)


def test_every_event_arrives_once_in_order_and_signed_by_every_secret(webhook_fake, receiver):
    webhook_fake.control.pay_checkout(webhook_fake.checkout(customer_email="ada@example.com").id)
    received = receiver.wait_for(has("checkout.session.completed"))

    assert [event["id"] for event in received] == [event.id for event in webhook_fake.events()]
    assert {event["pending_webhooks"] for event in received} == {1}
    headers = receiver.headers[0]
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["User-Agent"].startswith("Stripe/1.0")
    assert headers["Stripe-Signature"].count("v1=") == 2
    webhook_fake.control.wait_delivered()
    assert {event.pending_webhooks for event in webhook_fake.events()} == {0}


def test_the_sdk_parses_the_body_as_an_event(webhook_fake, receiver):
    customer = webhook_fake.customer(card=None)
    receiver.wait_for(len)

    body, signature = receiver.bodies[0], receiver.headers[0]["Stripe-Signature"]
    built = stripe.Webhook.construct_event(body, signature, receiver.secrets[0])
    assert (built.type, built.data.object["id"]) == ("customer.created", customer.id)


def test_signatures_carry_real_time_whatever_the_accounts_clock(webhook_fake, receiver):
    webhook_fake.http.post("/fake/clock/advance", json={"days": 60})
    customer = webhook_fake.customer(card=None)
    [event] = receiver.wait_for(len)

    signed_at = int(receiver.headers[0]["Stripe-Signature"].split(",")[0].removeprefix("t="))
    assert event["created"] == customer.created > time.time() + 59 * 86_400
    assert abs(signed_at - time.time()) < 60


@pytest.mark.parametrize("refusals", [[500, 503, 400], [302], [404, 410]])
def test_a_response_other_than_2xx_is_retried_until_accepted(webhook_fake, receiver, refusals):
    receiver.statuses = list(refusals)
    webhook_fake.customer(card=None)
    [event] = receiver.wait_for(len)

    webhook_fake.control.wait_delivered()
    assert receiver.refused == [event["id"]] * len(refusals)
    [delivery] = webhook_fake.control.deliveries(event=event["id"])
    assert (delivery["state"], delivery["attempts"]) == ("delivered", len(refusals) + 1)
    assert [attempt["status"] for attempt in delivery["last_attempts"]] == [*refusals, 200]
    times = [attempt["at"] for attempt in delivery["last_attempts"]]
    delays = [later - earlier for earlier, later in pairwise(times)]
    assert all(delay >= 0.02 * 2**index for index, delay in enumerate(delays))


def test_a_refused_event_does_not_delay_the_next(webhook_fake, receiver):
    webhook_fake.control.pause_delivery()
    webhook_fake.customer(card=None)
    webhook_fake.stripe.products.create({"name": "P"})
    receiver.statuses = [500]
    webhook_fake.control.resume_delivery()
    webhook_fake.control.wait_delivered()

    assert types(receiver.received) == ["product.created", "customer.created"]


def test_an_endpoint_that_times_out_is_retried(start, receiver):
    fake = start("--webhook-timeout-s", "0.1", receiver=receiver)
    with receiver.holding_responses():
        fake.customer(card=None)
        [delivery] = wait_for_attempts(fake, 1)

    assert delivery["last_attempts"][0]["status"] is None
    assert "Timeout" in delivery["last_attempts"][0]["error"]
    fake.control.wait_delivered()


def wait_for_attempts(webhook_fake, count):
    while sum(delivery["attempts"] for delivery in webhook_fake.control.deliveries()) < count:
        pass
    return webhook_fake.control.deliveries()


def test_events_are_listed_by_delivery_success(webhook_fake, receiver):
    webhook_fake.customer(card=None)
    receiver.wait_for(len)
    webhook_fake.control.wait_delivered()
    webhook_fake.control.pause_delivery()
    webhook_fake.stripe.products.create({"name": "P"})

    def listed(**filters):
        return types(webhook_fake.stripe.events.list(filters).data)

    assert listed(delivery_success=True) == ["customer.created"]
    assert listed(delivery_success=False) == ["product.created"]
    assert listed(types=["customer.created", "x"]) == listed(type="customer.*") == ["customer.created"]
    assert listed() == ["product.created", "customer.created"]


def test_the_duplicate_fault_sends_the_set_number_of_copies(webhook_fake, receiver):
    webhook_fake.control.faults(duplicate=3)
    webhook_fake.control.pay_checkout(webhook_fake.checkout(customer_email="ada@example.com").id)
    webhook_fake.control.wait_delivered()

    copies = Counter(event["id"] for event in receiver.received)
    assert copies == {event.id: 3 for event in webhook_fake.events()}


def test_the_reorder_fault_sends_the_newest_first(webhook_fake, receiver):
    session = webhook_fake.checkout(customer_email="ada@example.com")
    webhook_fake.control.wait_delivered()
    before = len(receiver.received)
    webhook_fake.control.faults(reorder=True)
    webhook_fake.control.pay_checkout(session.id)
    webhook_fake.control.wait_delivered()

    happened = [event.id for event in webhook_fake.events()][before:]
    assert [event["id"] for event in receiver.received[before:]] == happened[::-1]


def test_lost_events_never_arrive_and_count_as_undelivered(webhook_fake, receiver):
    webhook_fake.control.faults(lose=2)
    for name in ("a", "b", "c"):
        webhook_fake.stripe.products.create({"name": name})
    webhook_fake.control.wait_delivered()

    assert [event["data"]["object"]["name"] for event in receiver.received] == ["c"]
    lost = webhook_fake.stripe.events.list({"delivery_success": False}).data
    assert [event.data.object["name"] for event in lost] == ["b", "a"]
    assert [delivery["state"] for delivery in webhook_fake.control.deliveries()] == ["lost", "lost", "delivered"]


def test_types_are_lost_until_the_fault_is_removed(webhook_fake, receiver):
    assert webhook_fake.control.faults(lose=["product.created"])["lose_types"] == ["product.created"]
    webhook_fake.stripe.products.create({"name": "a"})
    webhook_fake.customer(card=None)
    assert webhook_fake.control.faults(lose=0)["lose_types"] == []
    webhook_fake.stripe.products.create({"name": "b"})
    webhook_fake.control.wait_delivered()

    assert types(receiver.received) == ["customer.created", "product.created"]
    assert receiver.received[1]["data"]["object"]["name"] == "b"


@pytest.mark.parametrize(
    "body", [{"duplicate": 0}, {"duplicate": 101}, {"reorder": "perhaps"}, {"lose": -1}, {"lose": "x"}, {"other": 1}]
)
def test_invalid_faults_are_refused(webhook_fake, body):
    before = webhook_fake.control.faults()

    assert webhook_fake.http.post("/fake/faults", json=body).status_code == 400
    assert webhook_fake.control.faults() == before


def test_paused_webhooks_are_sent_on_resume(webhook_fake, receiver):
    webhook_fake.control.pause_delivery()
    webhook_fake.customer(card=None)

    assert [delivery["attempts"] for delivery in webhook_fake.control.deliveries(state="pending")] == [0]
    with pytest.raises(FakeControlError, match="undelivered"):
        webhook_fake.control.wait_delivered(0.1)
    assert receiver.received == []
    webhook_fake.control.resume_delivery()
    receiver.wait_for(len)


def test_a_pause_interrupts_a_queue(webhook_fake, receiver):
    with receiver.holding_responses():
        for name in ("a", "b", "c"):
            webhook_fake.stripe.products.create({"name": name})
        webhook_fake.control.pause_delivery()
    receiver.wait_for(len)

    assert [delivery["attempts"] for delivery in wait_for_attempts(webhook_fake, 1)] == [1, 0, 0]
    webhook_fake.control.resume_delivery()
    webhook_fake.control.wait_delivered()
    assert [event["data"]["object"]["name"] for event in receiver.received] == ["a", "b", "c"]


def test_an_event_is_redelivered_on_request_even_if_it_was_lost(webhook_fake, receiver):
    webhook_fake.control.faults(lose=1, duplicate=5)
    webhook_fake.customer(card=None)
    [event] = webhook_fake.events()
    for _ in range(2):
        [queued] = webhook_fake.control.redeliver(event.id)
        assert queued["event"] == event.id
        webhook_fake.control.wait_delivered()

    assert [received["id"] for received in receiver.received] == [event.id] * 2
    assert webhook_fake.stripe.events.retrieve(event.id).pending_webhooks == 0
    assert [delivery["state"] for delivery in webhook_fake.control.deliveries(event=event.id)] == [
        "lost",
        "delivered",
        "delivered",
    ]


@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_undelivered_webhooks_are_delivered_after_a_restart(start, receiver, tmp_path, how):
    fake = start("--state", str(tmp_path / "state"), receiver=receiver)
    fake.control.faults(duplicate=2)
    fake.stripe.products.create({"name": "before"})
    fake.control.wait_delivered()
    fake.control.pause_delivery()
    fake.control.pay_checkout(fake.checkout(customer_email="ada@example.com").id)
    happened = [event.to_dict() for event in fake.events()]
    fake.stop(how)
    fake.start()

    assert [event.to_dict() for event in fake.events()] == happened
    assert (fake.control.faults()["duplicate"], fake.control.faults()["paused"]) == (2, True)
    assert types(receiver.received) == ["product.created"] * 2
    fake.control.resume_delivery()
    fake.control.wait_delivered()
    assert Counter(event["id"] for event in receiver.received) == {event["id"]: 2 for event in happened}


def test_an_endpoint_created_by_the_api_gets_its_event_types_under_its_own_secret(fake, receiver):
    endpoint = fake.stripe.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["product.created"], "metadata": {"for": "tests"}}
    )
    receiver.secrets = [endpoint.secret]
    fake.customer(card=None)
    fake.stripe.products.create({"name": "P"})
    fake.control.wait_delivered()

    assert types(receiver.received) == ["product.created"]
    assert endpoint.secret.startswith("whsec_")
    [listed] = fake.stripe.webhook_endpoints.list().data
    assert "secret" not in listed.to_dict()
    fake.stripe.webhook_endpoints.update(endpoint.id, {"enabled_events": ["*"], "disabled": True})
    fake.customer(card=None)
    fake.stripe.webhook_endpoints.update(endpoint.id, {"disabled": False})
    fake.customer(card=None)
    fake.control.wait_delivered()
    assert types(receiver.received) == ["product.created", "customer.created"]
    fake.stripe.webhook_endpoints.delete(endpoint.id)
    fake.customer(card=None)
    assert fake.control.deliveries(state="pending") == []
    assert fake.stripe.webhook_endpoints.list().data == []


def test_a_slow_endpoint_does_not_delay_another(fake, receiver):
    slow = fake.stripe.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
    receiver.secrets = [slow.secret]
    down = fake.stripe.webhook_endpoints.create({"url": "http://127.0.0.1:1/hook", "enabled_events": ["*"]})

    def tried():
        return [delivery for delivery in fake.control.deliveries() if delivery["endpoint"] == down.id]

    with receiver.holding_responses():
        fake.customer(card=None)
        while not tried()[0]["attempts"]:
            pass
        assert receiver.received == []
    assert tried()[0]["last_attempts"][0]["error"] == "ConnectError"
    receiver.wait_for(len)


def test_an_unknown_event_cannot_be_redelivered(webhook_fake):
    with pytest.raises(FakeControlError, match="No such event"):
        webhook_fake.control.redeliver("evt_nothing")
