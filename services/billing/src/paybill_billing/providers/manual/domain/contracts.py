"""Manual contracts: an aggregate for each tenant with the records that another provider keeps in its own system."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from paybill_contracts.catalogue import Interval, PlanVersion, Price
from paybill_contracts.changes import ProrationLine
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.manual import (
    Contract,
    ContractCancelled,
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
from paybill_contracts.money import Money

from paybill_billing.providers.manual.domain.periods import period_after

MANUAL = "manual"
OFFER_VALID = timedelta(days=30)
PAYMENT_DAYS = 30

MAX_OVERDUE = 2
"""With this number of overdue invoices no further period begins, so that the debt does not grow without limit."""
MAX_OPEN = 50
KEPT_SETTLED = 24
KEPT_KEYS = 32
MAX_MINOR = 10**15

ManualEvent = (
    ManualOfferMade
    | ManualOfferWithdrawn
    | PurchaseOrderAccepted
    | ContractRenewed
    | ContractHalted
    | ContractChanged
    | ContractCancelled
    | InvoiceIssued
    | InvoiceOverdue
    | InvoicePaid
    | InvoiceVoided
)

RUNNING = frozenset({ContractStatus.TRIALING, ContractStatus.ACTIVE})
UNPAID = frozenset({InvoiceStatus.OPEN, InvoiceStatus.OVERDUE})


class NoContractError(NotFoundError):
    """Raised when the tenant has neither an offer nor a contract with the provider `manual`."""

    code = "no_contract"


class NoValidOfferError(ConflictError):
    """Raised when an order arrives without a valid offer."""

    code = "nothing_offered"


class ContractRunsError(ConflictError):
    """Raised when a running contract is ordered again; it has to be changed instead."""

    code = "contract_runs"


class ContractNotRunningError(ConflictError):
    """Raised when a cancelled, paused or unpaid contract is changed."""

    code = "contract_not_running"


class UnknownInvoiceError(NotFoundError):
    code = "unknown_invoice"


class InvoiceSettledError(ConflictError):
    """Raised when a paid invoice is voided, or a void invoice is paid."""

    code = "invoice_settled"


class TooManyInvoicesError(ConflictError):
    """Raised when too many invoices are open to invoice another change."""

    code = "too_many_invoices"


class TermsError(DomainError):
    """Raised for terms that cannot be invoiced."""

    code = "impossible_terms"


@dataclass(frozen=True, slots=True)
class ManualContract:
    """A tenant's offer, contract and invoices: the unpaid ones, and the newest settled ones.

    paid_until: the end of the newest paid period. made: the newest idempotency keys of changes. due: the next
    transition by time alone.
    """

    id: str
    tenant_id: str
    offer: Offer | None = None
    contract: Contract | None = None
    invoices: tuple[Invoice, ...] = ()
    paid_until: datetime | None = None
    made: tuple[str, ...] = ()
    due: datetime | None = None


Decide = Callable[[ManualContract | None, datetime], Sequence[ManualEvent]]
"""A decision about a contract at a time."""


def contract_id(tenant_id: str) -> str:
    """Returns the id of the tenant's contract, which is also the id of the provider's customer and subscription."""
    return f"con_{tenant_id.removeprefix('ten_')}"


def existing(state: ManualContract | None, tenant_id: str) -> ManualContract:
    """Returns the manual contract. Raises NoContractError."""
    if state is None:
        raise NoContractError(
            f"{tenant_id} has no manual contract; make an offer first: paybill manual offer {tenant_id}"
        )
    return state


def terms_of(plan: str, version: int, price: Price, quantity: int) -> Terms:
    """Returns the terms of an order. Raises TermsError when they cannot be invoiced."""
    if quantity < 1 or not 0 <= price.amount.minor * quantity <= MAX_MINOR:
        raise TermsError(f"{quantity} of {plan} cannot be invoiced; order at least 1, for at most {MAX_MINOR} in total")
    return Terms(plan=plan, version=version, quantity=quantity, unit_price=price.amount, interval=price.interval)


def priced(plan: PlanVersion, interval: Interval | None, currency: str | None) -> Price:
    """Returns the first price of the plan for this interval and currency. Raises TermsError."""
    for price in plan.prices:
        if interval in {None, price.interval} and currency in {None, price.amount.currency}:
            return price
    prices = ", ".join(f"{price.amount.currency} per {price.interval}" for price in plan.prices) or "none"
    raise TermsError(f"{plan.plan} version {plan.version} has no such price; its prices: {prices}")


def amount_of(terms: Terms) -> Money:
    """Returns the price of a whole period."""
    return Money(minor=terms.unit_price.minor * terms.quantity, currency=terms.unit_price.currency)


def evolve(state: ManualContract | None, event: ManualEvent) -> ManualContract:
    """Returns the manual contract after `event`. Every event contains all that it changes, so any may come first."""
    before = state or ManualContract(id=event.contract_id, tenant_id=event.tenant_id)
    match event:
        case ManualOfferMade():
            after = replace(before, offer=event.offer)
        case ManualOfferWithdrawn():
            after = replace(before, offer=None)
        case PurchaseOrderAccepted():
            after = replace(before, offer=None, contract=event.contract)
        case ContractRenewed() | ContractHalted():
            after = replace(before, contract=event.contract)
        case ContractChanged() | ContractCancelled():
            made = before.made if event.made_for is None else (*before.made, event.made_for)[-KEPT_KEYS:]
            after = replace(before, contract=event.contract, made=made)
        case InvoiceIssued() | InvoiceOverdue() | InvoicePaid() | InvoiceVoided():
            invoices = _with_invoice(before.invoices, event.invoice)
            after = replace(before, contract=event.contract, invoices=invoices)
            covers = event.invoice.covers_until
            if event.invoice.status is InvoiceStatus.PAID and covers is not None:
                after = replace(after, paid_until=max(covers, before.paid_until or covers))
        case _:
            assert_never(event)
    return replace(after, due=_due(after))


def _due(state: ManualContract) -> datetime | None:
    times = [invoice.due_at for invoice in state.invoices if invoice.status is InvoiceStatus.OPEN]
    if state.contract is not None and state.contract.status in RUNNING:
        times.append(state.contract.period_end)
    return min(times, default=None)


def _with_invoice(invoices: Sequence[Invoice], invoice: Invoice) -> tuple[Invoice, ...]:
    """Returns the unpaid and the newest settled invoices, with this one, in the order of their numbers."""
    known = {**{other.invoice_id: other for other in invoices}, invoice.invoice_id: invoice}
    in_order = sorted(known.values(), key=lambda other: int(other.invoice_id.rpartition("_")[2]))
    settled = [other.invoice_id for other in in_order if other.status not in UNPAID]
    dropped = set(settled[:-KEPT_SETTLED])
    return tuple(other for other in in_order if other.invoice_id not in dropped)


def contract_of(state: ManualContract) -> Contract:
    """Returns the contract. Raises NoContractError."""
    if state.contract is None:
        raise NoContractError(f"{state.tenant_id} has no contract yet")
    return state.contract


def running(state: ManualContract) -> Contract:
    """Returns the contract if it can be changed. Raises NoContractError, ContractNotRunningError."""
    contract = contract_of(state)
    match contract.status:
        case ContractStatus.TRIALING | ContractStatus.ACTIVE:
            return contract
        case ContractStatus.PAUSED:
            raise ContractNotRunningError(f"the contract of {state.tenant_id} is paused; resume it first")
        case ContractStatus.UNPAID:
            raise ContractNotRunningError(f"the contract of {state.tenant_id} is unpaid; settle the overdue invoices")
        case ContractStatus.CANCELLED:
            raise ContractNotRunningError(f"the contract of {state.tenant_id} has ended; make a new offer")
        case _:
            assert_never(contract.status)


def check_not_running(state: ManualContract | None) -> None:
    """Raises ContractRunsError while a contract has not ended."""
    contract = state.contract if state is not None else None
    if state is not None and contract is not None and contract.status is not ContractStatus.CANCELLED:
        raise ContractRunsError(f"{state.tenant_id} already has a contract (order {contract.order}); change it instead")


def invoice_of(state: ManualContract, invoice_id: str) -> tuple[Invoice, Contract]:
    """Returns an invoice and its contract. Raises UnknownInvoiceError."""
    for invoice in state.invoices:
        if invoice.invoice_id == invoice_id:
            return invoice, contract_of(state)
    raise UnknownInvoiceError(
        f"there is no invoice {invoice_id}, or it is no longer among the newest {KEPT_SETTLED} settled ones"
    )


def has_too_many_overdue(state: ManualContract) -> bool:
    """Returns True when no further period may begin."""
    return sum(invoice.status is InvoiceStatus.OVERDUE for invoice in state.invoices) >= MAX_OVERDUE


def next_period(contract: Contract, start: datetime, anchor: datetime) -> Contract:
    """Returns the contract in the period that begins at `start`, with the terms agreed for it."""
    terms = contract.next_terms or contract.terms
    if terms.interval is not contract.terms.interval:
        anchor = start
    return contract.model_copy(
        update={
            "status": ContractStatus.ACTIVE,
            "terms": terms,
            "next_terms": None,
            "anchor": anchor,
            "period_start": start,
            "period_end": period_after(anchor, terms.interval, start),
        }
    )


def changed(
    state: ManualContract, contract: Contract, lines: tuple[ProrationLine, ...], made_for: str | None
) -> list[ManualEvent]:
    """Returns the event of a changed contract; nothing when it is unchanged."""
    if contract == state.contract:
        return []
    if contract.credit > MAX_MINOR:
        raise TermsError(f"the credit cannot exceed {MAX_MINOR}; pay it out first")
    return [
        ContractChanged(
            contract_id=state.id,
            tenant_id=state.tenant_id,
            contract=contract,
            lines=lines,
            made_for=made_for,
        )
    ]


def cancelled(state: ManualContract, contract: Contract, at: datetime, made_for: str | None) -> ContractCancelled:
    """Returns the event of a contract that ended at `at`."""
    over = {"status": ContractStatus.CANCELLED, "cancel_at": at, "next_terms": None}
    return ContractCancelled(
        contract_id=state.id,
        tenant_id=state.tenant_id,
        contract=contract.model_copy(update=over),
        made_for=made_for,
    )


def period_invoice(state: ManualContract, contract: Contract, now: datetime) -> InvoiceIssued:
    """Returns the invoice of a new period."""
    line = line_of(
        f"{description_of(contract.terms)}, until {contract.period_end:%Y-%m-%d}",
        amount_of(contract.terms).minor,
        contract,
    )
    return issued(state, contract, (line,), now, covers_until=contract.period_end)


def issued(
    state: ManualContract,
    contract: Contract,
    lines: tuple[ProrationLine, ...],
    now: datetime,
    *,
    covers_until: datetime | None,
) -> InvoiceIssued:
    """Returns an invoice of these lines less the available credit; an invoice over nothing is paid at once."""
    owed = sum(line.amount.minor for line in lines)
    used = min(contract.credit, owed)
    settled = used == owed
    number = contract.invoices + 1
    invoice = Invoice(
        invoice_id=f"inv_{state.id.removeprefix('con_')}_{number}",
        status=InvoiceStatus.PAID if settled else InvoiceStatus.OPEN,
        lines=(*lines, line_of("credit", -used, contract)) if used else lines,
        total=Money(minor=owed - used, currency=currency_of(contract)),
        credit_used=used,
        issued_at=now,
        due_at=now + timedelta(days=contract.payment_days),
        covers_until=covers_until,
        closed_at=now if settled else None,
        reference=None,
    )
    return InvoiceIssued(
        contract_id=state.id,
        tenant_id=state.tenant_id,
        contract=contract.model_copy(update={"credit": contract.credit - used, "invoices": number}),
        invoice=invoice,
    )


def currency_of(contract: Contract) -> str:
    """Returns the currency of the contract."""
    return contract.terms.unit_price.currency


def line_of(text: str, minor: int, contract: Contract) -> ProrationLine:
    """Returns a line of an invoice."""
    return ProrationLine(text=text, amount=Money(minor=minor, currency=currency_of(contract)))


def description_of(terms: Terms) -> str:
    """Returns the terms as the text of an invoice line."""
    return f"{terms.plan} version {terms.version} x {terms.quantity}"
