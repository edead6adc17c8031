"""API calls counted, limited, failed and delayed; and lists of events."""

import threading
import time
from datetime import timedelta

import pytest
import stripe


def test_calls_are_counted_by_endpoint_and_by_the_peak_second(fake):
    customer = fake.customer(card=None)
    fake.control.reset_calls()
    for _ in range(5):
        fake.stripe.customers.retrieve(customer.id)
    fake.stripe.products.list()
    time.sleep(1.1)
    fake.stripe.customers.retrieve(customer.id)

    calls = fake.control.calls()
    by_endpoint = {(one["method"], one["path"]): (one["total"], one["max_per_s"]) for one in calls["endpoints"]}
    assert by_endpoint == {("GET", "/v1/customers/{id}"): (6, 5), ("GET", "/v1/products"): (1, 1)}
    assert (calls["total"], calls["max_per_s"], calls["refused"]) == (7, 6, 0)


def test_calls_beyond_the_limit_are_a_429_with_retry_after(fake, refusal):
    fake.control.limit_calls(per_endpoint=3)
    refused = [fake.http.get("/v1/customers") for _ in range(5)][-1]

    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit"
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
    assert fake.http.get("/v1/products").status_code == 200
    assert fake.control.calls()["refused"] == 2
    assert refusal(stripe.RateLimitError, fake.stripe.customers.list).status == 429
    time.sleep(1.1)
    assert fake.http.get("/v1/customers").status_code == 200


def test_the_account_has_a_separate_limit(fake):
    fake.control.limit_calls(per_account=2)
    responses = [fake.http.get(f"/v1/{path}") for path in ("customers", "products", "prices")]

    assert [answer.status_code for answer in responses] == [200, 200, 429]
    assert responses[-1].headers["Stripe-Rate-Limited-Reason"] == "global-rate"


def test_the_command_line_sets_limits(start):
    fake = start("--limit-per-endpoint", "1", "--limit-per-account", "2")

    assert [fake.http.get("/v1/customers").status_code for _ in range(2)] == [200, 429]
    fake.control.limit_calls(per_endpoint=0, per_account=0)
    assert {fake.http.get("/v1/customers").status_code for _ in range(5)} == {200}
    fake.control.reset()
    assert fake.http.get("/fake/limits").json() == {"per_endpoint": 1, "per_account": 2}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_the_set_number_of_calls_fails(fake, status):
    fake.control.fail_calls(2, status=status, path="/v1/products", retry_after_s=7)

    assert fake.http.get("/v1/customers").status_code == 200
    responses = [fake.http.post("/v1/products", data={"name": "P"}) for _ in range(3)]
    assert [answer.status_code for answer in responses] == [status, status, 200]
    assert responses[0].headers["Retry-After"] == "7"
    assert len(fake.stripe.products.list().data) == 1


def test_a_lost_response_is_replayed_under_its_key(fake):
    fake.control.fail_calls(1, path="/v1/products", after=True)
    key = {"Idempotency-Key": "once"}
    first = fake.http.post("/v1/products", data={"name": "P"}, headers=key)
    again = fake.http.post("/v1/products", data={"name": "P"}, headers=key)

    assert (first.status_code, again.status_code) == (500, 200)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [product.id for product in fake.stripe.products.list().data] == [again.json()["id"]]


def test_two_concurrent_requests_with_one_key_conflict(fake):
    fake.control.delay_calls(2, path="/v1/products")
    responses = []

    def create():
        with fake.clone() as http:
            responses.append(http.post("/v1/products", data={"name": "P"}, headers={"Idempotency-Key": "twice"}))

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in responses) == [200, 409]
    refused = next(answer for answer in responses if answer.status_code == 409).json()["error"]
    assert (refused["type"], refused["code"]) == ("idempotency_error", "idempotency_key_in_use")
    fake.control.delay_calls(0)
    again = fake.http.post("/v1/products", data={"name": "P"}, headers={"Idempotency-Key": "twice"})
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fake/limits", {"per_endpoint": -1}),
        ("/fake/limits", {"per_second": 1}),
        ("/fake/api-faults", {"fail": -1}),
        ("/fake/api-faults", {"status": 200}),
        ("/fake/api-faults", {"other": 1}),
    ],
)
def test_invalid_limits_and_faults_are_refused_and_change_nothing(fake, path, body):
    before = fake.http.get(path).json()

    assert fake.http.post(path, json=body).status_code == 400
    assert fake.http.get(path).json() == before


def test_events_are_shown_for_30_days(fake, refusal):
    old = fake.customer(card=None)
    event = fake.newest_event()
    fake.control.advance_clock(timedelta(days=30))
    new = fake.stripe.products.create({"name": "P"})

    assert [shown.data.object["id"] for shown in fake.stripe.events.list().data] == [new.id]
    assert refusal(stripe.InvalidRequestError, fake.stripe.events.retrieve, event).status == 404
    assert fake.stripe.customers.retrieve(old.id).id == old.id


def test_events_are_found_by_types_and_time_and_paged_both_ways(fake, refusal):
    for name in ("a", "b", "c", "d"):
        fake.stripe.products.create({"name": name})
    fake.customer(card=None)
    listed = fake.stripe.events.list({"types": ["product.created"], "limit": 2})
    names = [event.data.object["name"] for event in listed.auto_paging_iter()]
    now = fake.control.clock()["now"]

    assert names == ["d", "c", "b", "a"]
    assert listed.has_more
    middle = listed.data[1].id
    newer = fake.stripe.events.list({"types": ["product.created"], "ending_before": middle}).data
    assert [event.data.object["name"] for event in newer] == ["d"]
    assert fake.stripe.events.list({"created": {"gt": now + 5}}).data == []
    both = {"type": "product.created", "types": ["product.created"]}
    assert refusal(stripe.InvalidRequestError, fake.stripe.events.list, both).param == "types"


def test_deliveries_are_shuffled_and_delayed(webhook_fake, receiver):
    webhook_fake.control.pause_delivery()
    webhook_fake.control.faults(shuffle=True, delay_s=0.2)
    for number in range(20):
        webhook_fake.stripe.products.create({"name": str(number)})
    begun = time.time()
    dues = [delivery["due_at"] for delivery in webhook_fake.control.deliveries()]
    time.sleep(0.3)
    webhook_fake.control.resume_delivery()
    webhook_fake.control.wait_delivered()

    names = [event["data"]["object"]["name"] for event in receiver.received]
    assert sorted(names, key=int) == [str(number) for number in range(20)]
    assert names not in (sorted(names, key=int), sorted(names, key=int, reverse=True))
    assert max(dues) <= begun + 0.2
    assert max(dues) - min(dues) > 0.05
