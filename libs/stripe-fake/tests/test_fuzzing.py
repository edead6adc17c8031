"""Whatever is sent, the answer is one of Stripe's, and never a 500."""

from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = [
    "cancel_at",
    "cancel_at_period_end",
    "cancellation_details[feedback]",
    "created[gte]",
    "currency",
    "customer",
    "days",
    "default_payment_method",
    "duplicate",
    "enabled_events[0]",
    "ending_before",
    "expand[]",
    "id",
    "invoice_settings[default_payment_method]",
    "items[0][id]",
    "items[0][price]",
    "items[0][quantity]",
    "items[1][price_data][unit_amount_decimal]",
    "limit",
    "line_items[0][price]",
    "lose",
    "metadata",
    "metadata[a]",
    "mode",
    "name",
    "outcome",
    "paid_out_of_band",
    "payment_method",
    "product",
    "recurring[interval]",
    "recurring[interval_count]",
    "seconds",
    "starting_after",
    "status",
    "subscription_data[trial_period_days]",
    "success_url",
    "to",
    "trial_period_days",
    "unit_amount",
    "url",
]
WORDS = ["", "0", "1", "-1", "true", "usd", "month", "subscription", "succeed", "all", "customer", "data.id"]
URLS = ["http://127.0.0.1:1/x", "https://[", "http://[::1", "https://example.com/{CHECKOUT_SESSION_ID}"]


@pytest.fixture
def lived_in(fake):
    """An account with one of each, under whose ids the requests go."""
    price = fake.price()
    subscription = fake.subscribe(items=[{"price": price.id}])
    session = fake.checkout(line_items=[{"price": price.id}])
    ids = [subscription.customer, subscription.id, subscription.latest_invoice, session.id, price.id, price.product]
    return fake, [*ids, fake.newest_event(), "nothing"]


PATHS = [
    "/v1/checkout/sessions",
    "/v1/checkout/sessions/{}",
    "/v1/checkout/sessions/{}/expire",
    "/v1/customers",
    "/v1/customers/{}",
    "/v1/events",
    "/v1/invoices/{}",
    "/v1/invoices/{}/pay",
    "/v1/payment_methods/{}/attach",
    "/v1/prices",
    "/v1/prices/{}",
    "/v1/products",
    "/v1/products/{}",
    "/v1/subscriptions",
    "/v1/subscriptions/{}",
    "/v1/webhook_endpoints",
    "/fake/checkout/{}/pay",
    "/fake/clock/advance",
    "/fake/customers/{}/payment",
    "/fake/faults",
    "/fake/invoices/{}/pay",
    "/fake/subscriptions/{}/renew",
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_is_answered_by_a_500(lived_in, data):
    fake, ids = lived_in
    identifier = data.draw(st.sampled_from(ids) | st.text(min_size=1, max_size=5))
    path = data.draw(st.sampled_from(PATHS)).format(quote(identifier, safe=""))
    values = st.sampled_from([*WORDS, *URLS, *ids]) | st.text(max_size=5)
    params = urlencode(data.draw(st.dictionaries(st.sampled_from(NAMES), values, max_size=6)))
    if data.draw(st.booleans()):
        answer = fake.http.get(f"{path}?{params}")
    else:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = fake.http.post(path, content=params, headers=form)

    assert answer.status_code in {200, 400, 402, 404}, answer.text
    assert answer.is_success or answer.json()["error"]["message"]
