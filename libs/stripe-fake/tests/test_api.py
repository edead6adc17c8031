"""The API through the official SDK: keys, errors, idempotency, lists and expansion."""

import re
import socket
from pathlib import Path

import httpx
import pytest
import stripe
from paybill_stripe_fake.bodies import MAX_BODY_BYTES
from paybill_stripe_fake.client import FakeControl, FakeControlError
from paybill_stripe_fake.control import ENDPOINTS


@pytest.fixture
def catalogue(fake):
    """Creates 25 products with a common label."""
    return [fake.stripe.products.create({"name": f"P{number}", "unit_label": "seat"}) for number in range(25)]


def test_an_absent_or_wrong_key_is_refused_and_not_repeated_in_the_error(fake, refusal):
    http_client = stripe.RequestsClient()
    wrong = stripe.StripeClient("sk_test_wrong", base_addresses={"api": fake.url}, http_client=http_client)

    refused = refusal(stripe.AuthenticationError, wrong.v1.customers.list)
    http_client.close()
    assert refused.status == 401
    assert "sk_test_wrong" not in refused.text
    assert httpx.get(f"{fake.url}/v1/customers").status_code == 401
    assert httpx.get(f"{fake.url}/v1/customers", headers={"Authorization": fake.key}).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/fake/clock"),
        ("POST", "/fake/clock/advance"),
        ("GET", "/fake/faults"),
        ("POST", "/fake/faults"),
        ("GET", "/fake/deliveries"),
        ("POST", "/fake/delivery/pause"),
        ("POST", "/fake/delivery/resume"),
        ("POST", "/fake/customers/cus_1/payment"),
        ("POST", "/fake/subscriptions/sub_1/renew"),
        ("POST", "/fake/invoices/in_1/pay"),
        ("POST", "/fake/events/evt_1/redeliver"),
    ],
)
def test_control_routes_need_the_key(fake, method, path):
    assert httpx.request(method, f"{fake.url}{path}").status_code == 401


def test_health_needs_no_key(fake):
    assert httpx.get(f"{fake.url}/healthz").json() == {"status": "ok"}


def test_an_unknown_id_in_the_url_is_resource_missing(fake, refusal):
    for service in ("customers", "products", "prices", "subscriptions", "invoices", "events", "payment_intents"):
        refused = refusal(stripe.InvalidRequestError, getattr(fake.stripe, service).retrieve, "nothing")

        assert (refused.status, refused.code, refused.param) == (404, "resource_missing", "id")
        assert "No such" in refused.text


def test_an_unknown_id_in_a_parameter_is_a_400_that_names_the_parameter(fake, refusal):
    params = {"customer": "cus_nobody", "items": [{"price": fake.price().id}]}

    refused = refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.create, params)
    assert (refused.status, refused.code, refused.param) == (400, "resource_missing", "customer")


def test_an_unknown_url_or_method_returns_stripes_error_text(fake):
    for method, path in [("GET", "/v1/nothing"), ("DELETE", "/v1/events/evt_1"), ("GET", "/")]:
        answer = fake.http.request(method, path)

        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "Unrecognized request URL" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "params", "code", "param"),
    [
        ("customers", {"colour": "red"}, "parameter_unknown", "colour"),
        ("customers", {"email": "x" * 513}, None, "email"),
        ("customers", {"metadata": "text"}, None, "metadata"),
        ("products", {}, "parameter_missing", "name"),
        ("products", {"name": ""}, "parameter_invalid_empty", "name"),
        ("products", {"name": "P", "active": "yes"}, None, "active"),
        ("prices", {"product": "none", "currency": "usd", "unit_amount": "1"}, "resource_missing", "product"),
        ("prices", {"currency": "dollars", "unit_amount": "1"}, None, "currency"),
        ("prices", {"currency": "usd"}, None, "unit_amount"),
        ("prices", {"currency": "usd", "unit_amount": "ten"}, "parameter_invalid_integer", "unit_amount"),
        ("prices", {"currency": "usd", "unit_amount": "-1"}, "parameter_invalid_integer", "unit_amount"),
        ("prices", {"currency": "usd", "unit_amount": "1", "recurring[interval]": "moon"}, None, "recurring[interval]"),
        ("subscriptions", {}, "parameter_missing", "customer"),
        ("checkout/sessions", {"success_url": "https://x.y"}, "parameter_missing", "mode"),
        ("checkout/sessions", {"mode": "subscription"}, "parameter_missing", "success_url"),
        ("checkout/sessions", {"mode": "payment", "success_url": "https://x.y"}, None, "mode"),
        ("webhook_endpoints", {"url": "https://example.com/hook", "enabled_events[]": "*"}, "url_invalid", "url"),
        ("webhook_endpoints", {"url": "http://127.0.0.1/hook"}, "parameter_missing", "enabled_events"),
    ],
)
def test_a_wrong_parameter_is_a_400_that_names_it_and_changes_nothing(fake, path, params, code, param):
    fake.stripe.products.create({"name": "Before"})
    before = fake.newest_event()

    answer = fake.http.post(f"/v1/{path}", data=params)
    error = answer.json()["error"]
    assert (answer.status_code, error.get("code"), error["param"]) == (400, code, param)
    assert fake.events(since=before) == []


def test_the_api_accepts_forms_only(fake):
    assert fake.http.post("/v1/customers", json={"email": "a@b.c"}).status_code == 400
    assert fake.http.post("/v1/customers", content=b"\xff", headers={"Content-Type": "text/plain"}).status_code == 400


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"lose": ["\\ud800"]}', b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_control_routes_accept_json_objects_only(fake, body):
    answer = fake.http.post("/fake/faults", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400


def test_a_body_over_a_mebibyte_is_a_413_with_or_without_a_content_length(fake):
    large = b"description=" + b"x" * MAX_BODY_BYTES
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    assert fake.http.post("/v1/customers", content=large, headers=form).status_code == 413
    assert fake.http.post("/v1/customers", content=iter([large]), headers=form).status_code == 413


def test_every_response_has_a_request_id_that_its_events_name(fake):
    customer = fake.customer()

    answered = customer.last_response.headers
    assert answered["Request-Id"].startswith("req_")
    assert answered["Stripe-Version"] == stripe.api_version
    created = next(event for event in fake.events(customer.id) if event.type == "customer.created")
    assert created.request.id == answered["Request-Id"]
    assert created.request.idempotency_key == answered["Idempotency-Key"]
    assert fake.http.get("/v1/customers/nobody").headers["Request-Id"].startswith("req_")


def test_the_same_key_and_parameters_run_once_and_return_the_same_response(fake):
    first = fake.stripe.customers.create({"email": "once@example.com"}, {"idempotency_key": "once"})
    second = fake.stripe.customers.create({"email": "once@example.com"}, {"idempotency_key": "once"})

    assert second.id == first.id
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    assert second.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert len(fake.stripe.customers.list({"email": "once@example.com"}).data) == 1


def test_the_same_key_with_other_parameters_is_refused(fake, refusal):
    options = {"idempotency_key": "else"}
    fake.stripe.customers.create({"email": "else@example.com"}, options)

    other = refusal(stripe.IdempotencyError, fake.stripe.customers.create, {"email": "x@example.com"}, options)
    assert (other.status, "same parameters" in other.text) == (400, True)
    elsewhere = refusal(stripe.IdempotencyError, fake.stripe.products.create, {"name": "P"}, options)
    assert (elsewhere.status, "same endpoint" in elsewhere.text) == (400, True)


def test_a_refused_request_leaves_its_key_unused(fake, refusal):
    options = {"idempotency_key": "free"}
    refusal(stripe.InvalidRequestError, fake.stripe.products.create, {"name": "P", "active": "x"}, options)

    assert fake.stripe.products.create({"name": "P"}, options).name == "P"


def test_a_declined_card_returns_the_same_response_under_its_key(fake, refusal):
    subscription = fake.subscribe("pm_card_chargeCustomerFail")
    pay, invoice, options = fake.stripe.invoices.pay, subscription.latest_invoice, {"idempotency_key": "declined"}

    first = refusal(stripe.CardError, pay, invoice, {}, options)
    attempts = len(fake.events(invoice))
    second = refusal(stripe.CardError, pay, invoice, {}, options)
    assert (first.status, first.code) == (second.status, second.code) == (402, "card_declined")
    assert len(fake.events(invoice)) == attempts


def test_the_length_of_a_key_is_bounded(fake, refusal):
    refused = refusal(stripe.InvalidRequestError, fake.stripe.customers.create, {}, {"idempotency_key": "k" * 256})
    assert refused.status == 400


def test_lists_are_paged_to_the_end_in_both_directions(fake, catalogue):
    newest_first = [product.id for product in reversed(catalogue)]
    labelled = [p.id for p in fake.stripe.products.list({"limit": 7}).auto_paging_iter() if p.unit_label]

    assert labelled == newest_first
    middle = newest_first[12]
    before = fake.stripe.products.list({"limit": 5, "ending_before": middle})
    after = fake.stripe.products.list({"limit": 5, "starting_after": middle})
    assert [product.id for product in before.data] == newest_first[7:12]
    assert [product.id for product in after.data] == newest_first[13:18]
    assert (before.has_more, after.has_more) == (True, True)
    backwards = fake.stripe.products.list({"limit": 4, "ending_before": newest_first[-1]}).auto_paging_iter()
    assert [product.id for product in backwards if product.unit_label] == newest_first[-2::-1]


@pytest.mark.usefixtures("catalogue")
def test_the_page_size_is_ten_by_default_and_at_most_a_hundred(fake, refusal):
    assert len(fake.stripe.products.list().data) == 10
    for limit in (0, 101):
        refusal(stripe.InvalidRequestError, fake.stripe.products.list, {"limit": limit})


def test_an_unknown_cursor_is_refused(fake, refusal):
    for cursor in ("starting_after", "ending_before"):
        refused = refusal(stripe.InvalidRequestError, fake.stripe.products.list, {cursor: "prod_nothing"})

        assert (refused.code, refused.param) == ("resource_missing", cursor)
    both = {"starting_after": "a", "ending_before": "b"}
    assert refusal(stripe.InvalidRequestError, fake.stripe.products.list, both).code == "parameters_exclusive"


def test_expansion_follows_ids_through_objects_and_lists(fake):
    subscription = fake.subscribe(
        expand=["customer", "latest_invoice.payments", "items.data.price.product", "default_payment_method"]
    )

    assert subscription.customer.email == "ada@example.com"
    assert subscription.latest_invoice.payments.data[0].payment.payment_intent.startswith("pi_")
    assert subscription["items"].data[0].price.product.name == "Team"
    assert subscription.default_payment_method is None
    params = {"customer": subscription.customer.id, "expand": ["data.latest_invoice"]}
    assert fake.stripe.subscriptions.list(params).data[0].latest_invoice.status == "paid"
    customer = fake.stripe.customers.retrieve(subscription.customer.id, {"expand": ["subscriptions"]})
    assert [held.id for held in customer.subscriptions.data] == [subscription.id]


@pytest.mark.parametrize("path", ["id", "nothing", "email", "metadata.x", "a.b.c.d.e", "livemode.x"])
def test_an_invalid_expansion_is_refused(fake, refusal, path):
    params = {"expand": [path]}
    refused = refusal(stripe.InvalidRequestError, fake.stripe.customers.retrieve, fake.customer().id, params)

    assert (refused.status, refused.param) == (400, "expand")


def test_nested_lists_are_served_at_their_urls(fake):
    subscription = fake.subscribe(expand=["latest_invoice.payments"])
    invoice = subscription.latest_invoice

    for held in (subscription["items"], invoice.lines, invoice.payments):
        assert [one["id"] for one in fake.http.get(held.url).json()["data"]] == [one.id for one in held.data]


def test_lists_filter_by_time(fake):
    customer = fake.customer(email="timed@example.com")
    at = customer.created

    def found(**bounds):
        listed = fake.stripe.customers.list({"email": "timed@example.com", "created": bounds})
        return [held.id for held in listed.data]

    assert found(gte=at) == found(lte=at) == found(gt=at - 1, lt=at + 1) == [customer.id]
    assert found(gt=at) == found(lt=at) == []


def test_a_product_is_found_and_changed_and_its_change_emits_an_event(fake, refusal):
    product = fake.stripe.products.create({"id": "team-plan", "name": "Team", "metadata": {"tier": "2"}})
    fake.stripe.products.update("team-plan", {"name": "Teams", "active": False, "metadata": {"tier": ""}})

    assert (
        refusal(stripe.InvalidRequestError, fake.stripe.products.create, {"id": "team-plan", "name": "x"}).status == 400
    )
    changed = fake.events(product.id)[-1]
    assert (changed.type, changed.data.object["name"]) == ("product.updated", "Teams")
    previous = changed.data.previous_attributes.to_dict()
    previous.pop("updated", None)
    assert previous == {"active": True, "metadata": {"tier": "2"}, "name": "Team"}


def test_a_lookup_key_names_one_price_and_is_transferred_only_on_request(fake, refusal):
    first = fake.price(lookup_key="standard")
    again = {"currency": "usd", "unit_amount": 1, "product": first.product, "lookup_key": "standard"}

    assert refusal(stripe.InvalidRequestError, fake.stripe.prices.create, again).code == "resource_already_exists"
    second = fake.stripe.prices.create({**again, "transfer_lookup_key": True})
    assert [price.id for price in fake.stripe.prices.list({"lookup_keys": ["standard"]}).data] == [second.id]
    assert fake.stripe.prices.retrieve(first.id).lookup_key is None


def test_a_price_may_have_fractions_of_a_cent(fake):
    price = fake.stripe.prices.create(
        {
            "currency": "EUR",
            "unit_amount_decimal": "0.5",
            "recurring": {"interval": "day", "interval_count": 3},
            "product_data": {"name": "Calls"},
        }
    )

    assert (price.unit_amount, str(price.unit_amount_decimal), price.currency) == (None, "0.5", "eur")
    invoice = fake.subscribe(items=[{"price": price.id, "quantity": 5}], expand=["latest_invoice"]).latest_invoice
    assert invoice.total == 3


def test_a_deleted_customer_shows_only_its_deletion_and_has_no_subscriptions(fake, refusal):
    subscription = fake.subscribe()
    fake.stripe.customers.delete(subscription.customer)

    assert fake.stripe.customers.retrieve(subscription.customer).to_dict() == {
        "id": subscription.customer,
        "object": "customer",
        "deleted": True,
    }
    assert fake.stripe.subscriptions.retrieve(subscription.id).status == "canceled"
    assert subscription.customer not in [held.id for held in fake.stripe.customers.list({"limit": 100}).data]
    refused = refusal(stripe.InvalidRequestError, fake.stripe.customers.update, subscription.customer, {"name": "x"})
    assert refused.status == 404


def test_the_balance_is_the_sum_of_payments(fake):
    fake.subscribe()
    fake.subscribe("pm_card_chargeCustomerFail")

    assert [(funds.currency, funds.amount) for funds in fake.stripe.balance.retrieve().available] == [("usd", 2000)]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the SDK's asynchronous use of httpx
async def test_the_sdk_works_asynchronously(fake):
    async with httpx.AsyncClient(base_url=fake.url) as http:
        assert (await http.get("/healthz")).status_code == 200
    client = stripe.HTTPXClient()
    api = stripe.StripeClient(fake.key, base_addresses={"api": fake.url}, http_client=client).v1
    customer = await api.customers.create_async({"email": "async@example.com"})
    found = [held.id async for held in (await api.customers.list_async({"limit": 1})).auto_paging_iter()]
    await client.close_async()

    assert customer.id in found


def test_the_control_client_waits_for_the_process_and_reports_failures(fake):
    with FakeControl(fake.url, fake.key) as control:
        control.wait_ready()
        with pytest.raises(FakeControlError, match="No such customer"):
            control.set_payment("cus_nobody", "fail")
    with FakeControl("http://127.0.0.1:1", fake.key) as control:
        with pytest.raises(FakeControlError, match="did not answer"):
            control.wait_ready(0.05)
        with pytest.raises(FakeControlError, match="no answer from"):
            control.clock()


def test_a_client_that_sends_garbage_does_not_stop_others(fake):
    host, port = fake.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 400")

    assert httpx.get(f"{fake.url}/healthz").status_code == 200


def test_the_readme_lists_all_control_routes_and_their_methods():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = [row.split("|") for row in readme.splitlines() if row.startswith("| `") and "/fake/" in row]
    methods = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}

    assert [path for _, path, _ in ENDPOINTS if f" {path}`" not in readme] == []
    assert "finalize_after" in methods <= set(dir(FakeControl))
