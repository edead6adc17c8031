"""Payments that failed, went back or are disputed: told once each, because the next state no longer shows them."""

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
    """A dispute was closed that nobody opened."""

    code = "payment_order"


class Kind(StrEnum):
    """What happened to the money."""

    FAILED = "failed"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment that did not come, or not stay.

    id: the provider's event for a failure, for there is no other name of it; else its refund or dispute. So what is
    heard twice, and in whatever form, is told once. attempt: of a failure. outcome: of a dispute that is closed.
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
    """Whose payment it was, and what for as far as is known."""

    tenant_id: str
    provider: str
    subscription_id: str | None
    invoice: str | None


def fail(
    payment: Payment | None, attempt: CollectionAttempt, *, tenant_id: str, subscription_id: str
) -> list[PaymentEvent]:
    """Remember that the provider could not collect."""
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


def record_return(payment: Payment | None, returned: Refund | Dispute, payer: Payer) -> list[PaymentEvent]:
    """Remember that money went back or is asked back, and how that ended."""
    about: dict[str, Any] = {
        "payment": returned.id,
        "tenant_id": payer.tenant_id,
        "provider": payer.provider,
        "subscription_id": payer.subscription_id,
        "invoice": payer.invoice,
        "amount": returned.amount,
    }
    if isinstance(returned, Refund):
        return [] if payment is not None else [PaymentRefunded(**about, reason=returned.reason)]
    events: list[PaymentEvent] = []
    if payment is None:
        events.append(PaymentDisputed(**about, reason=returned.reason, respond_by=returned.respond_by))
    if returned.outcome is not None and (payment is None or payment.outcome is None):
        events.append(DisputeClosed(**about, outcome=returned.outcome))
    return events


def evolve(payment: Payment | None, event: PaymentEvent) -> Payment:
    """The payment after `event`."""
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
