"""Facts about reconciliation: what a provider holds, compared with what we know, and repaired."""

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
    """How a provider and we differ.

    UNDELIVERED: a message that never reached us. UNKNOWN_HERE: a subscription of a customer of ours that we have not
    heard of. UNKNOWN_CUSTOMER: one of a customer that belongs to no tenant here. UNKNOWN_THERE: one that the provider
    does not have any more. DIFFERENT: both have it, and it is not the same.
    """

    UNDELIVERED = "undelivered"
    UNKNOWN_HERE = "unknown_here"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_THERE = "unknown_there"
    DIFFERENT = "different"


class Difference(Value):
    """A field of the subscription, as text: what we hold, and what the provider shows; None for nothing."""

    field: Key
    here: Text | None
    there: Text | None


class DriftFound(Event, type="billing.drift_found", version=1, aggregate="drift", key="drift_id"):
    """A provider and we differ about one of its objects.

    run_id: the reconciliation that found it, None for the sweep of what was not delivered. repaired: the object is
    looked at again, and what it is follows as facts of its own; otherwise somebody has to decide. customer: whose it is
    at the provider; provider_status, plan, version: what it is there, and what its price sells of ours, if anything.
    These four are told of customers that belong to no tenant here.
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
    """What all facts of a reconciliation carry."""

    run_id: RunId


class ReconciliationStarted(
    ReconciliationFact, type="billing.reconciliation_started", version=1, aggregate="reconciliation", key="run_id"
):
    """All subscriptions of a provider are compared from now on. repair: what differs is looked at again."""

    provider: Key
    repair: bool
    started_at: Timestamp


class ReconciliationProgressed(
    ReconciliationFact, type="billing.reconciliation_progressed", version=1, aggregate="reconciliation", key="run_id"
):
    """A page was compared. after: where the provider's list goes on; None when it is through, and ours follow.

    mine: our subscriptions up to this id were compared, too. The counts are of the whole run so far.
    """

    after: ProviderId | None
    listed: bool
    mine: SubscriptionId | None
    looked: Count
    drifted: Count


class ReconciliationFinished(
    ReconciliationFact, type="billing.reconciliation_finished", version=1, aggregate="reconciliation", key="run_id"
):
    """Everything was compared."""

    looked: Count
    drifted: Count


class ReconciliationStopped(
    ReconciliationFact, type="billing.reconciliation_stopped", version=1, aggregate="reconciliation", key="run_id"
):
    """An operator ended it before it was through."""
