"""Changes within a period: their prorations, and previews that equal the invoices."""

from datetime import timedelta

import pytest
import stripe

MONTH = timedelta(days=32)


def totals(invoice):
    """Returns the parts of an invoice that must equal its preview."""
    lines = [
        (line.amount, line.description, line.period.start, line.period.end, line.quantity) for line in invoice.lines
    ]
    return invoice.total, invoice.amount_due, invoice.starting_balance, invoice.billing_reason, lines


def amounts(invoice):
    return [line.amount for line in invoice.lines.data]


def latest(fake, subscription):
    return fake.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]}).latest_invoice


def test_more_seats_are_charged_for_the_rest_of_the_period_on_the_next_invoice(fake):
    subscription = fake.subscribe()
    at = fake.middle_of(subscription)
    item = subscription["items"].data[0]
    change = {"items": [{"id": item.id, "quantity": 3}], "proration_date": at}
    fake.stripe.subscriptions.update(subscription.id, change)

    pending = fake.stripe.invoice_items.list({"customer": subscription.customer, "pending": True}).data
    assert [(one.amount, one.proration, one.parent.subscription_details.subscription) for one in pending] == [
        (3000, True, subscription.id),
        (-1000, True, subscription.id),
    ]
    assert latest(fake, subscription).id == subscription.latest_invoice
    fake.control.advance_clock(MONTH)
    invoice = latest(fake, subscription)
    assert (invoice.billing_reason, invoice.status, amounts(invoice)) == (
        "subscription_cycle",
        "paid",
        [-1000, 3000, 6000],
    )
    details = [line.parent.subscription_item_details for line in invoice.lines.data]
    assert [one.proration for one in details] == [True, True, False]
    assert {one.subscription_item for one in details} == {item.id}
    assert fake.stripe.invoice_items.list({"pending": True}).data == []


def test_always_invoice_bills_the_difference_at_once(fake):
    subscription = fake.subscribe()
    at = fake.middle_of(subscription)
    dearer = fake.price(5000)
    change = {
        "items": [{"id": subscription["items"].data[0].id, "price": dearer.id}],
        "proration_behavior": "always_invoice",
        "proration_date": at,
    }
    fake.stripe.subscriptions.update(subscription.id, change)

    invoice = latest(fake, subscription)
    assert (invoice.billing_reason, invoice.status, amounts(invoice)) == ("subscription_update", "paid", [-1000, 2500])
    now = fake.stripe.subscriptions.retrieve(subscription.id)["items"].data[0]
    assert now.current_period_end == subscription["items"].data[0].current_period_end


def test_none_charges_nothing_before_the_next_period(fake):
    subscription = fake.subscribe()
    fake.middle_of(subscription)
    change = {"items": [{"id": subscription["items"].data[0].id, "quantity": 2}], "proration_behavior": "none"}
    fake.stripe.subscriptions.update(subscription.id, change)
    fake.control.advance_clock(MONTH)

    assert amounts(latest(fake, subscription)) == [4000]


def test_an_overpayment_stays_as_credit_and_pays_the_next_invoice(fake):
    subscription = fake.subscribe()
    at = fake.middle_of(subscription)
    cheaper = fake.price(400)
    change = {
        "items": [{"id": subscription["items"].data[0].id, "price": cheaper.id}],
        "proration_behavior": "always_invoice",
        "proration_date": at,
    }
    fake.stripe.subscriptions.update(subscription.id, change)

    credit = latest(fake, subscription)
    assert (credit.total, credit.amount_due, credit.ending_balance, credit.status) == (-800, 0, -800, "paid")
    assert fake.stripe.customers.retrieve(subscription.customer).balance == -800
    fake.control.advance_clock(MONTH)
    invoice = latest(fake, subscription)
    assert (invoice.total, invoice.starting_balance, invoice.amount_due, invoice.status) == (400, -800, 0, "paid")
    assert fake.stripe.customers.retrieve(subscription.customer).balance == -400


@pytest.mark.parametrize("behaviour", ["create_prorations", "always_invoice", "none"])
@pytest.mark.parametrize("change", ["quantity", "price", "interval", "added", "removed", "anchor"])
def test_the_preview_of_a_change_equals_its_invoice(fake, behaviour, change):
    first, second = fake.price(), fake.price(700)
    subscription = fake.subscribe(items=[{"price": first.id, "quantity": 2}, {"price": second.id}])
    one, other = (item.id for item in subscription["items"].data)
    at = fake.middle_of(subscription)
    yearly = [fake.price(amount, recurring={"interval": "year"}).id for amount in (20_000, 7000)]
    changes = {
        "quantity": {"items": [{"id": one, "quantity": 5}]},
        "price": {"items": [{"id": one, "price": fake.price(3333).id}]},
        "interval": {"items": [{"id": one, "price": yearly[0]}, {"id": other, "price": yearly[1]}]},
        "added": {"items": [{"price": fake.price(900).id, "quantity": 4}]},
        "removed": {"items": [{"id": other, "deleted": True}]},
        "anchor": {"billing_cycle_anchor": {"type": "now"}},
    }[change] | {"proration_behavior": behaviour, "proration_date": at}
    before = fake.newest_event()
    preview = fake.stripe.invoices.create_preview({"subscription": subscription.id, "subscription_details": changes})

    assert fake.events(since=before) == []
    assert fake.stripe.subscriptions.retrieve(subscription.id).to_dict() == subscription.to_dict()
    assert preview.id.startswith("upcoming_in_")
    updated = fake.stripe.subscriptions.update(subscription.id, changes)
    if updated.latest_invoice == subscription.latest_invoice:
        fake.control.advance_clock(MONTH)
    billed, shown = totals(latest(fake, subscription)), totals(preview)
    if change in {"interval", "anchor"}:
        # The new period begins at the second of the request.
        assert (billed[:4], [line[:2] for line in billed[4]]) == (shown[:4], [line[:2] for line in shown[4]])
    else:
        assert billed == shown


def test_a_preview_without_changes_is_the_next_renewal(fake):
    subscription = fake.subscribe(items=[{"price": fake.price().id, "quantity": 3}])
    preview = fake.stripe.invoices.create_preview({"subscription": subscription.id})
    fake.control.advance_clock(MONTH)

    assert totals(latest(fake, subscription)) == totals(preview)
    assert preview.created == subscription["items"].data[0].current_period_end
    assert (preview.status, preview.number) == ("draft", None)


def test_the_preview_of_a_trial_is_the_first_paid_period(fake):
    subscription = fake.subscribe(trial_period_days=10)

    assert fake.stripe.invoices.create_preview({"subscription": subscription.id}).total == 2000


def test_the_preview_of_a_cancellation_is_the_credit_or_nothing(fake, refusal):
    subscription = fake.subscribe()
    at = fake.middle_of(subscription)
    now = {"subscription": subscription.id, "subscription_details": {"cancel_now": True}}
    at_end = {"subscription": subscription.id, "subscription_details": {"cancel_at_period_end": True}}

    assert fake.stripe.invoices.create_preview(now).total in range(-1000, -990)
    none = refusal(stripe.InvalidRequestError, fake.stripe.invoices.create_preview, at_end)
    assert (none.status, none.code) == (404, "invoice_upcoming_none")
    ended = fake.stripe.subscriptions.cancel(subscription.id, {"prorate": True, "invoice_now": True})
    last = fake.stripe.invoices.retrieve(ended.latest_invoice)
    assert last.total in range(-1000, -990)
    assert last.lines.data[0].period.start >= at


def test_a_new_subscription_is_previewed(fake):
    customer = fake.customer()
    changes = {"customer": customer.id, "subscription_details": {"items": [{"price": fake.price().id, "quantity": 2}]}}

    assert fake.stripe.invoices.create_preview(changes).total == 4000
    assert fake.stripe.subscriptions.list({"status": "all"}).data == []


def test_items_change_through_their_own_api(fake, refusal):
    subscription = fake.subscribe()
    at = fake.middle_of(subscription)
    items, more = fake.stripe.subscription_items, fake.price(600)
    added = items.create({"subscription": subscription.id, "price": more.id, "quantity": 2, "proration_date": at})
    changed = items.update(added.id, {"quantity": 5, "proration_behavior": "none", "metadata": {"a": "1"}})

    assert (changed.quantity, changed.metadata.to_dict()) == (5, {"a": "1"})
    assert [item.id for item in items.list({"subscription": subscription.id})] == [
        subscription["items"].data[0].id,
        added.id,
    ]
    assert items.retrieve(added.id).price.id == more.id
    items.delete(added.id, {"proration_behavior": "none"})
    pending = fake.stripe.invoice_items.list({"pending": True}).data
    assert [one.amount for one in pending] == [600]
    assert refusal(stripe.InvalidRequestError, items.delete, subscription["items"].data[0].id).param == "items"
    assert refusal(stripe.InvalidRequestError, items.retrieve, added.id).status == 404


def test_a_change_that_must_be_paid_is_rolled_back_when_declined(fake, refusal):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    change = {
        "items": [{"id": subscription["items"].data[0].id, "quantity": 9}],
        "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
    }

    refused = refusal(stripe.CardError, fake.stripe.subscriptions.update, subscription.id, change)
    assert refused.code == "card_declined"
    assert fake.stripe.subscriptions.retrieve(subscription.id).to_dict() == subscription.to_dict()
    lenient = fake.stripe.subscriptions.update(subscription.id, {**change, "payment_behavior": "allow_incomplete"})
    assert (lenient.status, lenient["items"].data[0].quantity) == ("past_due", 9)


def test_a_proration_date_outside_the_period_is_refused(fake, refusal):
    subscription = fake.subscribe()
    change = {"items": [{"id": subscription["items"].data[0].id, "quantity": 9}], "proration_date": 1}

    refused = refusal(stripe.InvalidRequestError, fake.stripe.subscriptions.update, subscription.id, change)
    assert refused.param == "proration_date"


def test_a_free_subscription_is_active_without_a_payment(fake):
    assert fake.subscribe(items=[{"price": fake.price(0).id}]).status == "active"


def test_a_manual_item_is_on_the_next_invoice(fake):
    subscription = fake.subscribe()
    item = {"customer": subscription.customer, "amount": 500, "currency": "usd", "description": "Setup"}
    fake.stripe.invoice_items.create(item)
    fake.control.renew(subscription.id)

    invoice = latest(fake, subscription)
    assert [(line.amount, line.description) for line in invoice.lines.data] == [(500, "Setup"), (2000, "1 x Team")]


def test_a_manual_invoice_goes_from_draft_to_paid_void_or_uncollectible(fake, refusal):
    customer, invoices = fake.customer(), fake.stripe.invoices

    def drafted():
        fake.stripe.invoice_items.create({"customer": customer.id, "amount": 500, "currency": "usd"})
        return invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})

    assert (drafted().total, invoices.pay(drafted().id).status) == (500, "paid")
    opened = invoices.finalize_invoice(drafted().id)
    assert (opened.status, opened.parent, opened.amount_due) == ("open", None, 500)
    assert invoices.void_invoice(opened.id).status == "void"
    assert invoices.mark_uncollectible(invoices.finalize_invoice(drafted().id).id).status == "uncollectible"
    assert refusal(stripe.InvalidRequestError, invoices.pay, opened.id).code == "invoice_not_editable"
    deleted = drafted()
    invoices.delete(deleted.id)
    assert refusal(stripe.InvalidRequestError, invoices.retrieve, deleted.id).status == 404
    assert [item.amount for item in fake.stripe.invoice_items.list({"pending": True}).data] == [500]
    late = invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "exclude"})
    fake.stripe.invoice_items.create({"customer": customer.id, "amount": 70, "currency": "usd", "invoice": late.id})
    assert invoices.finalize_invoice(late.id).total == 70


def test_a_void_invoice_returns_the_credit_that_it_used(fake):
    customer, invoices = fake.customer(), fake.stripe.invoices
    amounts_due = []
    for amount in (-800, 1000):
        fake.stripe.invoice_items.create({"customer": customer.id, "amount": amount, "currency": "usd"})
        draft = invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
        amounts_due.append(invoices.finalize_invoice(draft.id).amount_due)

    before = fake.stripe.customers.retrieve(customer.id).balance
    invoices.void_invoice(draft.id)

    assert (amounts_due, before) == ([0, 200], 0)
    assert fake.stripe.customers.retrieve(customer.id).balance == -800


def test_a_person_sets_the_balance_of_a_customer_and_the_next_invoice_adds_it(fake):
    subscription = fake.subscribe()
    fake.stripe.customers.update(subscription.customer, {"balance": 300})
    fake.control.renew(subscription.id)

    invoice = latest(fake, subscription)
    assert (invoice.starting_balance, invoice.amount_due, invoice.ending_balance) == (300, 2300, 0)
