"""Facts of the billing service: what customers subscribed to, what that entitles them to, and what they paid."""

from enum import StrEnum

from paybill_contracts.catalogue import Feature, Interval, PlanRef
from paybill_contracts.event import Event, Value
from paybill_contracts.metering import ItemDigest, MeterId
from paybill_contracts.money import Money
from paybill_contracts.operations import (
    IntakeQuarantined,
    MessageDeadLettered,
    MessageRedriven,
    MessageSkipped,
    RequestRefused,
)
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.values import (
    Count,
    Digest,
    EventId,
    Key,
    ProviderId,
    SubscriptionId,
    TenantId,
    Text,
    Timestamp,
    Url,
)


class AccessState(StrEnum):
    """What a subscription means for access; kept apart from the provider's own word for it."""

    PENDING = "pending"
    TRIALING = "trialing"
    ACTIVE = "active"
    GRACE = "grace"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    ENDED = "ended"


class AccountRegistered(Event, type="billing.account_registered", version=1, aggregate="account", key="tenant_id"):
    """Billing knows the tenant, and will open its account at the provider, under this name and address.

    adopts: the customer that it is there already, which becomes its account; None for a new one.
    """

    tenant_id: TenantId
    name: Text
    contact_email: Personal[str]
    plan: Key
    plan_version: Count
    provider: Key
    retention_s: Count
    adopts: ProviderId | None = None


class AccountOpened(Event, type="billing.account_opened", version=1, aggregate="account", key="tenant_id"):
    """The tenant is a customer at the provider and can pay at `checkout_url`."""

    tenant_id: TenantId
    provider: Key
    customer: ProviderId
    checkout: ProviderId
    checkout_url: Url


class AccountAdopted(Event, type="billing.account_adopted", version=1, aggregate="account", key="tenant_id"):
    """The tenant is a customer that the provider had before; what it subscribed to there is looked at next."""

    tenant_id: TenantId
    provider: Key
    customer: ProviderId


class AccountFailed(Event, type="billing.account_failed", version=1, aggregate="account", key="tenant_id"):
    """The provider refused to open the account."""

    tenant_id: TenantId
    provider: Key
    reason: Text


class CancellationRequested(
    Event, type="billing.cancellation_requested", version=1, aggregate="account", key="tenant_id"
):
    """The tenant leaves: whatever it subscribed to is to be cancelled at the provider, and its checkout closed.

    `customer` is None while the account is still being opened.
    """

    tenant_id: TenantId
    provider: Key
    customer: ProviderId | None


class PendingChange(Value):
    """What a subscription becomes at `at`, or before that if it waits for a payment, without anybody asking again."""

    plan: Key
    version: Count
    quantity: Count
    at: Timestamp
    interval: Interval | None = None


class Subscription(Value):
    """A subscription as it is after the fact: the whole of it, so that nobody has to ask.

    paid_until: the end of the newest period that was paid; a failed payment takes no access away before it. interval:
    how often `price` is paid. grace_s: what the plan gives after a failed payment. past_end: the provider was asked
    after the trial or the period was over, and shows no other; so time alone takes nothing away.
    """

    subscription_id: SubscriptionId
    tenant_id: TenantId
    provider: Key
    provider_subscription: ProviderId
    provider_status: Text
    access: AccessState
    plan: PlanRef
    quantity: Count
    price: Money
    period_start: Timestamp | None
    period_end: Timestamp | None
    cancel_at: Timestamp | None
    grace_until: Timestamp | None
    trial_end: Timestamp | None = None
    paid_until: Timestamp | None = None
    interval: Interval | None = None
    pending: PendingChange | None = None
    grace_s: Count | None = None
    past_end: bool = False


class SubscriptionFact(Event):
    """What all facts of a subscription carry."""

    tenant_id: TenantId
    subscription_id: SubscriptionId
    subscription: Subscription


class SubscriptionRegistered(
    SubscriptionFact,
    type="billing.subscription_registered",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The provider has a subscription of ours that gives no access yet."""


class SubscriptionActivated(
    SubscriptionFact,
    type="billing.subscription_activated",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """A subscription gives access from now on, by payment or on trial."""


class SubscriptionChanged(
    SubscriptionFact,
    type="billing.subscription_changed",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """Period, quantity, price or plan changed; what access it gives did not."""


class SubscriptionGraceStarted(
    SubscriptionFact,
    type="billing.subscription_grace_started",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """A payment failed, or nothing was heard of one that was due; access stays until `subscription.grace_until`."""


class SubscriptionSuspended(
    SubscriptionFact,
    type="billing.subscription_suspended",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """Grace is over, or the provider gave up collecting: no access until it is paid. Nothing is deleted.

    instead: another subscription of the tenant that gives access still; then the tenant goes on with that.
    """

    instead: SubscriptionId | None = None


class SubscriptionPaused(
    SubscriptionFact,
    type="billing.subscription_paused",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The customer paused: no access until it is resumed. instead: as in SubscriptionSuspended."""

    instead: SubscriptionId | None = None


class SubscriptionRecovered(
    SubscriptionFact,
    type="billing.subscription_recovered",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """It is paid again: access as before."""


class SubscriptionEnded(
    SubscriptionFact,
    type="billing.subscription_ended",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The subscription is over. `retention_s` is how long the plan promises to keep the data.

    others: how many other subscriptions of the tenant give access still; with any, the tenant goes on.
    """

    retention_s: Count
    others: Count = 0


class PaymentFailed(Event, type="billing.payment_failed", version=1, aggregate="payment", key="payment"):
    """The provider could not collect. One fact per provider event, because the next state no longer shows it."""

    payment: ProviderId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    invoice: ProviderId
    amount: Money
    attempt: Count


class EntitlementsSet(Event, type="billing.entitlements_set", version=1, aggregate="entitlements", key="tenant_id"):
    """What the tenant may use from now on: the effective set, its hash, and the placement that it pays for.

    set_revision: counts the sets of the tenant from 1. plan_features: what the plan alone gives, None when that is what
    is in force. as_of: the time at which overrides and grants were looked at.
    """

    tenant_id: TenantId
    subscription_id: SubscriptionId
    plan: PlanRef
    tier: Key
    placement: Preset
    features: tuple[Feature, ...]
    allows_access: bool
    entitlements_hash: Digest
    set_revision: Count = 0
    plan_features: tuple[Feature, ...] | None = None
    as_of: Timestamp | None = None


class UsageRecorded(Event, type="billing.usage_recorded", version=1, aggregate="meter", key="meter_id"):
    """`quantity` units of `meter` were used; `total` counts all so far.

    `usage_id` is the publisher's id of the measurement, `meter_id` is `<tenant>:<meter>`. window_start: the window that
    it counts in; value: that window's, with this; member: which of different things it was, where those are counted.
    """

    meter_id: MeterId
    tenant_id: TenantId
    meter: Key
    usage_id: EventId
    publisher: Key
    quantity: Count
    total: Count
    occurred_at: Timestamp
    window_start: Timestamp | None = None
    value: Count | None = None
    member: ItemDigest | None = None


class PublisherGrant(Value):
    """An internal service that may report usage: of all tenants, or of these only."""

    publisher: Key
    all_tenants: bool
    tenants: tuple[TenantId, ...]


class PublishersAllowed(Event, type="billing.publishers_allowed", version=1, aggregate="publishers", key="publishers"):
    """From now on these may report usage, and nobody else: whether a report counts must replay."""

    publishers: Key
    grants: tuple[PublisherGrant, ...]
    content_hash: Digest


class BillingRequestRefused(
    RequestRefused, type="billing.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A caller was refused by a rule of this context."""


class BillingMessageDeadLettered(
    MessageDeadLettered, type="billing.message_dead_lettered", version=1, aggregate="dead-letter", key="message_key"
):
    """A fact that this context heard waits for an operator."""


class BillingMessageRedriven(
    MessageRedriven, type="billing.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator had a dead letter tried again."""


class BillingMessageSkipped(
    MessageSkipped, type="billing.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator gave up a dead letter."""


class BillingIntakeQuarantined(
    IntakeQuarantined, type="billing.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """A published message was refused by the owner of its type."""
