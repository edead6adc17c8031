"""Checkout: a person or a program pays on the session's page, and a subscription begins."""

from datetime import timedelta

import httpx
import pytest
import stripe
from paybill_stripe_fake.client import FakeControlError

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def types(events):
    return [event.type for event in events]


def test_a_paid_session_is_complete_and_is_not_paid_again(fake):
    session = fake.checkout(customer=fake.customer(card=None).id)
    before = fake.control.checkout(session.id)["status"]
    fake.control.pay_checkout(session.id)

    assert (before, fake.control.checkout(session.id)["status"]) == ("open", "complete")
    with pytest.raises(FakeControlError, match="this one is complete"):
        fake.control.pay_checkout(session.id)


def test_paying_starts_a_subscription_and_emits_events_in_stripes_order(fake):
    price = fake.price()
    customer = fake.customer(card=None)
    session = fake.checkout(
        customer=customer.id,
        line_items=[{"price": price.id, "quantity": 3}],
        client_reference_id="tenant-1",
        metadata={"from": "signup"},
        subscription_data={"metadata": {"tenant": "tenant-1"}, "description": "Team plan"},
    )
    newest = fake.newest_event()
    paid = fake.control.pay_checkout(session.id)

    assert (paid["status"], paid["payment_status"], paid["url"]) == ("complete", "paid", None)
    assert (paid["client_reference_id"], paid["metadata"]) == ("tenant-1", {"from": "signup"})
    subscription = fake.stripe.subscriptions.retrieve(paid["subscription"], {"expand": ["latest_invoice"]})
    [item] = subscription["items"].data
    assert (subscription.status, subscription.customer) == ("active", customer.id)
    assert subscription.metadata.to_dict() == {"tenant": "tenant-1"}
    assert (item.price.id, item.quantity) == (price.id, 3)
    assert 28 <= (item.current_period_end - item.current_period_start) / 86_400 <= 31
    assert (subscription.latest_invoice.status, subscription.latest_invoice.amount_paid) == ("paid", 6000)
    assert subscription.latest_invoice.parent.subscription_details.subscription == subscription.id
    assert subscription.latest_invoice.parent.subscription_details.metadata.to_dict() == {"tenant": "tenant-1"}
    assert types(fake.events(since=newest)) == [
        "payment_method.attached",
        "customer.updated",
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]
    created, updated = fake.events(subscription.id)
    assert created.data.object["status"] == "incomplete"
    assert updated.data.object["status"] == "active"
    assert updated.data.previous_attributes.to_dict() == {"status": "incomplete"}


def test_a_declined_card_leaves_the_session_open_for_another(fake):
    session = fake.checkout(customer=fake.customer(card=None).id)
    declined = fake.control.pay_checkout(session.id, "fail")

    assert (declined["status"], declined["payment_status"], declined["subscription"]) == ("open", "unpaid", None)
    failed = fake.stripe.payment_intents.list({"customer": session.customer}).data[0]
    assert (failed.status, failed.last_payment_error.code) == ("requires_payment_method", "card_declined")
    assert fake.control.pay_checkout(session.id)["status"] == "complete"


def test_checkout_creates_a_customer_if_none_is_passed(fake):
    session = fake.checkout(customer_email="new@example.com")
    paid = fake.control.pay_checkout(session.id)

    assert (session.customer, session.customer_creation) == (None, "always")
    assert fake.stripe.customers.retrieve(paid["customer"]).email == "new@example.com"
    assert paid["customer_details"]["email"] == "new@example.com"


def test_a_trial_costs_nothing_today(fake):
    session = fake.checkout(subscription_data={"trial_period_days": 14})
    paid = fake.control.pay_checkout(session.id)

    subscription = fake.stripe.subscriptions.retrieve(paid["subscription"])
    assert (session.amount_total, paid["payment_status"]) == (0, "no_payment_required")
    assert subscription.status == "trialing"
    assert subscription["items"].data[0].current_period_end == subscription.trial_end


def test_a_paid_or_expired_session_cannot_be_paid(fake, refusal):
    complete, expired = fake.checkout(), fake.checkout()
    fake.control.pay_checkout(complete.id)
    fake.stripe.checkout.sessions.expire(expired.id)

    for session in (complete, expired):
        answer = httpx.post(f"{session.url}/pay", json={"outcome": "succeed"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        refusal(stripe.InvalidRequestError, fake.stripe.checkout.sessions.expire, session.id)
    assert types(fake.events(expired.id)) == ["checkout.session.expired"]


def test_a_session_expires_automatically(fake):
    session = fake.checkout()
    fake.control.advance_clock(timedelta(days=1))

    assert fake.stripe.checkout.sessions.retrieve(session.id).status == "expired"


def test_line_items_are_listed_and_expanded(fake):
    session = fake.checkout(expand=["line_items"])

    [line] = fake.stripe.checkout.sessions.line_items.list(session.id).data
    assert session.line_items.data == [line]
    assert (line.description, line.amount_total) == ("Team", 2000)


def test_a_price_may_be_passed_as_data(fake):
    data = {"currency": "usd", "unit_amount": 700, "recurring": {"interval": "week"}, "product_data": {"name": "Wk"}}
    session = fake.checkout(line_items=[{"price_data": data, "quantity": 2}])

    assert session.amount_total == 1400


@pytest.mark.parametrize(
    "more",
    [
        {"line_items": [{"quantity": 1}]},
        {"customer": "cus_nobody"},
        {"success_url": "javascript:alert(1)"},
        {"ui_mode": "embedded_page"},
        {"mode": "setup"},
        {"expires_at": 1},
        {"customer_email": "a@b.c", "customer": "cus_nobody"},
        {"payment_method_types": ["sepa_debit"]},
    ],
)
def test_a_session_that_could_not_be_paid_is_refused(fake, refusal, more):
    assert refusal(stripe.InvalidRequestError, lambda: fake.checkout(**more)).status == 400


def test_one_time_and_inactive_prices_are_refused(fake, refusal):
    one_time = fake.stripe.prices.create({"currency": "usd", "unit_amount": 1, "product_data": {"name": "Once"}})
    inactive = fake.price(active=False)

    for price in (one_time, inactive):
        refused = refusal(stripe.InvalidRequestError, lambda: fake.checkout(line_items=[{"price": price.id}]))  # noqa: B023
        assert refused.param == "line_items[0][price]"


def test_the_page_shows_the_price_and_pays_by_a_button(fake):
    product = fake.stripe.products.create({"name": "<script>alert(1)</script>"})
    price = fake.stripe.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 123456, "recurring": {"interval": "month"}}
    )
    session = fake.checkout(
        line_items=[{"price": price.id, "quantity": 1}],
        success_url="https://example.com/done?session={CHECKOUT_SESSION_ID}",
        cancel_url="https://example.com/back",
    )
    page = httpx.get(session.url, headers=BROWSER)

    assert "1,234.56 USD" in page.text
    assert "<script>" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    declined = httpx.post(f"{session.url}/pay", data={"outcome": "fail"}, headers=BROWSER)
    assert (declined.status_code, "declined" in declined.text) == (402, True)
    paid = httpx.post(f"{session.url}/pay", data={"outcome": "succeed"}, headers=BROWSER)
    assert paid.status_code == 303
    assert paid.headers["Location"] == f"https://example.com/done?session={session.id}"
    again = httpx.post(f"{session.url}/pay", data={"outcome": "succeed"}, headers=BROWSER)
    assert (again.status_code, "Thank you" in again.text) == (200, True)
    assert "Thank you" in httpx.get(session.url).text


def test_the_page_of_an_unknown_session_is_a_404(fake):
    assert httpx.get(f"{fake.url}/fake/checkout/cs_test_nothing").status_code == 404
    assert httpx.post(f"{fake.url}/fake/checkout/cs_test_nothing/pay", json={"outcome": "succeed"}).status_code == 404


def test_an_outcome_is_succeed_or_fail(fake):
    session = fake.checkout()

    for body in ({}, {"outcome": "maybe"}, {"outcome": "succeed", "more": "x"}):
        assert httpx.post(f"{session.url}/pay", json=body).status_code == 400
    assert fake.stripe.checkout.sessions.retrieve(session.id).status == "open"
