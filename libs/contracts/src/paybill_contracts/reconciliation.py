"""Events about reconciliation: a provider's subscriptions compared with ours, and repaired."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event, Value
from paybill_contracts.values import Count, Key, ProviderId, SubscriptionId, TenantId, Text, Timestamp

RunId = Annotated[
    str,
    StringConstraints(pattern=r"^rec_[0-9a-f]{32}$"),
    Field(examples=["rec_0123456789abcdef0123456789abcdef"]),
]


class DriftKind(StrEnum):
    """Kind of a difference between a provider and us.

    UNDELIVERED: a webhook that never arrived. UNKNOWN_HERE: an unrecorded subscription of a known customer.
    UNKNOWN_CUSTOMER: a subscription of a customer that belongs to no tenant. UNKNOWN_THERE: a subscription that the
    provider does not have any more. DIFFERENT: both have it with different fields.
    """

    UNDELIVERED = "undelivered"
    UNKNOWN_HERE = "unknown_here"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_THERE = "unknown_there"
    DIFFERENT = "different"


class Difference(Value):
    """A field of the subscription as text: `here` is ours, `there` the provider's; None for no value."""

    field: Key
    here: Text | None
    there: Text | None


class DriftFound(Event, type="billing.drift_found", version=1, aggregate="drift", key="drift_id"):
    """An object of a provider differs from our record.

    run_id: the reconciliation that found it, None for the redelivery poll. repaired: the object is synced again, and
    its state follows in other events; otherwise an operator has to decide. customer, provider_status: at the provider;
    plan, version: of ours, when its price belongs to one. These four are set for customers that belong to no tenant.
    """

    drift_id: Annotated[str, StringConstraints(pattern=r"^dri_[0-9a-f]{32}$"), Field(examples=["dri_" + "0" * 32])]
    run_id: RunId | None
    provider: Key
    provider_object: ProviderId
    tenant_id: TenantId | None
    subscription_id: SubscriptionId | None
    kind: DriftKind
    differences: tuple[Difference, ...]
    repaired: bool
    customer: ProviderId | None = None
    provider_status: Text | None = None
    plan: Key | None = None
    version: Count | None = None


class ReconciliationFact(Event):
    """Common fields of a reconciliation's events."""

    run_id: RunId


class ReconciliationStarted(
    ReconciliationFact, type="billing.reconciliation_started", version=1, aggregate="reconciliation", key="run_id"
):
    """The comparison of all subscriptions of a provider began. repair: differing objects are synced again."""

    provider: Key
    repair: bool
    started_at: Timestamp


class ReconciliationProgressed(
    ReconciliationFact, type="billing.reconciliation_progressed", version=1, aggregate="reconciliation", key="run_id"
):
    """A page was compared. after: cursor in the provider's list; None at its end, when our own list follows.

    mine: our subscriptions up to this id were compared. The counts cover the whole run so far.
    """

    after: ProviderId | None
    listed: bool
    mine: SubscriptionId | None
    looked: Count
    drifted: Count


class ReconciliationFinished(
    ReconciliationFact, type="billing.reconciliation_finished", version=1, aggregate="reconciliation", key="run_id"
):
    """All subscriptions were compared."""

    looked: Count
    drifted: Count


class ReconciliationStopped(
    ReconciliationFact, type="billing.reconciliation_stopped", version=1, aggregate="reconciliation", key="run_id"
):
    """An operator stopped the run before its end."""
