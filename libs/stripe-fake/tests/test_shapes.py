"""Shapes: every object and event conforms to the SDK's annotations and Stripe's published examples."""

import inspect
import json
import sys
import typing
from decimal import Decimal
from pathlib import Path

import pytest
import stripe
from paybill_stripe_fake import API_VERSION

# Fields of features that the fake does not implement, or (a charge's refunds) shown only when expanded.
NOT_IMPLEMENTED = {"managed_payments", "refunds", "sources", "tax_ids"}
CLASSES = {
    "balance": stripe.Balance,
    "billing.meter": stripe.billing.Meter,
    "billing.meter_event": stripe.billing.MeterEvent,
    "billing.meter_event_adjustment": stripe.billing.MeterEventAdjustment,
    "billing.meter_event_summary": stripe.billing.MeterEventSummary,
    "billing_portal.configuration": stripe.billing_portal.Configuration,
    "billing_portal.session": stripe.billing_portal.Session,
    "charge": stripe.Charge,
    "checkout.session": stripe.checkout.Session,
    "customer": stripe.Customer,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
    "invoice": stripe.Invoice,
    "invoice_payment": stripe.InvoicePayment,
    "invoiceitem": stripe.InvoiceItem,
    "line_item": stripe.InvoiceLineItem,
    "payment_intent": stripe.PaymentIntent,
    "payment_method": stripe.PaymentMethod,
    "price": stripe.Price,
    "product": stripe.Product,
    "refund": stripe.Refund,
    "subscription": stripe.Subscription,
    "subscription_item": stripe.SubscriptionItem,
    "subscription_schedule": stripe.SubscriptionSchedule,
    "v2.billing.meter_event": stripe.v2.billing.MeterEvent,
    "v2.billing.meter_event_session": stripe.v2.billing.MeterEventSession,
    "v2.core.event": stripe.v2.core.Event,
    "webhook_endpoint": stripe.WebhookEndpoint,
}


def annotations(cls):
    found = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, stripe.StripeObject) and base is not stripe.StripeObject:
            found |= inspect.get_annotations(base)
    return {name: kind for name, kind in found.items() if name != "OBJECT_NAME" and not name.startswith("_")}


def resolved(kind):
    """Returns the class that a forward reference of the SDK names, or None for one that is not checked."""
    if isinstance(kind, typing.ForwardRef):
        kind = kind.__forward_arg__
    return getattr(stripe, kind, None) if isinstance(kind, str) else kind


def problems(value, kind, path):
    """Returns the differences between a JSON value and its annotated type."""
    kind = resolved(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is None or kind is typing.Any:
        return []
    if origin is typing.Union:
        return union_problems(value, arguments, path)
    if origin is typing.Literal:
        return [] if value in arguments else [f"{path}: {value!r} is none of {arguments[:9]}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [each for index, one in enumerate(value) for each in problems(one, arguments[0], f"{path}[{index}]")]
    if origin is stripe.ListObject:
        if not isinstance(value, dict) or value.keys() != {"object", "data", "has_more", "url"}:
            return [f"{path}: {value!r} is no list object"]
        return problems(value["data"], list[arguments[0]], f"{path}.data")
    if origin is not None:
        return [] if isinstance(value, dict) else [f"{path}: {value!r} is no object"]
    if issubclass(kind, stripe.StripeObject):
        return object_problems(value, kind, path)
    if kind is Decimal:
        return [] if isinstance(value, str) and Decimal(value) is not None else [f"{path}: {value!r} is no decimal"]
    exact = type(value) is kind or (kind is float and type(value) is int)
    return [] if exact else [f"{path}: {value!r} is no {kind.__name__}"]


def union_problems(value, choices, path):
    if value is None:
        return [] if type(None) in choices else [f"{path}: null"]
    # An open set of words is annotated as `Literal | str`; the fake must use the known ones.
    words = [choice for choice in choices if typing.get_origin(choice) is typing.Literal]
    if words and isinstance(value, str):
        return problems(value, words[0], path)
    tried = [problems(value, choice, path) for choice in choices if choice is not type(None)]
    return min(tried, key=len)


def object_problems(value, cls, path):
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {cls.__name__}"]
    fields = annotations(cls)
    found = [f"{path}.{name}: unknown to {cls.__name__}" for name in value.keys() - fields.keys()]
    for name, kind in fields.items():
        if name in value:
            found += problems(value[name], kind, f"{path}.{name}")
        elif type(None) not in typing.get_args(kind):
            found.append(f"{path}.{name}: missing from {cls.__name__}")
    return found


@pytest.fixture(scope="module")
def populated(running):
    """Returns an account with one of every object and event."""
    fake = running
    fake.control.reset()
    customer = fake.customer(metadata={"tenant": "t1"})
    fake.stripe.webhook_endpoints.create({"url": "http://127.0.0.1:9/hook", "enabled_events": ["no.such"]})
    session = fake.checkout(customer=customer.id, client_reference_id="t1", subscription_data={"metadata": {"t": "1"}})
    fake.control.pay_checkout(session.id, "fail")
    subscription = fake.control.pay_checkout(session.id)["subscription"]
    fake.control.set_payment(customer.id, "fail")
    renewed = fake.control.renew(subscription)
    fake.control.pay_invoice(renewed["latest_invoice"])
    fake.stripe.subscriptions.update(subscription, {"cancel_at_period_end": True, "metadata": {"t": "2"}})
    fake.stripe.subscriptions.cancel(subscription)
    fake.subscribe(trial_period_days=7, card=None)
    fake.subscribe("pm_card_chargeCustomerFail")
    fake.stripe.checkout.sessions.expire(fake.checkout().id)
    fake.control.renew(fake.subscribe(items=[{"price": fake.price(recurring={"interval": "year"}).id}]).id)
    change_and_pause(fake)
    bill_usage_and_refund(fake)
    return fake


def change_and_pause(fake):
    """Changes, pauses and ends subscriptions."""
    changed = fake.subscribe()
    more = {"items": [{"id": changed["items"].data[0].id, "quantity": 3}]}
    fake.stripe.subscriptions.update(changed.id, more)
    fake.stripe.subscriptions.update(changed.id, {"pause_collection": {"behavior": "void"}})
    schedule = fake.stripe.subscription_schedules.create({"from_subscription": changed.id})
    fake.stripe.subscription_schedules.update(schedule.id, {"metadata": {"a": "1"}, "end_behavior": "cancel"})
    fake.stripe.subscription_schedules.release(schedule.id)
    fake.stripe.subscriptions.pause(changed.id)
    fake.stripe.subscriptions.resume(changed.id)
    fake.stripe.subscriptions.pause(changed.id)
    fake.control.click_portal(
        fake.stripe.billing_portal.sessions.create({"customer": changed.customer}).url, changed.id, "resume"
    )
    fake.stripe.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": False}}})
    fake.stripe.invoice_items.create({"customer": changed.customer, "amount": 5, "currency": "usd"})
    drafted = fake.stripe.invoices.create(
        {"customer": changed.customer, "pending_invoice_items_behavior": "include", "collection_method": "send_invoice"}
        | {"days_until_due": 7}
    )
    fake.stripe.invoices.send_invoice(drafted.id)
    fake.stripe.invoices.mark_uncollectible(drafted.id)


def bill_usage_and_refund(fake):
    """Bills usage, and refunds and disputes charges."""
    meter = fake.stripe.billing.meters.create(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    metered = fake.subscribe(items=[{"price": fake.price(recurring=recurring).id}, {"price": fake.price().id}])
    for customer in (metered.customer, "cus_nobody"):
        payload = {"stripe_customer_id": customer, "value": "3"}
        fake.stripe.billing.meter_events.create({"event_name": "calls", "payload": payload})
    fake.control.renew(metered.id)
    fake.stripe.billing.meters.deactivate(meter.id)
    paid = fake.subscribe()
    fake.subscribe("pm_card_createDispute")
    charge = fake.stripe.charges.list({"customer": paid.customer}).data[0]
    fake.control.fail_refund(fake.stripe.refunds.create({"charge": charge.id, "amount": 5}).id)
    fake.stripe.refunds.create({"charge": charge.id})
    [dispute] = fake.stripe.disputes.list()
    fake.stripe.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "x"}})
    fake.control.close_dispute(dispute.id, "won")
    fake.subscribe("pm_card_threeDSecure2Required")


def walk_events(populated):
    params = {"limit": 100}
    while True:
        listed = populated.http.get("/v1/events", params=params).json()
        yield from listed["data"]
        if not listed["has_more"]:
            return
        params["starting_after"] = listed["data"][-1]["id"]


def test_every_event_and_its_object_conform_to_the_sdk(populated):
    events = list(walk_events(populated))
    found = [each for event in events for each in object_problems(event, stripe.Event, event["type"])]
    for event in events:
        resource = event["data"]["object"]
        found += object_problems(resource, CLASSES[resource["object"]], event["type"])

    assert found == []
    assert {event["type"] for event in events} >= {
        "billing.meter.created",
        "billing.meter.deactivated",
        "billing_portal.configuration.created",
        "billing_portal.session.created",
        "charge.dispute.closed",
        "charge.dispute.created",
        "charge.dispute.funds_reinstated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.updated",
        "charge.failed",
        "charge.refund.updated",
        "charge.refunded",
        "charge.succeeded",
        "charge.updated",
        "checkout.session.completed",
        "checkout.session.expired",
        "customer.created",
        "customer.subscription.created",
        "customer.subscription.deleted",
        "customer.subscription.paused",
        "customer.subscription.resumed",
        "customer.subscription.updated",
        "customer.updated",
        "invoice.created",
        "invoice.finalized",
        "invoice.marked_uncollectible",
        "invoice.paid",
        "invoice.payment_action_required",
        "invoice.payment_failed",
        "invoice.payment_succeeded",
        "invoice.sent",
        "invoice.updated",
        "invoice_payment.paid",
        "invoiceitem.created",
        "payment_intent.created",
        "payment_intent.payment_failed",
        "payment_intent.requires_action",
        "payment_intent.succeeded",
        "payment_method.attached",
        "price.created",
        "product.created",
        "refund.created",
        "refund.failed",
        "refund.updated",
        "subscription_schedule.created",
        "subscription_schedule.released",
        "subscription_schedule.updated",
    }
    assert {event["api_version"] for event in events} == {API_VERSION}


LISTS = [
    "/v1/billing/meters",
    "/v1/billing_portal/configurations",
    "/v1/charges",
    "/v1/checkout/sessions",
    "/v1/customers",
    "/v1/disputes",
    "/v1/invoiceitems",
    "/v1/invoices",
    "/v1/payment_intents",
    "/v1/prices",
    "/v1/products",
    "/v1/refunds",
    "/v1/subscription_schedules",
    "/v1/subscriptions?status=all",
    "/v1/webhook_endpoints",
]


@pytest.mark.parametrize("path", LISTS)
def test_every_listed_object_conforms_to_the_sdk(populated, path):
    listed = populated.http.get(path).json()

    assert listed["data"]
    assert [
        each for resource in listed["data"] for each in object_problems(resource, CLASSES[resource["object"]], path)
    ] == []


@pytest.mark.parametrize("path", [*LISTS, "/v1/events", "/v1/balance"])
def test_every_object_has_all_fields_of_stripes_published_example(populated, path, examples):
    listed = populated.http.get(path).json()
    for resource in listed.get("data", [listed]):
        example = examples[resource["object"]]
        missing = (example.keys() & annotations(CLASSES[resource["object"]]).keys()) - resource.keys() - NOT_IMPLEMENTED

        assert missing == (set() if resource["object"] != "balance" else {"connect_reserved"})


def unlisted(populated):
    """Returns objects that version 1 of the API never lists."""
    customer = populated.customer(card="pm_card_visa")
    meter = {"display_name": "C", "event_name": "others", "default_aggregation[formula]": "count"}
    meter = populated.http.post("/v1/billing/meters", data=meter).json()
    used = {"event_name": "others", "payload[stripe_customer_id]": customer.id, "identifier": "other"}
    yield populated.http.post("/v1/billing/meter_events", data=used).json()
    span = {"customer": customer.id, "start_time": 0, "end_time": 60_000_000_000}
    yield populated.http.get(f"/v1/billing/meters/{meter['id']}/event_summaries", params=span).json()["data"][0]
    adjustment = {"event_name": "others", "type": "cancel", "cancel[identifier]": "other"}
    yield populated.http.post("/v1/billing/meter_event_adjustments", data=adjustment).json()
    yield populated.http.post("/v1/billing_portal/sessions", data={"customer": customer.id}).json()
    subscription = populated.stripe.subscriptions.create(
        {"customer": customer.id, "items": [{"price": populated.price().id}]}
    )
    yield populated.http.post("/v1/invoices/create_preview", data={"subscription": subscription.id}).json()
    yield populated.http.get("/v1/subscription_items", params={"subscription": subscription.id}).json()["data"][0]


def test_objects_that_are_never_listed_conform_to_the_sdk_and_the_examples(populated, examples):
    for resource in unlisted(populated):
        example, fields = examples[resource["object"]], annotations(CLASSES[resource["object"]])

        assert object_problems(resource, CLASSES[resource["object"]], resource["object"]) == []
        assert (example.keys() & fields.keys()) - resource.keys() - NOT_IMPLEMENTED == set()


def test_thin_events_conform_to_the_sdk(populated):
    events = populated.http.get("/v2/core/events", params={"limit": 100}).json()["data"]
    own = {"related_object", "data"}
    found = [
        each
        for event in events
        for each in object_problems({k: v for k, v in event.items() if k not in own}, stripe.v2.core.Event, event["id"])
    ]

    assert found == []
    assert "v1.billing.meter.error_report_triggered" in {event["type"] for event in walk_thin(populated)}


def walk_thin(populated):
    url = "/v2/core/events?limit=100"
    while url:
        listed = populated.http.get(url).json()
        yield from listed["data"]
        url = listed["next_page_url"]


def test_usage_in_api_version_2_conforms_to_the_sdk(populated):
    meter = {"display_name": "S", "event_name": "streamed", "default_aggregation[formula]": "sum"}
    populated.http.post("/v1/billing/meters", data=meter).raise_for_status()
    session = populated.http.post("/v2/billing/meter_event_session", json={}).json()
    event = {"event_name": "streamed", "payload": {"stripe_customer_id": populated.customer().id, "value": "2"}}
    reported = populated.http.post("/v2/billing/meter_events", json=event).json()

    for resource in (session, reported):
        assert object_problems(resource, CLASSES[resource["object"]], resource["object"]) == []
    token = {"Authorization": f"Bearer {session['authentication_token']}"}
    streamed = populated.http.post("/v2/billing/meter_event_stream", json={"events": [event]}, headers=token)
    assert (streamed.status_code, streamed.json()) == (200, {})
    assert populated.http.get("/v1/customers", headers=token).status_code == 401


def test_nested_objects_have_all_fields_of_the_published_example(populated, examples):
    invoice = populated.http.get("/v1/invoices", params={"limit": 1}).json()["data"][0]
    subscription = populated.http.get("/v1/subscriptions", params={"limit": 1}).json()["data"][0]
    for resource in (invoice["lines"]["data"][0], subscription["items"]["data"][0]):
        example = examples[resource["object"]]

        assert (example.keys() & annotations(CLASSES[resource["object"]]).keys()) - resource.keys() == set()


def test_the_api_version_is_the_sdks_own():
    assert stripe.api_version == API_VERSION


def test_the_fake_does_not_import_the_sdk():
    """If the fake used the SDK, its agreement with the SDK would prove nothing."""
    import subprocess  # noqa: PLC0415 - only here

    code = "import sys, paybill_stripe_fake.__main__, paybill_stripe_fake.client; sys.exit('stripe' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def examples():
    root = next(folder for folder in Path(__file__).parents if (folder / "requirements.lock").exists())
    path = root.parent / "shared" / "fixtures" / "stripe" / "stripe-openapi" / "fixtures3.json"
    if not path.exists():
        pytest.skip("Stripe's published examples are not beside the repository (../shared/fixtures/stripe)")
    return json.loads(path.read_text())["resources"]
