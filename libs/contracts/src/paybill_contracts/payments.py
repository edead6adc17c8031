"""Events about refunds and disputes, each under the provider's id."""

from enum import StrEnum

from paybill_contracts.event import Event
from paybill_contracts.money import Money
from paybill_contracts.values import Key, ProviderId, SubscriptionId, TenantId, Text, Timestamp


class DisputeOutcome(StrEnum):
    """Outcome of a dispute. DROPPED: an inquiry that had no consequence."""

    WON = "won"
    LOST = "lost"
    DROPPED = "dropped"


class ReturnFact(Event):
    """Common fields of refund and dispute events.

    payment: the provider's refund or dispute. subscription_id, invoice: None when the provider does not name the
    invoice; then only the tenant is known.
    """

    payment: ProviderId
    tenant_id: TenantId
    provider: Key
    subscription_id: SubscriptionId | None
    invoice: ProviderId | None
    amount: Money


class PaymentRefunded(ReturnFact, type="billing.payment_refunded", version=1, aggregate="payment", key="payment"):
    """`amount` is returned to the customer by this refund. It changes no access; an operator decides."""

    reason: Text | None


class PaymentDisputed(ReturnFact, type="billing.payment_disputed", version=1, aggregate="payment", key="payment"):
    """The customer's bank claims the payment back; evidence is due before `respond_by`."""

    reason: Text | None
    respond_by: Timestamp | None


class DisputeClosed(ReturnFact, type="billing.dispute_closed", version=1, aggregate="payment", key="payment"):
    """The bank decided the dispute."""

    outcome: DisputeOutcome
