"""Webhooks: signed, in order, again until taken, and misbehaving on demand."""

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
    return lambda taken: kind in types(taken)


def test_the_signature_is_the_one_that_the_sdk_makes():
    ours = sender.signature_header('{"a":"é"}', ("whsec_x",), 1_700_000_000)

    assert ours == stripe.WebhookSignature.generate_signature_header('{"a":"é"}', "whsec_x", 1_700_000_000)


def test_every_event_arrives_once_in_order_and_signed_by_every_secret(hooked, receiver):
    hooked.control.pay_checkout(hooked.checkout(customer_email="ada@example.com").id)
    taken = receiver.wait_for(has("checkout.session.completed"))

    assert [event["id"] for event in taken] == [event.id for event in hooked.events()]
    assert {event["pending_webhooks"] for event in taken} == {1}
    headers = receiver.headers[0]
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["User-Agent"].startswith("Stripe/1.0")
    assert headers["Stripe-Signature"].count("v1=") == 2
    hooked.control.wait_delivered()
    assert {event.pending_webhooks for event in hooked.events()} == {0}


def test_the_sdk_takes_the_body_as_an_event(hooked, receiver):
    customer = hooked.customer(card=None)
    receiver.wait_for(len)

    body, signature = receiver.bodies[0], receiver.headers[0]["Stripe-Signature"]
    built = stripe.Webhook.construct_event(body, signature, receiver.secrets[0])
    assert (built.type, built.data.object["id"]) == ("customer.created", customer.id)


def test_signatures_carry_real_time_whatever_the_account_has(hooked, receiver):
    hooked.http.post("/fake/clock/advance", json={"days": 60})
    customer = hooked.customer(card=None)
    [event] = receiver.wait_for(len)

    signed_at = int(receiver.headers[0]["Stripe-Signature"].split(",")[0].removeprefix("t="))
    assert event["created"] == customer.created > time.time() + 59 * 86_400
    assert abs(signed_at - time.time()) < 60


@pytest.mark.parametrize("refusals", [[500, 503, 400], [302], [404, 410]])
def test_whatever_is_no_2xx_is_tried_again_until_it_is_taken(hooked, receiver, refusals):
    receiver.answers = list(refusals)
    hooked.customer(card=None)
    [event] = receiver.wait_for(len)

    hooked.control.wait_delivered()
    assert receiver.refused == [event["id"]] * len(refusals)
    [delivery] = hooked.control.deliveries(event=event["id"])
    assert (delivery["state"], delivery["attempts"]) == ("delivered", len(refusals) + 1)
    assert [attempt["status"] for attempt in delivery["last_attempts"]] == [*refusals, 200]
    times = [attempt["at"] for attempt in delivery["last_attempts"]]
    delays = [later - earlier for earlier, later in pairwise(times)]
    assert all(delay >= 0.02 * 2**index for index, delay in enumerate(delays))


def test_an_event_that_is_refused_does_not_hold_up_the_next(hooked, receiver):
    hooked.control.pause_delivery()
    hooked.customer(card=None)
    hooked.stripe.products.create({"name": "P"})
    receiver.answers = [500]
    hooked.control.resume_delivery()
    hooked.control.wait_delivered()

    assert types(receiver.taken) == ["product.created", "customer.created"]


def test_an_endpoint_that_does_not_answer_in_time_is_tried_again(start, receiver):
    fake = start("--webhook-timeout-s", "0.1", receiver=receiver)
    with receiver.holding():
        fake.customer(card=None)
        [delivery] = wait_for_attempts(fake, 1)

    assert delivery["last_attempts"][0]["status"] is None
    assert "Timeout" in delivery["last_attempts"][0]["error"]
    fake.control.wait_delivered()


def wait_for_attempts(hooked, count):
    while sum(delivery["attempts"] for delivery in hooked.control.deliveries()) < count:
        pass
    return hooked.control.deliveries()


def test_events_are_listed_by_whether_they_were_delivered(hooked, receiver):
    hooked.customer(card=None)
    receiver.wait_for(len)
    hooked.control.wait_delivered()
    hooked.control.pause_delivery()
    hooked.stripe.products.create({"name": "P"})

    def listed(**asked):
        return types(hooked.stripe.events.list(asked).data)

    assert listed(delivery_success=True) == ["customer.created"]
    assert listed(delivery_success=False) == ["product.created"]
    assert listed(types=["customer.created", "x"]) == listed(type="customer.*") == ["customer.created"]
    assert listed() == ["product.created", "customer.created"]


def test_duplicates_come_in_as_many_copies_as_asked_for(hooked, receiver):
    hooked.control.faults(duplicate=3)
    hooked.control.pay_checkout(hooked.checkout(customer_email="ada@example.com").id)
    hooked.control.wait_delivered()

    copies = Counter(event["id"] for event in receiver.taken)
    assert copies == {event.id: 3 for event in hooked.events()}


def test_reordering_sends_the_newest_first(hooked, receiver):
    session = hooked.checkout(customer_email="ada@example.com")
    hooked.control.wait_delivered()
    before = len(receiver.taken)
    hooked.control.faults(reorder=True)
    hooked.control.pay_checkout(session.id)
    hooked.control.wait_delivered()

    happened = [event.id for event in hooked.events()][before:]
    assert [event["id"] for event in receiver.taken[before:]] == happened[::-1]


def test_lost_events_never_arrive_and_are_known_as_undelivered(hooked, receiver):
    hooked.control.faults(lose=2)
    for name in ("a", "b", "c"):
        hooked.stripe.products.create({"name": name})
    hooked.control.wait_delivered()

    assert [event["data"]["object"]["name"] for event in receiver.taken] == ["c"]
    lost = hooked.stripe.events.list({"delivery_success": False}).data
    assert [event.data.object["name"] for event in lost] == ["b", "a"]
    assert [delivery["state"] for delivery in hooked.control.deliveries()] == ["lost", "lost", "delivered"]


def test_types_can_be_lost_until_that_is_ended(hooked, receiver):
    assert hooked.control.faults(lose=["product.created"])["lose_types"] == ["product.created"]
    hooked.stripe.products.create({"name": "a"})
    hooked.customer(card=None)
    assert hooked.control.faults(lose=0)["lose_types"] == []
    hooked.stripe.products.create({"name": "b"})
    hooked.control.wait_delivered()

    assert types(receiver.taken) == ["customer.created", "product.created"]
    assert receiver.taken[1]["data"]["object"]["name"] == "b"


@pytest.mark.parametrize(
    "body", [{"duplicate": 0}, {"duplicate": 101}, {"reorder": "perhaps"}, {"lose": -1}, {"lose": "x"}, {"other": 1}]
)
def test_faults_that_make_no_sense_are_refused(hooked, body):
    before = hooked.control.faults()

    assert hooked.http.post("/fake/faults", json=body).status_code == 400
    assert hooked.control.faults() == before


def test_held_back_webhooks_go_out_when_let_go(hooked, receiver):
    hooked.control.pause_delivery()
    hooked.customer(card=None)

    assert [delivery["attempts"] for delivery in hooked.control.deliveries(state="pending")] == [0]
    with pytest.raises(FakeControlError, match="undelivered"):
        hooked.control.wait_delivered(0.1)
    assert receiver.taken == []
    hooked.control.resume_delivery()
    receiver.wait_for(len)


def test_holding_back_stops_a_queue_in_its_middle(hooked, receiver):
    with receiver.holding():
        for name in ("a", "b", "c"):
            hooked.stripe.products.create({"name": name})
        hooked.control.pause_delivery()
    receiver.wait_for(len)

    assert [delivery["attempts"] for delivery in wait_for_attempts(hooked, 1)] == [1, 0, 0]
    hooked.control.resume_delivery()
    hooked.control.wait_delivered()
    assert [event["data"]["object"]["name"] for event in receiver.taken] == ["a", "b", "c"]


def test_an_event_is_delivered_again_on_demand_lost_or_not(hooked, receiver):
    hooked.control.faults(lose=1, duplicate=5)
    hooked.customer(card=None)
    [event] = hooked.events()
    for _ in range(2):
        [queued] = hooked.control.redeliver(event.id)
        assert queued["event"] == event.id
        hooked.control.wait_delivered()

    assert [taken["id"] for taken in receiver.taken] == [event.id] * 2
    assert hooked.stripe.events.retrieve(event.id).pending_webhooks == 0
    assert [delivery["state"] for delivery in hooked.control.deliveries(event=event.id)] == [
        "lost",
        "delivered",
        "delivered",
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_not_delivered_is_after_a_restart(start, receiver, tmp_path, how):
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
    assert types(receiver.taken) == ["product.created"] * 2
    fake.control.resume_delivery()
    fake.control.wait_delivered()
    assert Counter(event["id"] for event in receiver.taken) == {event["id"]: 2 for event in happened}


def test_an_endpoint_made_by_the_api_gets_what_it_asked_for_under_its_own_secret(fake, receiver):
    endpoint = fake.stripe.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["product.created"], "metadata": {"for": "tests"}}
    )
    receiver.secrets = [endpoint.secret]
    fake.customer(card=None)
    fake.stripe.products.create({"name": "P"})
    fake.control.wait_delivered()

    assert types(receiver.taken) == ["product.created"]
    assert endpoint.secret.startswith("whsec_")
    [listed] = fake.stripe.webhook_endpoints.list().data
    assert "secret" not in listed.to_dict()
    fake.stripe.webhook_endpoints.update(endpoint.id, {"enabled_events": ["*"], "disabled": True})
    fake.customer(card=None)
    fake.stripe.webhook_endpoints.update(endpoint.id, {"disabled": False})
    fake.customer(card=None)
    fake.control.wait_delivered()
    assert types(receiver.taken) == ["product.created", "customer.created"]
    fake.stripe.webhook_endpoints.delete(endpoint.id)
    fake.customer(card=None)
    assert fake.control.deliveries(state="pending") == []
    assert fake.stripe.webhook_endpoints.list().data == []


def test_one_slow_endpoint_does_not_hold_up_another(fake, receiver):
    slow = fake.stripe.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
    receiver.secrets = [slow.secret]
    down = fake.stripe.webhook_endpoints.create({"url": "http://127.0.0.1:1/hook", "enabled_events": ["*"]})

    def tried():
        return [delivery for delivery in fake.control.deliveries() if delivery["endpoint"] == down.id]

    with receiver.holding():
        fake.customer(card=None)
        while not tried()[0]["attempts"]:
            pass
        assert receiver.taken == []
    assert tried()[0]["last_attempts"][0]["error"] == "ConnectError"
    receiver.wait_for(len)


def test_events_that_do_not_exist_are_not_delivered_again(hooked):
    with pytest.raises(FakeControlError, match="No such event"):
        hooked.control.redeliver("evt_nothing")
