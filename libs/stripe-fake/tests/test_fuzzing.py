"""Any request gets one of Stripe's responses, and never a 500."""

from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = [
    "action",
    "amount",
    "billing_cycle_anchor",
    "billing_cycle_anchor[type]",
    "cancel[identifier]",
    "charge",
    "cancel_now",
    "default_aggregation[formula]",
    "display_name",
    "end_behavior",
    "end_time",
    "event_name",
    "fail",
    "from_subscription",
    "invoice",
    "invoice_now",
    "payload",
    "payload[stripe_customer_id]",
    "payload[value]",
    "payment_intent",
    "pause_collection[behavior]",
    "pending_invoice_items_behavior",
    "phases[0][end_date]",
    "phases[0][items][0][price]",
    "phases[0][start_date]",
    "price",
    "prorate",
    "proration_behavior",
    "proration_date",
    "quantity",
    "recurring[meter]",
    "recurring[usage_type]",
    "schedule",
    "start_date",
    "start_time",
    "subscription",
    "subscription_details[cancel_now]",
    "subscription_details[items][0][id]",
    "subscription_details[items][0][quantity]",
    "subscription_details[proration_date]",
    "timestamp",
    "trial_end",
    "type",
    "value_grouping_window",
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
def populated(fake):
    """Creates one object of each kind, and returns their ids for the requests."""
    price = fake.price()
    subscription = fake.subscribe(items=[{"price": price.id}])
    session = fake.checkout(line_items=[{"price": price.id}])
    schedule = fake.stripe.subscription_schedules.create(
        {"from_subscription": fake.subscribe(items=[{"price": price.id}]).id}
    )
    meter = fake.stripe.billing.meters.create(
        {"display_name": "m", "event_name": "usd", "default_aggregation": {"formula": "sum"}}
    )
    pending = fake.stripe.invoice_items.create({"customer": subscription.customer, "amount": 5, "currency": "usd"})
    charge = fake.stripe.charges.list().data[0]
    dispute = fake.control.dispute(fake.stripe.charges.list().data[1].id)
    secret = fake.stripe.billing_portal.sessions.create({"customer": subscription.customer}).url.split("/")[-1]
    more = [subscription["items"].data[0].id, schedule.id, meter.id, pending.id, charge.id, dispute["id"], secret]
    more += [charge.payment_intent, charge.payment_method]
    ids = [
        *more,
        subscription.customer,
        subscription.id,
        subscription.latest_invoice,
        session.id,
        price.id,
        price.product,
    ]
    return fake, [*ids, fake.newest_event(), "nothing"]


PATHS = [
    "/fake/api-faults",
    "/fake/charges/{}/dispute",
    "/fake/disputes/{}/close",
    "/fake/portal/{}",
    "/v1/billing/meter_event_adjustments",
    "/v1/billing/meter_events",
    "/v1/billing/meters",
    "/v1/billing/meters/{}/deactivate",
    "/v1/billing/meters/{}/event_summaries",
    "/v1/billing_portal/configurations",
    "/v1/billing_portal/sessions",
    "/v1/charges/{}",
    "/v1/disputes/{}",
    "/v1/disputes/{}/close",
    "/v1/invoiceitems",
    "/v1/invoiceitems/{}",
    "/v1/invoices",
    "/v1/invoices/create_preview",
    "/v1/invoices/{}/finalize",
    "/v1/invoices/{}/void",
    "/v1/payment_intents",
    "/v1/payment_intents/{}/confirm",
    "/v1/payment_methods",
    "/v1/payment_methods/{}/detach",
    "/v1/refunds",
    "/v1/subscription_items",
    "/v1/subscription_items/{}",
    "/v1/subscription_schedules",
    "/v1/subscription_schedules/{}",
    "/v1/subscription_schedules/{}/cancel",
    "/v1/subscription_schedules/{}/release",
    "/v1/subscriptions/{}/pause",
    "/v1/subscriptions/{}/resume",
    "/v2/billing/meter_event_stream",
    "/v2/core/events",
    "/v2/core/events/{}",
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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_causes_a_500(populated, data):
    fake, ids = populated
    identifier = data.draw(st.sampled_from(ids) | st.text(min_size=1, max_size=5))
    path = data.draw(st.sampled_from(PATHS)).format(quote(identifier, safe=""))
    values = st.sampled_from([*WORDS, *URLS, *ids]) | st.text(max_size=5)
    params = urlencode(data.draw(st.dictionaries(st.sampled_from(NAMES), values, max_size=6)))
    if data.draw(st.booleans()):
        answer = fake.http.get(f"{path}?{params}")
    else:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = fake.http.post(path, content=params, headers=form)

    if path == "/fake/api-faults":
        fake.http.post(path, json={})  # injected failures are expected, so they are removed
    assert answer.status_code in {200, 303, 400, 402, 404}, answer.text
    assert answer.status_code == 303 or answer.is_success or answer.json()["error"]["message"]
