"""Payments that failed, went back or are disputed are told once each."""

from dataclasses import replace

import pytest
from billing_samples import DAY, EUR_20, NOW, TENANT
from paybill_billing.providers.port.snapshots import CollectionAttempt, Dispute, Refund
from paybill_billing.subscriptions.domain import payments
from paybill_billing.subscriptions.domain.payments import Kind, Payer, PaymentOrderError
from paybill_contracts.payments import DisputeClosed, DisputeOutcome, PaymentDisputed, PaymentRefunded

ATTEMPT = CollectionAttempt(event="evt_1", invoice="in_1", amount=EUR_20, number=2)
SUBSCRIPTION = "sub_" + "a" * 32
PAYER = Payer(TENANT, "stripe", SUBSCRIPTION, "in_1")
REFUND = Refund("re_1", EUR_20, "duplicate")
DISPUTE = Dispute("du_1", EUR_20, "fraudulent", NOW + 9 * DAY, None)


def told(payment, returned, payer=PAYER):
    said = payments.record_return(payment, returned, payer)
    for event in said:
        payment = payments.evolve(payment, event)
    return payment, [type(event) for event in said]


def test_the_same_event_twice_is_one_failure():
    (said,) = payments.fail(None, ATTEMPT, tenant_id=TENANT, subscription_id=SUBSCRIPTION)
    state = payments.evolve(None, said)

    assert (state.id, state.attempt, state.amount, state.kind) == ("evt_1", 2, EUR_20, Kind.FAILED)
    assert payments.fail(state, ATTEMPT, tenant_id=TENANT, subscription_id=SUBSCRIPTION) == []


def test_a_refund_is_told_once():
    refunded, said = told(None, REFUND)

    assert said == [PaymentRefunded]
    assert (refunded.id, refunded.kind, refunded.subscription_id) == ("re_1", Kind.REFUNDED, SUBSCRIPTION)
    assert told(refunded, REFUND) == (refunded, [])


def test_a_dispute_is_told_when_it_is_opened_and_when_it_is_closed():
    opened, first = told(None, DISPUTE)
    closed, then = told(opened, replace(DISPUTE, outcome=DisputeOutcome.LOST))

    assert (first, then) == ([PaymentDisputed], [DisputeClosed])
    assert (opened.outcome, closed.outcome) == (None, DisputeOutcome.LOST)
    assert told(opened, DISPUTE) == (opened, [])
    assert told(closed, replace(DISPUTE, outcome=DisputeOutcome.LOST)) == (closed, [])


def test_a_dispute_that_is_seen_when_it_is_closed_was_opened_too():
    assert told(None, replace(DISPUTE, outcome=DisputeOutcome.WON))[1] == [PaymentDisputed, DisputeClosed]


def test_an_older_view_of_a_closed_dispute_does_not_open_it_again():
    closed, _ = told(None, replace(DISPUTE, outcome=DisputeOutcome.WON))

    assert told(closed, DISPUTE) == (closed, [])


def test_what_was_paid_for_may_be_unknown():
    (said,) = payments.record_return(None, REFUND, Payer(TENANT, "stripe", None, None))

    assert (said.tenant_id, said.subscription_id, said.invoice) == (TENANT, None, None)


def test_only_a_dispute_can_be_closed():
    _, closed = payments.record_return(None, replace(DISPUTE, outcome=DisputeOutcome.WON), PAYER)

    with pytest.raises(PaymentOrderError):
        payments.evolve(None, closed)
