"""Facts of the provider `manual`: offers, purchase orders, contracts and invoices, settled among people."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Interval
from paybill_contracts.changes import ProrationLine
from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
from paybill_contracts.values import Count, Key, TenantId, Text, Timestamp

_HEX = "0123456789abcdef0123456789abcdef"

ContractId = Annotated[str, StringConstraints(pattern=r"^con_[0-9a-f]{32}$"), Field(examples=["con_" + _HEX])]
"""`con_` and the hexadecimal part of the tenant's id: a tenant has one contract, and signs further orders under it."""

InvoiceId = Annotated[
    str, StringConstraints(pattern=r"^inv_[0-9a-f]{32}_[1-9][0-9]{0,8}$"), Field(examples=[f"inv_{_HEX}_1"])
]
"""`inv_`, that of its contract, and its number there, from 1 and without gaps."""

MadeFor = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$"), Field(examples=["change-1"])]
"""The idempotency key that a change was made under."""


class Terms(Value):
    """What is bought: `quantity` of a plan version, for `unit_price` each, every `interval`."""

    plan: Key
    version: Count
    quantity: Annotated[int, Field(ge=1, le=10**9)]
    unit_price: Money
    interval: Interval


class Offer(Value):
    """What a tenant may order, and until when."""

    terms: Terms
    valid_until: Timestamp


class ContractStatus(StrEnum):
    """Where a contract stands. UNPAID: its period is over, and none follows before what is overdue is settled."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAUSED = "paused"
    UNPAID = "unpaid"
    CANCELLED = "cancelled"


class Contract(Value):
    """A contract as it is after the fact.

    order: the customer's number of its newest purchase order. payment_days: from an invoice to its due date.
    next_terms: what it becomes at the end of the period. anchor: where its periods are counted from; what begins before
    is a trial. credit: what the next invoices are reduced by, minor units of the terms' currency. invoices: how many
    were ever issued.
    """

    order: Text
    status: ContractStatus
    terms: Terms
    next_terms: Terms | None
    payment_days: Annotated[int, Field(ge=0, le=365)]
    anchor: Timestamp
    period_start: Timestamp
    period_end: Timestamp
    cancel_at: Timestamp | None
    credit: Count
    invoices: Count


class InvoiceStatus(StrEnum):
    """Where an invoice stands."""

    OPEN = "open"
    OVERDUE = "overdue"
    PAID = "paid"
    VOID = "void"


class Invoice(Value):
    """An invoice as it is after the fact.

    total: what is to be paid, never negative. covers_until: paying it pays the period that ends then; None for one of a
    change. reference: of the payment, such as a bank's. credit_used: the part of the credit that is among its lines.
    """

    invoice_id: InvoiceId
    status: InvoiceStatus
    lines: tuple[ProrationLine, ...]
    total: Money
    credit_used: Count
    issued_at: Timestamp
    due_at: Timestamp
    covers_until: Timestamp | None
    closed_at: Timestamp | None
    reference: Text | None


class ContractFact(Event):
    """What all facts of a contract carry."""

    contract_id: ContractId
    tenant_id: TenantId


class ManualOfferMade(
    ContractFact, type="billing.manual_offer_made", version=1, aggregate="contract", key="contract_id"
):
    """The tenant may order this. An earlier offer is not valid any more."""

    offer: Offer


class ManualOfferWithdrawn(
    ContractFact, type="billing.manual_offer_withdrawn", version=1, aggregate="contract", key="contract_id"
):
    """Nothing can be ordered any more."""


class PurchaseOrderAccepted(
    ContractFact, type="billing.purchase_order_accepted", version=1, aggregate="contract", key="contract_id"
):
    """The customer's order is accepted: the contract gives access from now on."""

    contract: Contract


class ContractRenewed(
    ContractFact, type="billing.contract_renewed", version=1, aggregate="contract", key="contract_id"
):
    """A period is over and the next began, on the terms that were agreed for it."""

    contract: Contract


class ContractHalted(ContractFact, type="billing.contract_halted", version=1, aggregate="contract", key="contract_id"):
    """The period is over and too much is overdue: the next begins on the day that it is settled."""

    contract: Contract


class ContractChanged(
    ContractFact, type="billing.contract_changed", version=1, aggregate="contract", key="contract_id"
):
    """The contract was changed, for now or for the end of its period. lines: what that costs; none when nothing."""

    contract: Contract
    lines: tuple[ProrationLine, ...]
    made_for: MadeFor | None


class ContractCancelled(
    ContractFact, type="billing.contract_cancelled", version=1, aggregate="contract", key="contract_id"
):
    """The contract is over. What was invoiced stays owed until it is paid or voided."""

    contract: Contract
    made_for: MadeFor | None


class InvoiceIssued(ContractFact, type="billing.invoice_issued", version=1, aggregate="contract", key="contract_id"):
    """The customer owes this. contract: as it is with the invoice, whose credit it has used."""

    contract: Contract
    invoice: Invoice


class InvoiceOverdue(ContractFact, type="billing.invoice_overdue", version=1, aggregate="contract", key="contract_id"):
    """The due date has passed and nobody has paid."""

    contract: Contract
    invoice: Invoice


class InvoicePaid(ContractFact, type="billing.invoice_paid", version=1, aggregate="contract", key="contract_id"):
    """An operator has seen the money."""

    contract: Contract
    invoice: Invoice


class InvoiceVoided(ContractFact, type="billing.invoice_voided", version=1, aggregate="contract", key="contract_id"):
    """Nobody owes this any more. The credit that it had used is there again."""

    contract: Contract
    invoice: Invoice
    reason: Text
