"""Failed, refunded and disputed payments are recorded once each."""

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


def record(payment, reversal, payer=PAYER):
    events = payments.record_reversal(payment, reversal, payer)
    for event in events:
        payment = payments.evolve(payment, event)
    return payment, [type(event) for event in events]


def test_a_failure_is_recorded_once_for_a_repeated_event():
    (event,) = payments.record_failure(None, ATTEMPT, tenant_id=TENANT, subscription_id=SUBSCRIPTION)
    state = payments.evolve(None, event)

    assert (state.id, state.attempt, state.amount, state.kind) == ("evt_1", 2, EUR_20, Kind.FAILED)
    assert payments.record_failure(state, ATTEMPT, tenant_id=TENANT, subscription_id=SUBSCRIPTION) == []


def test_a_refund_is_recorded_once():
    refunded, events = record(None, REFUND)

    assert events == [PaymentRefunded]
    assert (refunded.id, refunded.kind, refunded.subscription_id) == ("re_1", Kind.REFUNDED, SUBSCRIPTION)
    assert record(refunded, REFUND) == (refunded, [])


def test_a_dispute_is_recorded_when_it_opens_and_when_it_closes():
    opened, first = record(None, DISPUTE)
    closed, then = record(opened, replace(DISPUTE, outcome=DisputeOutcome.LOST))

    assert (first, then) == ([PaymentDisputed], [DisputeClosed])
    assert (opened.outcome, closed.outcome) == (None, DisputeOutcome.LOST)
    assert record(opened, DISPUTE) == (opened, [])
    assert record(closed, replace(DISPUTE, outcome=DisputeOutcome.LOST)) == (closed, [])


def test_a_dispute_first_fetched_when_closed_is_recorded_as_opened_and_closed():
    assert record(None, replace(DISPUTE, outcome=DisputeOutcome.WON))[1] == [PaymentDisputed, DisputeClosed]


def test_an_older_snapshot_of_a_closed_dispute_changes_nothing():
    closed, _ = record(None, replace(DISPUTE, outcome=DisputeOutcome.WON))

    assert record(closed, DISPUTE) == (closed, [])


def test_a_refund_may_have_no_subscription_and_no_invoice():
    (event,) = payments.record_reversal(None, REFUND, Payer(TENANT, "stripe", None, None))

    assert (event.tenant_id, event.subscription_id, event.invoice) == (TENANT, None, None)


def test_closing_a_dispute_that_was_never_opened_is_refused():
    _, closed = payments.record_reversal(None, replace(DISPUTE, outcome=DisputeOutcome.WON), PAYER)

    with pytest.raises(PaymentOrderError):
        payments.evolve(None, closed)
