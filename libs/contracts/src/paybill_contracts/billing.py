"""Events of the billing service: accounts, subscriptions, entitlements, usage and failed payments."""

from enum import StrEnum

from paybill_contracts.catalogue import Feature, Interval, PlanRef
from paybill_contracts.event import Event, Value
from paybill_contracts.metering import ItemDigest, MeterId
from paybill_contracts.money import Money
from paybill_contracts.operations import (
    IntakeQuarantined,
    JobCancelled,
    JobRetried,
    MessageDeadLettered,
    MessageRedriven,
    MessageSkipped,
    RequestRefused,
)
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.purchases import PurchaseTerms
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
    """Access that a subscription gives; independent of the provider's own status."""

    PENDING = "pending"
    TRIALING = "trialing"
    ACTIVE = "active"
    GRACE = "grace"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    ENDED = "ended"


class AccountRegistered(Event, type="billing.account_registered", version=1, aggregate="account", key="tenant_id"):
    """Billing will open the tenant's account at the provider, under this name and address.

    adopts: the provider's existing customer that becomes the account; None for a new one. has_trial: False when the
    customer has had the plan's trial. trial_id: of its claim, None without one. terms: None for one unit
    at the plan's first price.
    """

    tenant_id: TenantId
    name: Text
    contact_email: Personal[str]
    plan: Key
    plan_version: Count
    provider: Key
    retention_s: Count
    adopts: ProviderId | None = None
    has_trial: bool = True
    trial_id: Digest | None = None
    terms: PurchaseTerms | None = None


class AccountOpened(Event, type="billing.account_opened", version=1, aggregate="account", key="tenant_id"):
    """The tenant is a customer at the provider and can pay at `checkout_url`."""

    tenant_id: TenantId
    provider: Key
    customer: ProviderId
    checkout: ProviderId
    checkout_url: Url


class AccountAdopted(Event, type="billing.account_adopted", version=1, aggregate="account", key="tenant_id"):
    """An existing customer of the provider is the tenant's account; its subscriptions are synced next."""

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
    """The tenant leaves: all its subscriptions are to be cancelled at the provider, and its checkout closed.

    `customer` is None while the account is still being opened. is_abandoned: nobody paid the sign-up.
    """

    tenant_id: TenantId
    provider: Key
    customer: ProviderId | None
    is_abandoned: bool = False


class PendingChange(Value):
    """Change that a subscription undergoes at `at`, or earlier when it waits for a payment, without another request."""

    plan: Key
    version: Count
    quantity: Count
    at: Timestamp
    interval: Interval | None = None


class Subscription(Value):
    """Complete state of a subscription after the event, so that subscribers need not call back.

    paid_until: the end of the newest paid period; a failed payment does not end access before it. interval: how often
    `price` is paid. grace_s: the plan's grace period after a failed payment. past_end: the provider was fetched after
    the end of the trial or period and shows no newer one, so time alone does not end access. overdue: what is unpaid of
    the newest invoice after a failed collection. unpaid_invoice: that invoice. pause: the behaviour of a pause of
    collection at the provider, such as `void`; None while payments are collected.
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
    overdue: Money | None = None
    pause: Key | None = None
    unpaid_invoice: ProviderId | None = None


class SubscriptionFact(Event):
    """Common fields of a subscription's events."""

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
    """The provider has a subscription of the tenant that gives no access yet."""


class SubscriptionActivated(
    SubscriptionFact,
    type="billing.subscription_activated",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The subscription gives access from now on, by payment or on trial."""


class SubscriptionChanged(
    SubscriptionFact,
    type="billing.subscription_changed",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """Period, quantity, price or plan changed; access did not."""


class SubscriptionGraceStarted(
    SubscriptionFact,
    type="billing.subscription_grace_started",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """A payment failed, or a due payment was not confirmed; access stays until `subscription.grace_until`."""


class SubscriptionSuspended(
    SubscriptionFact,
    type="billing.subscription_suspended",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The grace period is over, or the provider stopped collecting: no access until payment. Nothing is deleted.

    instead: another entitling subscription of the tenant, which it continues with.
    """

    instead: SubscriptionId | None = None


class SubscriptionPaused(
    SubscriptionFact,
    type="billing.subscription_paused",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The customer paused the subscription: no access until it resumes. instead: as in SubscriptionSuspended."""

    instead: SubscriptionId | None = None


class SubscriptionRecovered(
    SubscriptionFact,
    type="billing.subscription_recovered",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The subscription is paid again: access as before."""


class SubscriptionEnded(
    SubscriptionFact,
    type="billing.subscription_ended",
    version=1,
    aggregate="subscription",
    key="subscription_id",
):
    """The subscription ended. `retention_s`: the plan's retention period for the tenant's data.

    others: number of the tenant's other entitling subscriptions; with at least one, the tenant stays. All subscriptions
    of the customer were fetched before. remaining: those at the provider that belong to no plan and have not ended.
    """

    retention_s: Count
    others: Count = 0
    remaining: tuple[ProviderId, ...] = ()


class PaymentFailed(Event, type="billing.payment_failed", version=1, aggregate="payment", key="payment"):
    """The provider could not collect. One event per provider event, because the next state no longer shows it."""

    payment: ProviderId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    invoice: ProviderId
    amount: Money
    attempt: Count


class EntitlementsSet(Event, type="billing.entitlements_set", version=1, aggregate="entitlements", key="tenant_id"):
    """The tenant's effective entitlements from now on, their hash, and the placement that it pays for.

    set_revision: counts the tenant's sets from 1. plan_features: the features of the plan alone, None when they equal
    `features`. as_of: the time at which overrides and grants were evaluated.
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

    `usage_id` is the publisher's id of the measurement, `meter_id` is `<tenant>:<meter>`. window_start: of the window
    that it counts in; value: of that window, this usage included; member: digest of the item, for a meter of distinct
    items. period_start: of the billing period that it happened in; included: the units of a window that cost nothing
    extra.
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
    period_start: Timestamp | None = None
    included: Count | None = None


class PublisherGrant(Value):
    """An internal service that may report usage: of all tenants, or only of the listed ones."""

    publisher: Key
    all_tenants: bool
    tenants: tuple[TenantId, ...]


class PublishersAllowed(Event, type="billing.publishers_allowed", version=1, aggregate="publishers", key="publishers"):
    """Only these publishers may report usage from now on. It is an event so that replay gives the same decisions."""

    publishers: Key
    grants: tuple[PublisherGrant, ...]
    content_hash: Digest


class BillingRequestRefused(
    RequestRefused, type="billing.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A domain rule of this context refused a caller."""


class BillingMessageDeadLettered(
    MessageDeadLettered, type="billing.message_dead_lettered", version=1, aggregate="dead-letter", key="message_key"
):
    """An event that this context subscribes to is a dead letter and waits for an operator."""


class BillingMessageRedriven(
    MessageRedriven, type="billing.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator retried a dead letter."""


class BillingMessageSkipped(
    MessageSkipped, type="billing.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator skipped a dead letter."""


class BillingJobRetried(JobRetried, type="billing.job_retried", version=1, aggregate="job", key="job_id"):
    """An operator retried a background job."""


class BillingJobCancelled(JobCancelled, type="billing.job_cancelled", version=1, aggregate="job", key="job_id"):
    """An operator cancelled a background job."""


class BillingIntakeQuarantined(
    IntakeQuarantined, type="billing.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """The owner of a message's type refused it."""


class CustomerDismissed(
    Event, type="billing.customer_dismissed", version=1, aggregate="dismissed-customer", key="dismissed"
):
    """A customer of the provider is not ours: its objects are dismissed. dismissed: `<provider>/<customer>`."""

    dismissed: ProviderId
    provider: Key
    customer: ProviderId
    reason: Text


class CustomerReadmitted(
    Event, type="billing.customer_readmitted", version=1, aggregate="dismissed-customer", key="dismissed"
):
    """The customer has an account now: its objects are synced again."""

    dismissed: ProviderId
    provider: Key
    customer: ProviderId
