"""Facts about money that went back, or was asked back: refunds and disputes, each under the provider's name for it."""

from enum import StrEnum

from paybill_contracts.event import Event
from paybill_contracts.money import Money
from paybill_contracts.values import Key, ProviderId, SubscriptionId, TenantId, Text, Timestamp


class DisputeOutcome(StrEnum):
    """How a dispute ended. DROPPED: it was an inquiry, and nothing came of it."""

    WON = "won"
    LOST = "lost"
    DROPPED = "dropped"


class ReturnFact(Event):
    """What all facts about returned money carry.

    payment: the provider's refund or dispute. subscription_id, invoice: None when the provider does not tell what was
    paid; then it is the tenant's alone.
    """

    payment: ProviderId
    tenant_id: TenantId
    provider: Key
    subscription_id: SubscriptionId | None
    invoice: ProviderId | None
    amount: Money


class PaymentRefunded(ReturnFact, type="billing.payment_refunded", version=1, aggregate="payment", key="payment"):
    """`amount` goes back to the customer, by this refund alone. What follows from it, an operator decides."""

    reason: Text | None


class PaymentDisputed(ReturnFact, type="billing.payment_disputed", version=1, aggregate="payment", key="payment"):
    """The customer's bank asks for the money back; answer it before `respond_by`."""

    reason: Text | None
    respond_by: Timestamp | None


class DisputeClosed(ReturnFact, type="billing.dispute_closed", version=1, aggregate="payment", key="payment"):
    """The bank has decided about the dispute."""

    outcome: DisputeOutcome
