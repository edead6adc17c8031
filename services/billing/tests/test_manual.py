"""Rules of manual contracts: orders, renewals, overdue invoices, payments and cancellations."""

import pytest
from billing_samples import DAY, NOW, TENANT
from manual_samples import ACTIVE, QUOTED, accepted, at, fold, paid, statuses, terms
from paybill_billing.providers.manual.domain import contracts, manual
from paybill_billing.providers.manual.domain.contracts import (
    MAX_OPEN,
    ContractNotRunningError,
    ContractRunsError,
    InvoiceSettledError,
    NoValidOfferError,
    TermsError,
    TooManyInvoicesError,
    UnknownInvoiceError,
    terms_of,
)
from paybill_billing.providers.manual.effects import snapshot_of
from paybill_contracts.catalogue import Interval, Price
from paybill_contracts.manual import ContractStatus
from paybill_contracts.money import Money


def test_an_order_starts_a_contract_with_access_and_an_invoice():
    (invoice,) = ACTIVE.invoices

    assert ACTIVE.contract.status is ContractStatus.ACTIVE
    assert (ACTIVE.contract.order, ACTIVE.offer) == ("PO 7", None)
    assert (invoice.total.minor, invoice.due_at) == (3100, NOW + 30 * DAY)
    assert invoice.covers_until == ACTIVE.contract.period_end
    assert invoice.invoice_id == f"inv_{TENANT[4:]}_1"


def test_the_terms_of_an_order_may_differ_from_the_quotation():
    state = accepted(terms(9900, quantity=5, interval=Interval.YEAR), payment_days=14)

    assert state.invoices[0].total.minor == 49500
    assert state.invoices[0].due_at == NOW + 14 * DAY
    assert (state.contract.period_end - NOW).days == 365


def test_a_repeated_order_is_idempotent_and_another_order_is_refused():
    same = {"terms": terms(), "payment_days": 30, "trial_days": 0, "now": NOW}

    assert manual.accept(ACTIVE, order="PO 7", **same) == []
    with pytest.raises(ContractRunsError):
        manual.accept(ACTIVE, order="PO 8", **same)
    with pytest.raises(ContractRunsError):
        manual.offer(ACTIVE, TENANT, terms(), NOW)


def test_an_expired_quotation_cannot_be_ordered():
    with pytest.raises(NoValidOfferError):
        accepted(at=NOW + 31 * DAY)


def test_a_trial_gives_access_and_its_end_starts_the_first_period():
    state = accepted(trial_days=14)
    after = at(state, NOW + 14 * DAY)

    assert (state.contract.status, state.invoices) == (ContractStatus.TRIALING, ())
    assert after.contract.status is ContractStatus.ACTIVE
    assert after.contract.period_start == NOW + 14 * DAY
    assert statuses(after) == ["open"]


def test_the_end_of_a_period_starts_the_next_with_its_invoice():
    state = at(paid(ACTIVE), NOW + 70 * DAY)

    assert state.contract.period_start == NOW.replace(month=5)
    assert [invoice.covers_until for invoice in state.invoices] == [NOW.replace(month=month) for month in (4, 5, 6)]


def test_an_invoice_is_overdue_after_its_due_date_and_a_payment_settles_it():
    state = at(ACTIVE, NOW + 30 * DAY)
    after = paid(state, moment=NOW + 33 * DAY)

    assert statuses(state) == ["overdue"]
    assert statuses(after) == ["paid"]
    assert (state.paid_until, after.paid_until) == (None, NOW.replace(month=4))
    assert after.invoices[0].reference == "bank 1"


def test_payments_and_voids_are_idempotent_and_final():
    state = paid(ACTIVE)
    voided = fold(ACTIVE, manual.void(ACTIVE, ACTIVE.invoices[0].invoice_id, "mistake", NOW))

    assert manual.pay(state, state.invoices[0].invoice_id, "bank 2", NOW) == []
    assert manual.void(voided, voided.invoices[0].invoice_id, "again", NOW) == []
    with pytest.raises(InvoiceSettledError):
        manual.void(state, state.invoices[0].invoice_id, "mistake", NOW)
    with pytest.raises(InvoiceSettledError):
        manual.pay(voided, voided.invoices[0].invoice_id, "bank 1", NOW)
    with pytest.raises(UnknownInvoiceError):
        manual.pay(state, f"inv_{TENANT[4:]}_9", "bank 1", NOW)


def test_an_unpaid_contract_stops_invoicing_and_restarts_on_the_day_of_payment():
    state = at(ACTIVE, NOW + 1000 * DAY)
    late = NOW + 1000 * DAY
    after = paid(state, 0, late)

    assert state.contract.status is ContractStatus.UNPAID
    assert statuses(state) == ["overdue", "overdue"]
    assert state.due is None
    assert after.contract.status is ContractStatus.UNPAID
    restarted = paid(after, 1, late)
    assert (restarted.contract.status, restarted.contract.period_start) == (ContractStatus.ACTIVE, late)
    assert statuses(restarted) == ["paid", "paid", "open"]


def test_a_contract_cancelled_now_ends_and_its_invoices_stay_open():
    state = fold(ACTIVE, manual.cancel(ACTIVE, at_period_end=False, at=NOW + DAY, made_for=None))

    assert (state.contract.status, state.contract.cancel_at) == (ContractStatus.CANCELLED, NOW + DAY)
    assert statuses(at(state, NOW + 90 * DAY)) == ["overdue"]
    assert manual.cancel(state, at_period_end=False, at=NOW, made_for=None) == []
    with pytest.raises(ContractNotRunningError):
        manual.reactivate(state, made_for=None)


def test_a_scheduled_cancellation_takes_effect_at_the_period_end_and_can_be_reversed():
    state = fold(ACTIVE, manual.cancel(ACTIVE, at_period_end=True, at=NOW, made_for=None))
    kept = fold(state, manual.reactivate(state, made_for=None))

    assert state.contract.status is ContractStatus.ACTIVE
    assert at(state, NOW + 40 * DAY).contract.status is ContractStatus.CANCELLED
    assert at(state, NOW + 40 * DAY).contract.cancel_at == ACTIVE.contract.period_end
    assert at(kept, NOW + 40 * DAY).contract.status is ContractStatus.ACTIVE


def test_a_paused_contract_is_not_invoiced_and_resumes_in_its_period_or_a_new_one():
    state = fold(ACTIVE, manual.pause(ACTIVE, made_for=None))
    soon = fold(state, manual.resume(state, at=NOW + 5 * DAY, made_for=None))
    late = NOW + 200 * DAY
    after = fold(at(state, late), manual.resume(at(state, late), at=late, made_for=None))

    assert len(at(state, late).invoices) == 1
    assert (soon.contract, len(soon.invoices)) == (ACTIVE.contract, 1)
    assert (after.contract.period_start, len(after.invoices)) == (late, 2)
    with pytest.raises(ContractNotRunningError):
        manual.change(state, terms(9), at_period_end=False, at=NOW, made_for=None)


def test_a_cancellation_due_during_a_pause_takes_effect_at_the_resume():
    leaving = fold(ACTIVE, manual.cancel(ACTIVE, at_period_end=True, at=NOW, made_for=None))
    state = fold(leaving, manual.pause(leaving, made_for=None))

    after = fold(state, manual.resume(state, at=NOW + 90 * DAY, made_for=None))

    assert after.contract.status is ContractStatus.CANCELLED


def test_leaving_withdraws_the_quotation_and_cancels_the_contract():
    assert fold(QUOTED, manual.leave(QUOTED, NOW)).offer is None
    assert fold(ACTIVE, manual.leave(ACTIVE, NOW)).contract.status is ContractStatus.CANCELLED
    left = fold(ACTIVE, manual.leave(ACTIVE, NOW))
    assert manual.leave(left, NOW) == []


def test_another_contract_can_be_ordered_after_the_first_has_ended():
    over = fold(ACTIVE, manual.leave(ACTIVE, NOW))
    with_quotation = fold(over, manual.offer(over, TENANT, terms(500), NOW + 9 * DAY))

    second = accepted(terms(500), state=with_quotation)

    assert [invoice.invoice_id.rpartition("_")[2] for invoice in second.invoices] == ["1", "2"]


def test_a_contract_maps_to_a_provider_snapshot():
    late = at(ACTIVE, NOW + 30 * DAY)
    later = fold(ACTIVE, manual.change(ACTIVE, terms(6200), at_period_end=True, at=NOW, made_for=None))
    shown = {
        "trialing": accepted(trial_days=14),
        "active": ACTIVE,
        "past_due": late,
        "unpaid": at(ACTIVE, NOW + 1000 * DAY),
        "paused": fold(late, manual.pause(late, made_for=None)),
        "canceled": fold(late, manual.leave(late, NOW)),
    }

    assert {status: snapshot_of(state, state.contract).status for status, state in shown.items()} == {
        s: s for s in shown
    }
    assert snapshot_of(shown["trialing"], shown["trialing"].contract).trial_end == NOW + 14 * DAY
    assert (snapshot_of(late, late.contract).failed_at, snapshot_of(late, late.contract).invoice) == (
        NOW + 30 * DAY,
        late.invoices[0].invoice_id,
    )
    pending = snapshot_of(later, later.contract).pending
    assert (pending.items[0].amount.minor, pending.at) == (6200, ACTIVE.contract.period_end)
    assert snapshot_of(paid(ACTIVE), ACTIVE.contract).paid_until == ACTIVE.contract.period_end


def test_terms_that_cannot_be_invoiced_are_refused():
    price = Price(amount=Money(minor=10**15, currency="EUR"), interval=Interval.MONTH, provider_prices={})

    for quantity in (0, 2):
        with pytest.raises(TermsError):
            terms_of("pro", 1, price, quantity)


def test_the_numbers_of_open_and_settled_invoices_are_bounded():
    state = ACTIVE

    def more(number):
        return manual.change(state, terms(10_000 * number), at_period_end=False, at=NOW, made_for=str(number))

    for number in range(1, MAX_OPEN):
        state = fold(state, more(number))
    with pytest.raises(TooManyInvoicesError):
        more(MAX_OPEN)
    assert len(state.invoices) == MAX_OPEN
    assert len(state.made) == contracts.KEPT_KEYS
    for invoice in state.invoices:
        state = fold(state, manual.pay(state, invoice.invoice_id, "bank", NOW))
    assert len(state.invoices) == contracts.KEPT_SETTLED
