"""Changes of manual contracts, prorated by the day in whole minor units."""

from datetime import timedelta

import pytest
from billing_samples import DAY, NOW
from hypothesis import given
from hypothesis import strategies as st
from manual_samples import ACTIVE, ID, accepted, at, fold, paid, statuses, terms
from paybill_billing.providers.manual.domain import manual
from paybill_billing.providers.manual.domain.contracts import (
    ContractNotRunningError,
    InvoiceSettledError,
    ManualContract,
    TooManyInvoicesError,
    amount_of,
)
from paybill_contracts.catalogue import Interval
from paybill_contracts.manual import InvoicePaid, InvoiceStatus
from paybill_contracts.money import CurrencyMismatchError


def test_an_upgrade_now_is_invoiced_for_the_remaining_days():
    """March has 31 days; on the 11th, ten of them are used."""
    events = manual.change(ACTIVE, terms(6200), at_period_end=False, at=NOW + 10 * DAY, made_for="k1")
    quote = manual.quote(ACTIVE, events, NOW + 10 * DAY)
    state = fold(ACTIVE, events)

    assert [line.amount.minor for line in quote.lines] == [-2100, 4200]
    assert quote.due_now.minor == state.invoices[-1].total.minor == 2100
    assert (quote.next_amount.minor, quote.effective_at) == (6200, NOW + 10 * DAY)
    assert state.invoices[-1].covers_until is None
    assert state.made == ("k1",)


def test_a_downgrade_now_becomes_credit_for_the_next_invoices():
    events = manual.change(ACTIVE, terms(1000), at_period_end=False, at=NOW + 10 * DAY, made_for=None)
    quote = manual.quote(ACTIVE, events, NOW + 10 * DAY)
    state = at(fold(ACTIVE, events), NOW + 70 * DAY)

    assert quote.due_now.minor == 0
    assert [line.amount.minor for line in quote.lines] == [-2100, 677]
    assert quote.next_amount.minor == 0
    assert [invoice.total.minor for invoice in state.invoices] == [3100, 0, 577]
    assert statuses(state)[1] == "paid"
    assert state.invoices[1].credit_used == 1000


def test_voiding_an_invoice_returns_its_credit():
    events = manual.change(ACTIVE, terms(1000), at_period_end=False, at=NOW + 10 * DAY, made_for=None)
    state = at(fold(ACTIVE, events), NOW + 62 * DAY)
    owed = state.invoices[-1]
    after = fold(state, manual.void(state, owed.invoice_id, "mistake", NOW))

    assert (owed.credit_used, state.contract.credit, after.contract.credit) == (423, 0, 423)


def _change_now(state, desired, when):
    events = manual.change(state, desired, at_period_end=False, at=when, made_for=None)
    return events, manual.quote(state, events, when)


@pytest.mark.parametrize("status", ["open", "overdue", "void"])
@pytest.mark.parametrize("ordered", [terms(1000), terms(6200), terms(30000, interval=Interval.YEAR)])
def test_a_period_whose_invoice_is_not_paid_gives_no_credit(status, ordered):
    [invoice] = ACTIVE.invoices
    when = NOW + 10 * DAY
    state = accepted(payment_days=5)
    if status == "void":
        state = fold(state, manual.void(state, invoice.invoice_id, "mistake", NOW))
    if status == "overdue":
        state = at(state, when)

    _, quote = _change_now(state, ordered, when)
    _, of_paid = _change_now(paid(ACTIVE), ordered, when)
    later = manual.change(state, ordered, at_period_end=True, at=when, made_for=None)

    assert (quote.unpaid.amount.minor, quote.unpaid.reason) == (2100, f"the invoice {invoice.invoice_id} is {status}")
    assert of_paid.unpaid is None
    assert manual.quote(state, later, when).unpaid is None


def test_five_seats_that_were_not_paid_cannot_become_credit_for_one():
    state = accepted(terms(19900, quantity=5))

    _, quote = _change_now(state, terms(19900), NOW)

    assert [line.amount.minor for line in quote.lines] == [-99500, 19900]
    assert quote.unpaid.amount.minor == 99500


def test_seats_are_added_before_the_invoice_of_the_period_is_paid_and_removed_when_both_are():
    state, when = accepted(terms(3100, quantity=5)), NOW + 10 * DAY

    events, quote = _change_now(state, terms(3100, quantity=7), when)
    more = fold(state, events)
    _, first_paid = _change_now(paid(more, 0), terms(3100, quantity=5), when)
    _, both_paid = _change_now(paid(paid(more, 0)), terms(3100, quantity=5), when)

    assert [(line.text, line.amount.minor) for line in quote.lines] == [("pro version 1 x 2 more, 21 of 31 days", 4200)]
    assert (quote.due_now.minor, quote.next_amount.minor, quote.unpaid) == (4200, 21700, None)
    assert (first_paid.unpaid.amount.minor, first_paid.unpaid.reason) == (
        4200,
        f"the invoice {more.invoices[1].invoice_id} is open",
    )
    assert both_paid.unpaid is None


def test_another_interval_starts_a_new_period():
    when = NOW + 10 * DAY
    events = manual.change(ACTIVE, terms(30000, interval=Interval.YEAR), at_period_end=False, at=when, made_for=None)
    state = fold(ACTIVE, events)

    assert (state.contract.period_start, state.contract.anchor) == (when, when)
    assert (state.contract.period_end - when).days == 365
    assert manual.quote(ACTIVE, events, when).due_now.minor == 30000 - 2100
    assert state.contract.credit == 0


def test_a_change_at_the_period_end_costs_nothing_now_and_applies_to_the_next_period():
    events = manual.change(ACTIVE, terms(6200, quantity=2), at_period_end=True, at=NOW, made_for=None)
    quote = manual.quote(ACTIVE, events, NOW)
    state = at(fold(ACTIVE, events), NOW + 31 * DAY)

    assert (quote.lines, quote.due_now.minor, quote.next_amount.minor) == ((), 0, 12400)
    assert quote.effective_at == ACTIVE.contract.period_end
    assert (state.contract.terms.quantity, state.contract.next_terms) == (2, None)
    assert state.invoices[-1].total.minor == 12400


def test_a_change_during_a_trial_costs_nothing():
    state = accepted(trial_days=14)
    events = manual.change(state, terms(6200), at_period_end=False, at=NOW + DAY, made_for=None)

    assert manual.quote(state, events, NOW).due_now.minor == 0
    assert at(fold(state, events), NOW + 14 * DAY).invoices[0].total.minor == 6200


def test_a_change_to_the_current_terms_emits_no_event():
    assert manual.change(ACTIVE, terms(), at_period_end=False, at=NOW, made_for="k") == []
    assert manual.change(ACTIVE, terms(), at_period_end=True, at=NOW, made_for="k") == []


def test_another_currency_is_refused():
    with pytest.raises(CurrencyMismatchError):
        manual.change(ACTIVE, terms(currency="USD"), at_period_end=False, at=NOW, made_for=None)


def test_a_quote_contains_the_effective_time_of_a_cancellation():
    paused = fold(ACTIVE, manual.pause(ACTIVE, made_for=None))
    when = NOW + 3 * DAY

    def effective(state, *, later):
        events = manual.cancel(state, at_period_end=later, at=when, made_for=None)
        return manual.quote(state, events, when).effective_at

    assert effective(ACTIVE, later=False) == when
    assert effective(ACTIVE, later=True) == ACTIVE.contract.period_end
    assert effective(paused, later=True) == when


prices = st.integers(0, 10**9)
quantities = st.integers(1, 1000)
offsets = st.timedeltas(timedelta(0), timedelta(days=31))


@given(prices, quantities, prices, quantities, offsets)
def test_an_upgrade_costs_what_the_downgrade_credits_and_never_more_than_the_full_price(one, few, other, many, after):
    low, high = terms(one, few), terms(other, many)
    moment = NOW + after

    def lines(state, desired):
        events = manual.change(state, desired, at_period_end=False, at=moment, made_for=None)
        return manual.quote(state, events, moment).lines

    up, down = lines(accepted(low), high), lines(accepted(high), low)

    assert sum(line.amount.minor for line in up) == -sum(line.amount.minor for line in down)
    # Added seats are one line; everything else is a credit and a charge.
    for line, full in zip(up, (high,) if len(up) == 1 else (low, high), strict=bool(up)):
        assert abs(line.amount.minor) <= amount_of(full).minor


steps = st.lists(
    st.tuples(
        st.sampled_from(["terms", "later", "cancel", "end", "reactivate", "pause", "resume", "pay", "void", "wait"]),
        st.integers(0, 5000),
        st.sampled_from(Interval),
    ),
    max_size=25,
)


@given(steps)
def test_amounts_add_up_and_every_due_time_advances_in_any_order_of_commands(commands):
    """Invoice lines add up to the total, nothing is negative, credit was paid, and no due time stays in the past."""
    state, now = ACTIVE, NOW
    received = 0
    for step, number, interval in commands:
        try:
            match step:
                case "terms" | "later":
                    price, seats = (3100, number % 9 + 1) if number % 2 else (number, 1)
                    desired = terms(price, quantity=seats, interval=interval)
                    events = manual.change(state, desired, at_period_end=step == "later", at=now, made_for=None)
                    if manual.quote(state, events, now).unpaid is not None:
                        events = []  # billing refuses the quote
                case "cancel" | "end":
                    events = manual.cancel(state, at_period_end=step == "end", at=now, made_for=None)
                case "reactivate":
                    events = manual.reactivate(state, made_for=None)
                case "pause":
                    events = manual.pause(state, made_for=None)
                case "resume":
                    events = manual.resume(state, at=now, made_for=None)
                case "pay" | "void":
                    id_ = state.invoices[number % len(state.invoices)].invoice_id
                    events = getattr(manual, step)(state, id_, "why", now)
                case _:
                    now += timedelta(hours=number)
                    events = []
        except (ContractNotRunningError, InvoiceSettledError, TooManyInvoicesError):
            events = []
        received += sum(event.invoice.total.minor for event in events if isinstance(event, InvoicePaid))
        state = at(fold(state, events), now)
        assert 0 <= state.contract.credit <= received
        assert all(invoice.total.minor >= 0 for invoice in state.invoices)
        for invoice in state.invoices:
            assert sum(line.amount.minor for line in invoice.lines) == invoice.total.minor
            assert invoice.total.minor or invoice.status in {InvoiceStatus.PAID, InvoiceStatus.VOID}
        assert state.due is None or state.due > now
    assert isinstance(state, ManualContract)
    assert state.id == ID
