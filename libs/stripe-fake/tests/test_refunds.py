"""Refunds, and disputes that are opened and closed."""

import pytest
import stripe
from paybill_stripe_fake.client import FakeControlError


def types(events):
    return [event.type for event in events]


@pytest.fixture
def paid(fake):
    """Returns a charge that paid the first invoice of a subscription."""
    invoice = fake.stripe.invoices.retrieve(fake.subscribe().latest_invoice, {"expand": ["payments"]})
    intent = fake.stripe.payment_intents.retrieve(
        invoice.payments.data[0].payment.payment_intent, {"expand": ["latest_charge"]}
    )
    return intent.latest_charge


def test_every_attempt_records_a_charge(fake):
    subscription = fake.subscribe()
    fake.control.set_payment(subscription.customer, "fail")
    fake.control.renew(subscription.id)

    charges = fake.stripe.charges.list({"customer": subscription.customer}).data
    assert [(charge.status, charge.paid, charge.failure_code) for charge in charges] == [
        ("failed", False, "card_declined"),
        ("succeeded", True, None),
    ]
    assert charges[1].payment_method_details.card.last4 == "4242"


def test_a_charge_is_refunded_in_parts_until_nothing_is_left(fake, paid, refusal):
    part = fake.stripe.refunds.create({"charge": paid.id, "amount": 500, "reason": "requested_by_customer"})
    halfway = fake.stripe.charges.retrieve(paid.id)

    assert (part.status, part.payment_intent, part.currency) == ("succeeded", paid.payment_intent, "usd")
    assert (halfway.amount_refunded, halfway.refunded) == (500, False)
    too_much = {"charge": paid.id, "amount": 1501}
    assert refusal(stripe.InvalidRequestError, fake.stripe.refunds.create, too_much).param == "amount"
    rest = fake.stripe.refunds.create({"payment_intent": paid.payment_intent})
    whole = fake.stripe.charges.retrieve(paid.id, {"expand": ["refunds"]})
    assert (rest.amount, whole.refunded, [one.id for one in whole.refunds]) == (1500, True, [rest.id, part.id])
    again = refusal(stripe.InvalidRequestError, fake.stripe.refunds.create, {"charge": paid.id})
    assert again.code == "charge_already_refunded"
    assert types(fake.events(paid.id)) == ["charge.succeeded", "charge.refunded", "charge.refunded"]
    assert types(fake.events(part.id)) == ["refund.created"]
    assert [one.id for one in fake.stripe.refunds.list({"charge": paid.id}).data] == [rest.id, part.id]
    assert fake.stripe.balance.retrieve().available[0].amount == 0


def test_a_refund_may_fail_later(fake, paid):
    refund = fake.stripe.refunds.create({"charge": paid.id})
    fake.stripe.refunds.update(refund.id, {"metadata": {"a": "1"}})
    assert fake.control.fail_refund(refund.id)["status"] == "failed"

    assert fake.stripe.charges.retrieve(paid.id).amount_refunded == 0
    assert "refund.failed" in types(fake.events(refund.id))
    assert types(fake.events(refund.id)).count("charge.refund.updated") == 2
    with pytest.raises(FakeControlError, match="failed"):
        fake.control.fail_refund(refund.id)


@pytest.mark.parametrize("params", [{}, {"charge": "ch_nothing"}, {"payment_intent": "pi_nothing"}, {"amount": 1}])
def test_a_refund_without_a_charge_is_refused(fake, refusal, params):
    assert refusal(stripe.InvalidRequestError, fake.stripe.refunds.create, params).status == 400


@pytest.mark.parametrize(("outcome", "balance"), [("won", 2000), ("lost", 0)])
def test_a_dispute_withdraws_the_money_until_it_is_won(fake, paid, refusal, outcome, balance):
    dispute = fake.control.dispute(paid.id, reason="subscription_canceled")

    assert (dispute["status"], dispute["amount"], dispute["charge"]) == ("needs_response", 2000, paid.id)
    assert fake.stripe.charges.retrieve(paid.id).disputed
    assert fake.stripe.balance.retrieve().available[0].amount == 0
    refused = refusal(stripe.InvalidRequestError, fake.stripe.refunds.create, {"charge": paid.id})
    assert refused.code == "charge_disputed"
    shown = fake.stripe.disputes.update(dispute["id"], {"evidence": {"uncategorized_text": "They use it."}})
    assert (shown.status, shown.evidence_details.submission_count) == ("under_review", 1)
    assert fake.control.close_dispute(dispute["id"], outcome)["status"] == outcome
    assert fake.stripe.balance.retrieve().available[0].amount == balance
    happened = types(fake.events(dispute["id"]))
    assert happened[:4] == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.updated",
        "charge.dispute.closed",
    ]
    assert happened[4:] == (["charge.dispute.funds_reinstated"] if outcome == "won" else [])
    with pytest.raises(FakeControlError, match="already closed"):
        fake.control.close_dispute(dispute["id"], outcome)


def test_an_inquiry_withdraws_no_money_and_is_only_closed(fake):
    subscription = fake.subscribe("pm_card_createDisputeInquiry")
    [dispute] = fake.stripe.disputes.list().data

    assert (subscription.status, dispute.status) == ("active", "warning_needs_response")
    assert fake.stripe.balance.retrieve().available[0].amount == 2000
    assert fake.control.close_dispute(dispute.id, "won")["status"] == "warning_closed"


def test_a_dispute_is_accepted_by_closing_it_and_found_by_its_payment(fake):
    invoice = fake.subscribe().latest_invoice
    dispute = fake.control.dispute(invoice)
    found = fake.stripe.disputes.list({"payment_intent": dispute["payment_intent"]}).data

    assert [one.id for one in found] == [dispute["id"]]
    assert fake.stripe.disputes.close(dispute["id"]).status == "lost"
    with pytest.raises(FakeControlError, match="disputed already"):
        fake.control.dispute(invoice)


def test_the_invoice_of_a_payment_is_found(fake, paid, refusal):
    params = {"payment": {"type": "payment_intent", "payment_intent": paid.payment_intent}, "status": "paid"}
    [found] = fake.stripe.invoice_payments.list({**params, "expand": ["data.invoice"]}).data

    assert found.invoice.parent.subscription_details.subscription.startswith("sub_")
    assert [one.id for one in fake.stripe.invoice_payments.list({"invoice": found.invoice.id})] == [found.id]
    assert fake.stripe.invoice_payments.list({**params, "status": "open"}).data == []
    unknown = {"payment": {"payment_intent": paid.payment_intent}}
    assert refusal(stripe.InvalidRequestError, fake.stripe.invoice_payments.list, unknown).param == "payment[type]"


def test_a_separate_payment_succeeds_is_declined_or_is_cancelled(fake, refusal):
    create, card = fake.stripe.payment_intents.create, {"payment_method": "pm_card_visa", "confirm": True}
    params = {"amount": 700, "currency": "usd"}
    assert (create({**params, **card}).status, create(params).status) == ("succeeded", "requires_payment_method")
    declined = refusal(stripe.CardError, create, {**params, **card, "payment_method": "pm_card_visa_chargeDeclined"})

    assert declined.code == "card_declined"
    pending = create(params)
    assert fake.stripe.payment_intents.cancel(pending.id).status == "canceled"
    refused = refusal(stripe.InvalidRequestError, fake.stripe.payment_intents.confirm, pending.id, card)
    assert refused.code == "payment_intent_unexpected_state"


def test_a_card_is_created_attached_and_detached(fake, refusal):
    card = fake.stripe.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    customer = fake.customer(card=None)
    fake.stripe.payment_methods.attach(card.id, {"customer": customer.id})
    fake.stripe.customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}})

    assert fake.stripe.payment_methods.detach(card.id).customer is None
    assert fake.stripe.customers.retrieve(customer.id).invoice_settings.default_payment_method is None
    assert refusal(stripe.InvalidRequestError, fake.stripe.payment_methods.detach, card.id).status == 400
    unknown = {"type": "card", "card": {"token": "tok_nothing"}}
    assert refusal(stripe.InvalidRequestError, fake.stripe.payment_methods.create, unknown).param == "card[token]"
