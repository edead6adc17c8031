"""Events of the provider `manual`: offers, purchase orders, contracts and invoices that operators settle."""

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
"""`con_` and the hexadecimal part of the tenant's id: a tenant has one contract, with all its orders."""

InvoiceId = Annotated[
    str, StringConstraints(pattern=r"^inv_[0-9a-f]{32}_[1-9][0-9]{0,8}$"), Field(examples=[f"inv_{_HEX}_1"])
]
"""`inv_`, the hexadecimal part of its contract, and its number there, from 1 and without gaps."""

MadeFor = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$"), Field(examples=["change-1"])]
"""Idempotency key of the change."""


class Terms(Value):
    """Terms of a purchase: `quantity` of a plan version, for `unit_price` each, every `interval`."""

    plan: Key
    version: Count
    quantity: Annotated[int, Field(ge=1, le=10**9)]
    unit_price: Money
    interval: Interval


class Offer(Value):
    """A quotation: terms that a tenant may order until `valid_until`."""

    terms: Terms
    valid_until: Timestamp


class ContractStatus(StrEnum):
    """Status of a contract. UNPAID: its period ended, and none follows before overdue invoices are settled."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAUSED = "paused"
    UNPAID = "unpaid"
    CANCELLED = "cancelled"


class Contract(Value):
    """Complete state of a contract after the event.

    order: the customer's number of its newest purchase order. payment_days: from an invoice to its due date.
    next_terms: in force from the end of the period. anchor: start of the first paid period; the time before it is a
    trial. credit: reduces the next invoices, minor units of the terms' currency. invoices: number ever issued.
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
    """Status of an invoice."""

    OPEN = "open"
    OVERDUE = "overdue"
    PAID = "paid"
    VOID = "void"


class Invoice(Value):
    """Complete state of an invoice after the event.

    total: amount due, never negative. covers_until: end of the period that it pays; None for the invoice of a change.
    reference: of the payment, such as a bank's. credit_used: part of the credit that its lines include.
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
    """Common fields of a contract's events."""

    contract_id: ContractId
    tenant_id: TenantId


class ManualOfferMade(
    ContractFact, type="billing.manual_offer_made", version=1, aggregate="contract", key="contract_id"
):
    """The tenant may order this. It replaces an earlier offer."""

    offer: Offer


class ManualOfferWithdrawn(
    ContractFact, type="billing.manual_offer_withdrawn", version=1, aggregate="contract", key="contract_id"
):
    """The offer cannot be ordered any more."""


class PurchaseOrderAccepted(
    ContractFact, type="billing.purchase_order_accepted", version=1, aggregate="contract", key="contract_id"
):
    """The customer's purchase order is accepted: the contract gives access from now on."""

    contract: Contract


class ContractRenewed(
    ContractFact, type="billing.contract_renewed", version=1, aggregate="contract", key="contract_id"
):
    """A period ended and the next began, on its agreed terms."""

    contract: Contract


class ContractHalted(ContractFact, type="billing.contract_halted", version=1, aggregate="contract", key="contract_id"):
    """The period ended with overdue invoices: the next begins on the day of their settlement."""

    contract: Contract


class ContractChanged(
    ContractFact, type="billing.contract_changed", version=1, aggregate="contract", key="contract_id"
):
    """The contract was changed, now or for the end of its period. lines: cost of the change; empty for no cost."""

    contract: Contract
    lines: tuple[ProrationLine, ...]
    made_for: MadeFor | None


class ContractCancelled(
    ContractFact, type="billing.contract_cancelled", version=1, aggregate="contract", key="contract_id"
):
    """The contract is cancelled. Open invoices stay due until they are paid or voided."""

    contract: Contract
    made_for: MadeFor | None


class InvoiceIssued(ContractFact, type="billing.invoice_issued", version=1, aggregate="contract", key="contract_id"):
    """An invoice is issued. contract: after the invoice used its credit."""

    contract: Contract
    invoice: Invoice


class InvoiceOverdue(ContractFact, type="billing.invoice_overdue", version=1, aggregate="contract", key="contract_id"):
    """The due date passed without payment."""

    contract: Contract
    invoice: Invoice


class InvoicePaid(ContractFact, type="billing.invoice_paid", version=1, aggregate="contract", key="contract_id"):
    """An operator confirmed the payment."""

    contract: Contract
    invoice: Invoice


class InvoiceVoided(ContractFact, type="billing.invoice_voided", version=1, aggregate="contract", key="contract_id"):
    """The invoice is no longer due. Its used credit is restored."""

    contract: Contract
    invoice: Invoice
    reason: Text
