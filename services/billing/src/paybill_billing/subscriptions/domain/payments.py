"""Payments that failed, were refunded or are disputed: each is recorded once, when the provider reports it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, assert_never

from paybill_contracts.billing import PaymentFailed
from paybill_contracts.errors import DomainError
from paybill_contracts.money import Money
from paybill_contracts.payments import DisputeClosed, DisputeOutcome, PaymentDisputed, PaymentRefunded

from paybill_billing.providers.port.snapshots import CollectionAttempt, Dispute, Refund

PaymentEvent = PaymentFailed | PaymentRefunded | PaymentDisputed | DisputeClosed


class PaymentOrderError(DomainError):
    """Raised when a dispute is closed that was never opened."""

    code = "payment_order"


class Kind(StrEnum):
    """The kind of a payment record."""

    FAILED = "failed"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment that failed, was refunded or is disputed.

    id: that of the provider's event for a failure, which has no id of its own; else that of the refund or dispute.
    A repeated message is therefore recorded once. attempt: of a failure. outcome: of a closed dispute.
    """

    id: str
    tenant_id: str
    subscription_id: str | None
    invoice: str | None
    amount: Money
    attempt: int | None = None
    kind: Kind = Kind.FAILED
    outcome: DisputeOutcome | None = None


@dataclass(frozen=True, slots=True)
class Payer:
    """The tenant of a payment, with its subscription and invoice as far as they are known."""

    tenant_id: str
    provider: str
    subscription_id: str | None
    invoice: str | None


def record_failure(
    payment: Payment | None, attempt: CollectionAttempt, *, tenant_id: str, subscription_id: str
) -> list[PaymentEvent]:
    """Records a failed attempt to collect."""
    if payment is not None:
        return []
    return [
        PaymentFailed(
            payment=attempt.event,
            tenant_id=tenant_id,
            subscription_id=subscription_id,
            invoice=attempt.invoice,
            amount=attempt.amount,
            attempt=attempt.number,
        )
    ]


def record_reversal(payment: Payment | None, reversal: Refund | Dispute, payer: Payer) -> list[PaymentEvent]:
    """Records a refund, or a dispute and its outcome."""
    common: dict[str, Any] = {
        "payment": reversal.id,
        "tenant_id": payer.tenant_id,
        "provider": payer.provider,
        "subscription_id": payer.subscription_id,
        "invoice": payer.invoice,
        "amount": reversal.amount,
    }
    if isinstance(reversal, Refund):
        return [] if payment is not None else [PaymentRefunded(**common, reason=reversal.reason)]
    events: list[PaymentEvent] = []
    if payment is None:
        events.append(PaymentDisputed(**common, reason=reversal.reason, respond_by=reversal.respond_by))
    if reversal.outcome is not None and (payment is None or payment.outcome is None):
        events.append(DisputeClosed(**common, outcome=reversal.outcome))
    return events


def is_returned(payment: Payment) -> bool:
    """Returns True for money of an invoice that went back to the customer: a refund, or a dispute that was lost."""
    is_lost = payment.outcome is DisputeOutcome.LOST
    return payment.invoice is not None and (payment.kind is Kind.REFUNDED or is_lost)


def evolve(payment: Payment | None, event: PaymentEvent) -> Payment:
    """Returns the payment after `event`."""
    match event:
        case PaymentFailed():
            return Payment(
                id=event.payment,
                tenant_id=event.tenant_id,
                subscription_id=event.subscription_id,
                invoice=event.invoice,
                amount=event.amount,
                attempt=event.attempt,
            )
        case PaymentRefunded():
            return _returned(event, Kind.REFUNDED)
        case PaymentDisputed():
            return _returned(event, Kind.DISPUTED)
        case DisputeClosed():
            if payment is None:
                raise PaymentOrderError(f"{event.TYPE} came before the dispute {event.payment}")
            return replace(payment, outcome=event.outcome)
        case _:
            assert_never(event)


def _returned(event: PaymentRefunded | PaymentDisputed, kind: Kind) -> Payment:
    return Payment(
        id=event.payment,
        tenant_id=event.tenant_id,
        subscription_id=event.subscription_id,
        invoice=event.invoice,
        amount=event.amount,
        kind=kind,
    )
