"""Payments that failed: one fact per provider event, because the next state no longer shows them."""

from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.billing import PaymentFailed
from paybill_contracts.money import Money


@dataclass(frozen=True, slots=True)
class Payment:
    """An attempt to collect. `id` is the provider's event, so that a message heard twice is one failure."""

    id: str
    tenant_id: str
    subscription_id: str
    invoice: str
    amount: Money
    attempt: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a provider's event says about a failed attempt. `event`: its id; `number` counts from 1 per invoice."""

    event: str
    invoice: str
    amount: Money
    number: int


def fail(payment: Payment | None, attempt: Attempt, *, tenant_id: str, subscription_id: str) -> list[PaymentFailed]:
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


def evolve(_payment: Payment | None, event: PaymentFailed) -> Payment:
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
        case _:
            assert_never(event)
