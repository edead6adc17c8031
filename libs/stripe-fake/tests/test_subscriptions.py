"""Subscriptions created, changed and ended through the API."""

import pytest
import stripe


def types(events):
    return [event.type for event in events]


def test_a_valid_card_makes_it_active_at_once(fake):
    subscription = fake.subscribe(metadata={"tenant": "t"}, expand=["latest_invoice"])

    assert (subscription.status, subscription.latest_invoice.status) == ("active", "paid")
    assert types(fake.events(subscription.id)) == ["customer.subscription.created", "customer.subscription.updated"]


def test_a_declined_first_payment_leaves_it_incomplete_until_paid(fake):
    subscription = fake.subscribe("pm_card_chargeCustomerFail", expand=["latest_invoice"])

    invoice = subscription.latest_invoice
    assert (subscription.status, invoice.status, invoice.next_payment_attempt) == ("incomplete", "open", None)
    assert "invoice.payment_failed" in types(fake.events(invoice.id))
    fake.control.set_payment(subscription.customer, "succeed")
    assert fake.stripe.invoices.pay(invoice.id).status == "paid"
    assert fake.stripe.subscriptions.retrieve(subscription.id).status == "active"


def test_a_first_payment_that_must_succeed_leaves_nothing_when_declined(fake, refusal):
    customer = fake.customer("pm_card_chargeCustomerFail")
    params = {
        "customer": customer.id,
        "items": [{"price": fake.price().id}],
        "payment_behavior": "error_if_incomplete",
    }
    newest = fake.newest_event()

    refused = refusal(stripe.CardError, fake.stripe.subscriptions.create, params)
    assert (refused.status, refused.code) == (402, "card_declined")
    assert fake.stripe.subscriptions.list({"customer": customer.id, "status": "all"}).data == []
    assert fake.events(since=newest) == []


def test_a_first_payment_can_be_deferred(fake):
    subscription = fake.subscribe(card=None, payment_behavior="default_incomplete", expand=["latest_invoice"])

    assert (subscription.status, subscription.latest_invoice.attempted) == ("incomplete", False)


def test_without_a_card_there_is_no_subscription(fake, refusal):
    assert refusal(stripe.InvalidRequestError, lambda: fake.subscribe(card=None)).code == "resource_missing"


def test_a_card_that_is_declined_at_once_is_not_attached(fake, refusal):
    customer = fake.customer(card=None)
    attach = fake.stripe.payment_methods.attach

    assert refusal(stripe.CardError, attach, "pm_card_chargeDeclined", {"customer": customer.id}).status == 402
    assert refusal(stripe.InvalidRequestError, attach, "pm_unknown", {"customer": customer.id}).status == 400
    attached = attach("pm_card_visa", {"customer": customer.id})
    listed = fake.stripe.payment_methods.list({"customer": customer.id}).data
    assert [card.id for card in listed] == [attached.id]
    subscription = fake.stripe.subscriptions.create(
        {"customer": customer.id, "items": [{"price": fake.price().id}], "default_payment_method": attached.id}
    )
    assert subscription.default_payment_method == attached.id


def test_seats_plans_and_labels_change_and_events_hold_the_old_values(fake):
    subscription = fake.subscribe(metadata={"kept": "1", "gone": "2"})
    item, dearer = subscription["items"].data[0], fake.price(5000)
    changed = fake.stripe.subscriptions.update(
        subscription.id,
        {
            "items": [{"id": item.id, "price": dearer.id, "quantity": 7}],
            "metadata": {"gone": "", "new": "3"},
            "proration_behavior": "none",
        },
    )

    [now] = changed["items"].data
    assert (now.id, now.price.id, now.plan.amount, now.quantity) == (item.id, dearer.id, 5000, 7)
    assert changed.metadata.to_dict() == {"kept": "1", "new": "3"}
    previous = fake.events(subscription.id)[-1].data.previous_attributes.to_dict()
    assert previous["metadata"] == {"gone": "2", "new": None}
    assert previous["items"]["data"][0]["quantity"] == 1
    assert now.current_period_end == item.current_period_end


def test_items_are_added_and_removed(fake, refusal):
    subscription, more = fake.subscribe(), fake.price(300)
    update = fake.stripe.subscriptions.update
    added = update(subscription.id, {"items": [{"price": more.id, "quantity": 0}]})

    assert [item.quantity for item in added["items"].data] == [1, 0]
    removed = update(subscription.id, {"items": [{"id": added["items"].data[0].id, "deleted": True}]})
    assert [item.price.id for item in removed["items"].data] == [more.id]
    last = {"items": [{"id": removed["items"].data[0].id, "deleted": True}]}
    assert refusal(stripe.InvalidRequestError, update, subscription.id, last).status == 400
    unknown = {"items": [{"id": "si_unknown", "quantity": 1}]}
    assert refusal(stripe.InvalidRequestError, update, subscription.id, unknown).param == "items[0][id]"


def test_another_interval_starts_a_new_period_and_bills_it(fake):
    subscription, yearly = fake.subscribe(), fake.price(20_000, recurring={"interval": "year"})
    item = subscription["items"].data[0]
    change = {"items": [{"id": item.id, "price": yearly.id}], "proration_date": item.current_period_start}
    params = {**change, "expand": ["latest_invoice"]}
    changed = fake.stripe.subscriptions.update(subscription.id, params)

    [now] = changed["items"].data
    assert now.current_period_end - now.current_period_start >= 365 * 86_400
    assert changed.latest_invoice.id != subscription.latest_invoice
    invoice = changed.latest_invoice
    assert (invoice.billing_reason, invoice.total, invoice.status) == ("subscription_update", 18_000, "paid")
    assert [line.amount for line in invoice.lines.data] == [-2000, 20_000]


def test_prices_of_different_interval_or_currency_are_refused(fake, refusal):
    monthly, yearly, euros = fake.price(), fake.price(recurring={"interval": "year"}), fake.price(currency="eur")

    for other in (yearly, euros):
        items = [{"price": monthly.id}, {"price": other.id}]
        assert refusal(stripe.InvalidRequestError, lambda: fake.subscribe(items=items)).param == "items"  # noqa: B023
    customer = fake.subscribe().customer
    params = {"customer": customer, "items": [{"price": euros.id}]}
    assert refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.create, params).status == 400


def test_a_cancellation_can_be_scheduled_at_period_end_and_removed(fake):
    subscription = fake.subscribe()
    update = fake.stripe.subscriptions.update
    ending = update(
        subscription.id,
        {"cancel_at_period_end": True, "cancellation_details": {"feedback": "too_complex", "comment": "Hm"}},
    )

    assert (ending.status, ending.cancel_at_period_end) == ("active", True)
    assert ending.cancel_at == ending["items"].data[0].current_period_end
    assert ending.canceled_at is not None
    details = {"comment": "Hm", "feedback": "too_complex", "reason": "cancellation_requested"}
    assert ending.cancellation_details.to_dict() == details
    going_on = update(subscription.id, {"cancel_at_period_end": False})
    assert (going_on.cancel_at, going_on.canceled_at, going_on.cancellation_details.reason) == (None, None, None)


def test_cancelling_ends_it_now_and_permanently(fake, refusal):
    subscription = fake.subscribe()
    ended = fake.stripe.subscriptions.cancel(subscription.id, {"cancellation_details": {"comment": "Bye"}})

    assert (ended.status, ended.ended_at) == ("canceled", ended.canceled_at)
    assert ended.cancellation_details.to_dict()["reason"] == "cancellation_requested"
    assert types(fake.events(subscription.id))[-1] == "customer.subscription.deleted"
    again = refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.cancel, subscription.id)
    assert (again.status, again.code) == (404, "resource_missing")
    params = {"cancel_at_period_end": True}
    refused = refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.update, subscription.id, params)
    assert refused.code == "invalid_canceled_subscription_fields"
    labelled = fake.stripe.subscriptions.update(subscription.id, {"metadata": {"why": "moved"}})
    assert labelled.metadata.to_dict() == {"why": "moved"}
    paying = refusal(stripe.InvalidRequestError, fake.stripe.invoices.pay, subscription.latest_invoice)
    assert "already paid" in paying.text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, ["active"]),
        ("active", ["active"]),
        ("canceled", ["canceled"]),
        ("ended", ["canceled"]),
        ("all", ["canceled", "active"]),
    ],
)
def test_ended_subscriptions_are_listed_only_on_request(fake, status, expected):
    first = fake.subscribe()
    items = [{"price": first["items"].data[0].price.id}]
    second = fake.stripe.subscriptions.create({"customer": first.customer, "items": items})
    fake.stripe.subscriptions.cancel(second.id)
    params = {"customer": first.customer, "price": items[0]["price"], **({"status": status} if status else {})}

    assert [found.status for found in fake.stripe.subscriptions.list(params).data] == expected


def test_all_subscriptions_are_paged_with_their_latest_invoices(fake):
    price = fake.price()
    made = [fake.subscribe(items=[{"price": price.id}]).id for _ in range(5)]
    fake.stripe.subscriptions.cancel(made[2])
    params = {"status": "all", "limit": 2, "expand": ["data.latest_invoice"]}
    first = fake.stripe.subscriptions.list(params)
    second = fake.stripe.subscriptions.list({**params, "starting_after": first.data[-1].id})

    assert [held.id for held in [*first.data, *second.data]] == made[:0:-1]
    walked = list(first.auto_paging_iter())
    assert [held.id for held in walked] == made[::-1]
    assert {held.latest_invoice.status for held in walked} == {"paid"}


def test_more_than_ten_items_and_lines_are_served_at_their_own_url(webhook_fake, receiver):
    items = [{"price": webhook_fake.price(100 + number).id} for number in range(12)]
    subscription = webhook_fake.subscribe(items=items, expand=["latest_invoice"])
    webhook_fake.control.wait_delivered()

    for shown in (subscription["items"], subscription.latest_invoice.lines):
        assert (len(shown.data), shown.has_more) == (10, True)
    assert len(list(subscription["items"].auto_paging_iter())) == 12
    assert len(list(webhook_fake.stripe.invoices.line_items.list(subscription.latest_invoice.id, {"limit": 100}))) == 12
    sent = next(event for event in receiver.received if event["type"] == "customer.subscription.created")
    assert len(sent["data"]["object"]["items"]["data"]) == 10
    preview = webhook_fake.stripe.invoices.create_preview({"subscription": subscription.id})
    assert len(preview.lines.data) == 12


def test_a_change_during_a_pause_costs_nothing_until_it_is_resumed(fake):
    subscription = fake.subscribe()
    fake.stripe.subscriptions.pause(subscription.id, {"bill_for": {"unused_time_from": {"type": "none"}}})
    change = {"items": [{"id": subscription["items"].data[0].id, "quantity": 4}]}
    fake.stripe.subscriptions.update(subscription.id, change)

    assert fake.stripe.invoice_items.list().data == []
    resumed = fake.stripe.subscriptions.resume(subscription.id, {"expand": ["latest_invoice"]})
    assert resumed.latest_invoice.total == 8000


def test_an_update_without_a_change_emits_no_event(fake):
    subscription = fake.subscribe(metadata={"a": "1"})
    newest = fake.newest_event()
    fake.stripe.subscriptions.update(subscription.id, {"metadata": {"a": "1"}})

    assert fake.events(since=newest) == []


@pytest.mark.parametrize(
    "more",
    [
        {"items": []},
        {"items": [{"quantity": 1}]},
        {"items": [{"price": "price_nothing"}]},
        {"collection_method": "send_invoice"},
        {"payment_behavior": "hope"},
        {"trial_period_days": 731},
        {"trial_end": 1},
        {"default_payment_method": "pm_nothing"},
        {"coupon": "FREE"},
    ],
)
def test_an_invalid_subscription_is_refused_and_changes_nothing(fake, refusal, more):
    customer = fake.customer()
    params = {"customer": customer.id, "items": [{"price": fake.price().id}], **more}

    assert refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.create, params).status == 400
    assert fake.stripe.subscriptions.list({"customer": customer.id, "status": "all"}).data == []
