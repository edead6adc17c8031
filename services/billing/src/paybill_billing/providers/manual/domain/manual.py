"""Decisions about manual contracts: offer, purchase order, changes, invoices and payments."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.changes import Proration, ProrationLine, UnpaidTime
from paybill_contracts.manual import (
    Contract,
    ContractChanged,
    ContractHalted,
    ContractRenewed,
    ContractStatus,
    Invoice,
    InvoiceIssued,
    InvoiceOverdue,
    InvoicePaid,
    InvoiceStatus,
    InvoiceVoided,
    ManualOfferMade,
    ManualOfferWithdrawn,
    Offer,
    PurchaseOrderAccepted,
    Terms,
)
from paybill_contracts.money import CurrencyMismatchError, Money

from paybill_billing.providers.manual.domain.contracts import (
    MAX_OPEN,
    RUNNING,
    UNPAID,
    ContractNotRunningError,
    InvoiceSettledError,
    ManualContract,
    ManualEvent,
    NoValidOfferError,
    TooManyInvoicesError,
    amount_of,
    cancelled,
    changed,
    check_not_running,
    contract_id,
    contract_of,
    currency_of,
    description_of,
    evolve,
    has_too_many_overdue,
    invoice_of,
    issued,
    line_of,
    next_period,
    period_invoice,
    running,
)
from paybill_billing.providers.manual.domain.periods import days_left, period_after, prorated


def offer(state: ManualContract | None, tenant_id: str, terms: Terms, valid_until: datetime) -> list[ManualEvent]:
    """Makes an offer, which replaces the one before. Raises ContractRunsError."""
    check_not_running(state)
    made = Offer(terms=terms, valid_until=valid_until)
    return [ManualOfferMade(contract_id=contract_id(tenant_id), tenant_id=tenant_id, offer=made)]


def accept(
    state: ManualContract, *, order: str, terms: Terms, payment_days: int, trial_days: int, now: datetime
) -> list[ManualEvent]:
    """Accepts a purchase order, whose terms may differ from the offer; access begins with it.

    Idempotent for the same order. Raises ContractRunsError, NoValidOfferError.
    """
    before = state.contract
    if before is not None and before.status is not ContractStatus.CANCELLED and before.order == order:
        return []
    check_not_running(state)
    if state.offer is None or state.offer.valid_until < now:
        raise NoValidOfferError(
            f"{state.tenant_id} has no valid offer; make one: paybill manual offer {state.tenant_id}"
        )
    anchor = now + timedelta(days=trial_days)
    on_trial = trial_days > 0
    contract = Contract(
        order=order,
        status=ContractStatus.TRIALING if on_trial else ContractStatus.ACTIVE,
        terms=terms,
        next_terms=None,
        payment_days=payment_days,
        anchor=anchor,
        period_start=now,
        period_end=anchor if on_trial else period_after(now, terms.interval, now),
        cancel_at=None,
        credit=before.credit if before is not None and currency_of(before) == terms.unit_price.currency else 0,
        invoices=before.invoices if before is not None else 0,
    )
    accepted = PurchaseOrderAccepted(contract_id=state.id, tenant_id=state.tenant_id, contract=contract)
    return [accepted] if on_trial else [accepted, period_invoice(state, contract, now)]


def pay(state: ManualContract, invoice_id: str, reference: str, now: datetime) -> list[ManualEvent]:
    """Records the payment of an invoice. Idempotent. Raises UnknownInvoiceError, InvoiceSettledError."""
    invoice, contract = invoice_of(state, invoice_id)
    match invoice.status:
        case InvoiceStatus.PAID:
            return []
        case InvoiceStatus.VOID:
            raise InvoiceSettledError(f"{invoice_id} is void and cannot be paid")
        case InvoiceStatus.OPEN | InvoiceStatus.OVERDUE:
            closed = {"status": InvoiceStatus.PAID, "closed_at": now, "reference": reference}
            paid = InvoicePaid(
                contract_id=state.id,
                tenant_id=state.tenant_id,
                contract=contract,
                invoice=invoice.model_copy(update=closed),
            )
            return [paid, *_restarted(evolve(state, paid), now)]
        case _:
            assert_never(invoice.status)


def void(state: ManualContract, invoice_id: str, reason: str, now: datetime) -> list[ManualEvent]:
    """Voids an invoice and returns its credit. Idempotent. Raises UnknownInvoiceError, InvoiceSettledError."""
    invoice, contract = invoice_of(state, invoice_id)
    match invoice.status:
        case InvoiceStatus.VOID:
            return []
        case InvoiceStatus.PAID:
            raise InvoiceSettledError(f"{invoice_id} is paid and cannot be voided; refund the money outside of Paybill")
        case InvoiceStatus.OPEN | InvoiceStatus.OVERDUE:
            returned = invoice.credit_used if invoice.total.currency == currency_of(contract) else 0
            voided = InvoiceVoided(
                contract_id=state.id,
                tenant_id=state.tenant_id,
                contract=contract.model_copy(update={"credit": contract.credit + returned}),
                invoice=invoice.model_copy(update={"status": InvoiceStatus.VOID, "closed_at": now}),
                reason=reason,
            )
            return [voided, *_restarted(evolve(state, voided), now)]
        case _:
            assert_never(invoice.status)


def change(
    state: ManualContract, terms: Terms, *, at_period_end: bool, at: datetime, made_for: str | None
) -> list[ManualEvent]:
    """Changes the terms: now, prorated to the day, or at the end of the period.

    Another interval begins a new period. Raises ContractNotRunningError, CurrencyMismatchError, TooManyInvoicesError.
    """
    contract = running(state)
    if sum(invoice.status in UNPAID for invoice in state.invoices) >= MAX_OPEN:
        raise TooManyInvoicesError(f"{MAX_OPEN} invoices of {state.tenant_id} are open; record payments or void some")
    if terms.unit_price.currency != currency_of(contract):
        raise CurrencyMismatchError(
            f"a contract in {currency_of(contract)} cannot change to {terms.unit_price.currency}"
        )
    if at_period_end:
        next_terms = None if terms == contract.terms else terms
        return changed(state, contract.model_copy(update={"next_terms": next_terms}), (), made_for)
    after = contract.model_copy(update={"terms": terms, "next_terms": None})
    if contract.status is ContractStatus.TRIALING or terms == contract.terms:
        return changed(state, after, (), made_for)
    left, days = days_left(contract.period_start, contract.period_end, at)
    remainder = f"{left} of {days} days"
    before = prorated(amount_of(contract.terms).minor, left, days)
    unused = line_of(f"unused: {description_of(contract.terms)}, {remainder}", -before, contract)
    if terms.interval is not contract.terms.interval:
        new_period = {
            "credit": contract.credit + before,
            "anchor": at,
            "period_start": at,
            "period_end": period_after(at, terms.interval, at),
        }
        return _with_period(state, after.model_copy(update=new_period), (unused,), made_for, at)
    owed = prorated(amount_of(terms).minor, left, days)
    added = terms.quantity - contract.terms.quantity
    if added > 0 and terms == contract.terms.model_copy(update={"quantity": terms.quantity}):
        # Nothing is unused, so that nothing is credited: seats can be added before the invoice of the period is paid.
        text = f"{description_of(contract.terms.model_copy(update={'quantity': added}))} more, {remainder}"
        lines: tuple[ProrationLine, ...] = (line_of(text, owed - before, contract),)
    else:
        lines = (unused, line_of(f"{description_of(terms)}, {remainder}", owed, contract))
    if owed <= before:
        more = {"credit": contract.credit + before - owed}
        return changed(state, after.model_copy(update=more), lines, made_for)
    return [
        *changed(state, after, lines, made_for),
        issued(state, after, lines, at, covers_until=None),
    ]


def cancel(state: ManualContract, *, at_period_end: bool, at: datetime, made_for: str | None) -> list[ManualEvent]:
    """Cancels now or at the end of the period; a paused or unpaid contract ends now. Idempotent."""
    contract = state.contract
    if contract is None or contract.status is ContractStatus.CANCELLED:
        return []
    if at_period_end and contract.status in RUNNING:
        update = {"cancel_at": contract.period_end, "next_terms": None}
        return changed(state, contract.model_copy(update=update), (), made_for)
    return [cancelled(state, contract, at, made_for)]


def reactivate(state: ManualContract, *, made_for: str | None) -> list[ManualEvent]:
    """Removes the scheduled cancellation or change. Raises ContractNotRunningError."""
    contract = running(state)
    return changed(state, contract.model_copy(update={"cancel_at": None, "next_terms": None}), (), made_for)


def pause(state: ManualContract, *, made_for: str | None) -> list[ManualEvent]:
    """Pauses access and invoices until the contract is resumed. Raises ContractNotRunningError."""
    contract = state.contract
    if contract is not None and contract.status is ContractStatus.PAUSED:
        return []
    update = {"status": ContractStatus.PAUSED}
    return changed(state, running(state).model_copy(update=update), (), made_for)


def resume(state: ManualContract, *, at: datetime, made_for: str | None) -> list[ManualEvent]:
    """Resumes a paused contract, with a new period if the old one has ended. Raises ContractNotRunningError."""
    contract = state.contract
    if contract is not None and contract.status in RUNNING:
        return []
    if contract is None or contract.status is not ContractStatus.PAUSED:
        raise ContractNotRunningError(f"the contract of {state.tenant_id} is not paused")
    if contract.cancel_at is not None and contract.cancel_at <= at:
        return [cancelled(state, contract, contract.cancel_at, made_for)]
    on_trial = contract.period_start < contract.anchor
    resumed = {"status": ContractStatus.TRIALING if on_trial else ContractStatus.ACTIVE}
    if at < contract.period_end:
        return changed(state, contract.model_copy(update=resumed), (), made_for)
    return _with_period(state, next_period(contract, at, at), (), made_for, at)


def leave(state: ManualContract, at: datetime) -> list[ManualEvent]:
    """Withdraws the offer and cancels the contract of a customer who leaves."""
    withdrawn = ManualOfferWithdrawn(contract_id=state.id, tenant_id=state.tenant_id)
    return [
        *([withdrawn] if state.offer is not None else []),
        *cancel(state, at_period_end=False, at=at, made_for=None),
    ]


def on_time(state: ManualContract, now: datetime) -> list[ManualEvent]:
    """Marks unpaid invoices as overdue, and renews, halts or ends a contract whose period is over."""
    contract, events = state.contract, list[ManualEvent]()
    if contract is None or state.due is None or now < state.due:
        return []
    for invoice in state.invoices:
        if invoice.status is InvoiceStatus.OPEN and invoice.due_at <= now:
            overdue = InvoiceOverdue(
                contract_id=state.id,
                tenant_id=state.tenant_id,
                contract=contract,
                invoice=invoice.model_copy(update={"status": InvoiceStatus.OVERDUE}),
            )
            events.append(overdue)
            state = evolve(state, overdue)
    if contract.status not in RUNNING or now < contract.period_end:
        return events
    if contract.cancel_at is not None:
        return [*events, cancelled(state, contract, contract.cancel_at, None)]
    if has_too_many_overdue(state):
        unpaid = contract.model_copy(update={"status": ContractStatus.UNPAID})
        halted = ContractHalted(contract_id=state.id, tenant_id=state.tenant_id, contract=unpaid)
        return [*events, halted]
    return [*events, *_renewed(state, next_period(contract, contract.period_end, contract.anchor), now)]


def quote(state: ManualContract, events: Sequence[ManualEvent], at: datetime) -> Proration:
    """Returns the quote for a change that consists of `events`.

    Only time that was paid gives credit: an invoice that is not paid yet can still be voided.
    """
    contract = contract_of(state)
    not_paid = _not_paid(state, contract)
    currency = currency_of(contract)
    lines: tuple[ProrationLine, ...] = ()
    due = credit = 0
    for event in events:
        state = evolve(state, event)
        if isinstance(event, ContractChanged):
            lines = event.lines
            credit = -sum(line.amount.minor for line in lines if line.amount.minor < 0)
        elif isinstance(event, InvoiceIssued):
            lines, due = event.invoice.lines, event.invoice.total.minor
    unpaid = None
    if not_paid and credit:
        reason = f"the invoice {not_paid[-1].invoice_id} is {not_paid[-1].status}"
        charged = sum(invoice.total.minor + invoice.credit_used for invoice in not_paid)
        unpaid = UnpaidTime(amount=Money(minor=min(credit, charged), currency=currency), reason=reason)
    after = contract_of(state)
    runs = after.status in RUNNING
    next_minor = amount_of(after.next_terms or after.terms).minor
    is_scheduled = after.cancel_at != contract.cancel_at or after.next_terms != contract.next_terms
    return Proration(
        lines=lines,
        due_now=Money(minor=due, currency=currency),
        next_amount=Money(minor=max(next_minor - after.credit, 0), currency=currency)
        if runs and after.cancel_at is None
        else None,
        effective_at=after.period_end if runs and is_scheduled and (after.cancel_at or after.next_terms) else at,
        unpaid=unpaid,
    )


def _not_paid(state: ManualContract, contract: Contract) -> list[Invoice]:
    """Returns the invoices of the current period that are not paid: of the period, and of changes in it."""
    of_period = [invoice for invoice in state.invoices if invoice.issued_at >= contract.period_start]
    return [invoice for invoice in of_period if invoice.status is not InvoiceStatus.PAID]


def _with_period(
    state: ManualContract, contract: Contract, lines: tuple[ProrationLine, ...], made_for: str | None, at: datetime
) -> list[ManualEvent]:
    return [*changed(state, contract, lines, made_for), period_invoice(state, contract, at)]


def _renewed(state: ManualContract, contract: Contract, now: datetime) -> list[ManualEvent]:
    renewed = ContractRenewed(contract_id=state.id, tenant_id=state.tenant_id, contract=contract)
    return [renewed, period_invoice(state, contract, now)]


def _restarted(state: ManualContract, now: datetime) -> list[ManualEvent]:
    """Restarts an unpaid contract when all overdue invoices are settled: the time without access is not invoiced."""
    contract = contract_of(state)
    overdue = any(invoice.status is InvoiceStatus.OVERDUE for invoice in state.invoices)
    if contract.status is not ContractStatus.UNPAID or overdue:
        return []
    return _renewed(state, next_period(contract, now, now), now)
