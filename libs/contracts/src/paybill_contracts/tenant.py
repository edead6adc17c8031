"""Events of the tenant service: the tenants and their lifecycle."""

from enum import StrEnum

from paybill_contracts.event import Event, Value
from paybill_contracts.incidents import IncidentId
from paybill_contracts.money import Money
from paybill_contracts.operations import (
    DataKeysShared,
    DataKeysWithdrawn,
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
from paybill_contracts.provisioner import Export
from paybill_contracts.purchases import PlanPrices, PurchaseTerms
from paybill_contracts.values import (
    Count,
    Digest,
    EnvironmentId,
    Key,
    ProviderId,
    SecretRef,
    Slug,
    TenantId,
    Text,
    Timestamp,
)


class SuspensionMode(StrEnum):
    """Remaining access of a suspended tenant. No mode deletes data."""

    READ_ONLY = "read_only"
    BLOCKED = "blocked"


class HoldOrigin(StrEnum):
    """Origin of a hold. Each origin lifts only its own hold."""

    BILLING = "billing"
    OPERATOR = "operator"


class Hold(Value):
    """A reason for the suspension of a tenant."""

    origin: HoldOrigin
    mode: SuspensionMode
    reason: Text


class Source(StrEnum):
    """Origin of the onboarding: our API, or the provider's checkout."""

    API = "api"
    CHECKOUT = "checkout"


class TenantRequested(Event, type="tenant.tenant_requested", version=1, aggregate="tenant", key="tenant_id"):
    """A new tenant is requested. payment: the billing provider for its payments, None for the default.

    customer: an existing customer of that provider with its subscriptions; None for a new one. valid_until: without a
    subscription by then, the sign-up counts as abandoned; None for no limit. contact_digest: HMAC-SHA-256 of the
    normalised address under a key of the service, which counts as the same customer until contact_until. terms:
    None for one unit at the plan's first price. requested_at: None in facts of earlier versions.
    """

    tenant_id: TenantId
    slug: Slug
    name: Text
    plan: Key
    region: Key
    contact_email: Personal[str]
    source: Source
    payment: Key | None = None
    customer: ProviderId | None = None
    valid_until: Timestamp | None = None
    contact_digest: Digest | None = None
    contact_until: Timestamp | None = None
    terms: PurchaseTerms | None = None
    requested_at: Timestamp | None = None


class ProvisioningStarted(Event, type="tenant.provisioning_started", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant's environment is being built by the plan with this hash. expected_by: later counts as overdue."""

    tenant_id: TenantId
    environment_id: EnvironmentId
    plan_hash: Digest
    expected_by: Timestamp | None = None


class ProvisioningFailed(Event, type="tenant.provisioning_failed", version=1, aggregate="tenant", key="tenant_id"):
    """The environment could not be built; it can be retried."""

    tenant_id: TenantId
    environment_id: EnvironmentId
    reason: Text


class TenantActivated(Event, type="tenant.tenant_activated", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is active: its environment of this epoch is ready."""

    tenant_id: TenantId
    slug: Slug
    environment_id: EnvironmentId
    epoch: Count


class TenantSuspended(Event, type="tenant.tenant_suspended", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is suspended, and its data is kept. `holds`: all that are in force; `mode`: the strictest."""

    tenant_id: TenantId
    mode: SuspensionMode
    holds: tuple[Hold, ...]


class TenantReactivated(Event, type="tenant.tenant_reactivated", version=1, aggregate="tenant", key="tenant_id"):
    """The last hold was lifted. `lifted`: its origin."""

    tenant_id: TenantId
    lifted: HoldOrigin


class HoldsChanged(Event, type="tenant.holds_changed", version=1, aggregate="tenant", key="tenant_id"):
    """`holds` are in force from now on, and take effect once the environment is ready."""

    tenant_id: TenantId
    holds: tuple[Hold, ...]


class RetentionNoted(Event, type="tenant.retention_noted", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant's plan has a retention period of `retention_s` seconds after offboarding."""

    tenant_id: TenantId
    retention_s: Count


class EntitlementNoted(Event, type="tenant.entitlement_noted", version=1, aggregate="tenant", key="tenant_id"):
    """Billing set the tenant's entitlements. allows_access: it is entitled to the tier in this placement now.

    expected_by: time after which the plan of its environment is overdue, or the build if access was withdrawn during
    it; None when no wait begins.
    """

    tenant_id: TenantId
    allows_access: bool
    plan: Key
    tier: Key
    placement: Preset
    entitlements_hash: Digest
    expected_by: Timestamp | None


class OffboardingScheduled(Event, type="tenant.offboarding_scheduled", version=1, aggregate="tenant", key="tenant_id"):
    """The last subscription ended; offboarding begins at `at`, unless a subscription gives access before.

    remaining: subscriptions of the customer that belong to no plan and have not ended.
    """

    tenant_id: TenantId
    reason: Text
    retention_s: Count
    at: Timestamp
    remaining: tuple[ProviderId, ...]


class OffboardingWithdrawn(Event, type="tenant.offboarding_withdrawn", version=1, aggregate="tenant", key="tenant_id"):
    """A subscription gives access again before the scheduled offboarding began."""

    tenant_id: TenantId


class RemainderNoted(Event, type="tenant.remainder_noted", version=1, aggregate="tenant", key="tenant_id"):
    """These objects at the provider can still charge the customer although the tenant is leaving or has left.

    remaining: ids of subscriptions, schedules, checkouts and invoice items.
    """

    tenant_id: TenantId
    remaining: tuple[ProviderId, ...]


class DebtNoted(Event, type="tenant.debt_noted", version=1, aggregate="tenant", key="tenant_id"):
    """The customer owes these amounts at the provider, one for each currency."""

    tenant_id: TenantId
    debt: tuple[Money, ...]


class OpenIncident(Value):
    """An open incident of a service about the tenant. is_owned: a person or a team is its owner.

    kind, subject: None when an earlier version recorded it.
    """

    incident_id: IncidentId
    is_owned: bool
    kind: Key | None = None
    subject: Text | None = None


class IncidentsNoted(Event, type="tenant.incidents_noted", version=1, aggregate="tenant", key="tenant_id"):
    """These incidents about the tenant are open, at any service."""

    tenant_id: TenantId
    incidents: tuple[OpenIncident, ...]


class ContactForgotten(Event, type="tenant.contact_forgotten", version=1, aggregate="tenant", key="tenant_id"):
    """The digest of the contact address no longer counts, because its time is over."""

    tenant_id: TenantId


class LegalHoldPlaced(Event, type="tenant.legal_hold_placed", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant's data must be kept for a legal case: nothing that leads to its deletion begins.

    case: reference of the case, without personal data.
    """

    tenant_id: TenantId
    case: Text


class LegalHoldReleased(Event, type="tenant.legal_hold_released", version=1, aggregate="tenant", key="tenant_id"):
    """A legal hold ended. Others may remain."""

    tenant_id: TenantId
    case: Text


class ReturnStarted(Event, type="tenant.return_started", version=1, aggregate="tenant", key="tenant_id"):
    """A customer whose data is retained subscribed again: the environment becomes accessible, with the same data.

    It is no longer to be deleted. holds: those that remain in force. tier, placement, entitlements_hash: what the
    tenant is entitled to now. expected_by: later counts as overdue.
    """

    tenant_id: TenantId
    holds: tuple[Hold, ...]
    plan: Key
    tier: Key
    placement: Preset
    entitlements_hash: Digest
    expected_by: Timestamp


class OffboardingStarted(Event, type="tenant.offboarding_started", version=1, aggregate="tenant", key="tenant_id"):
    """Offboarding began: data is exported, access ends, and data is kept at least until `retain_until`.

    expected_by: an export that ends later is overdue.
    """

    tenant_id: TenantId
    origin: HoldOrigin
    reason: Text
    retain_until: Timestamp
    expected_by: Timestamp | None = None


class ReturnRuledOut(Event, type="tenant.return_ruled_out", version=1, aggregate="tenant", key="tenant_id"):
    """The customer of a tenant that billing offboarded can no longer return: an operator, or the purge, ended that."""

    tenant_id: TenantId
    reason: Text


class TenantRetained(Event, type="tenant.tenant_retained", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is offboarded and its data is kept. Nothing is purged before `retain_until`."""

    tenant_id: TenantId
    retain_until: Timestamp
    export: Export


class TenantCancelled(Event, type="tenant.tenant_cancelled", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant left before it had an environment: there is no data to export or keep.

    is_abandoned: nobody paid, in time or before an operator ended it; the checkout is to be closed, the slug is free.
    """

    tenant_id: TenantId
    origin: HoldOrigin
    reason: Text
    is_abandoned: bool = False


class LifecyclePolicySet(
    Event, type="tenant.lifecycle_policy_set", version=1, aggregate="lifecycle-policy", key="policy"
):
    """Times of the lifecycle from now on, as the settings define them.

    offboarding_delay_s: from the end of the last subscription to offboarding. signup_valid_s: from a sign-up without a
    subscription until it counts as abandoned. contact_key: the secret with the key of contact digests.
    """

    policy: Key
    offboarding_delay_s: Count
    signup_valid_s: Count
    contact_key: SecretRef | None = None


class OfferingNoted(Event, type="tenant.offering_noted", version=1, aggregate="offering", key="offering"):
    """Options of a sign-up, as their owners published them: `plans`, `regions` or `payments`.

    `source_hash` is the hash of the catalogue, blueprint or provider list that they come from. prices: of the plans;
    empty in facts that are older than the choice of a price. default: the payment provider of sign-ups that name none.
    """

    offering: Key
    keys: tuple[Key, ...]
    source_hash: Digest
    prices: tuple[PlanPrices, ...] = ()
    default: Key | None = None


class TenantRequestRefused(
    RequestRefused, type="tenant.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A domain rule of this context refused a caller."""


class TenantMessageDeadLettered(
    MessageDeadLettered, type="tenant.message_dead_lettered", version=1, aggregate="dead-letter", key="message_key"
):
    """An event that this context subscribes to is a dead letter and waits for an operator."""


class TenantMessageRedriven(
    MessageRedriven, type="tenant.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator retried a dead letter."""


class TenantMessageSkipped(
    MessageSkipped, type="tenant.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator skipped a dead letter."""


class TenantJobRetried(JobRetried, type="tenant.job_retried", version=1, aggregate="job", key="job_id"):
    """An operator retried a background job."""


class TenantJobCancelled(JobCancelled, type="tenant.job_cancelled", version=1, aggregate="job", key="job_id"):
    """An operator cancelled a background job."""


class TenantDataKeysShared(
    DataKeysShared, type="tenant.data_keys_shared", version=1, aggregate="key-recipient", key="recipient"
):
    """An operator let a subscriber open the personal data of this context."""


class TenantDataKeysWithdrawn(
    DataKeysWithdrawn, type="tenant.data_keys_withdrawn", version=1, aggregate="key-recipient", key="recipient"
):
    """An operator withdrew the right to open personal data of this context."""


class TenantIntakeQuarantined(
    IntakeQuarantined, type="tenant.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """The owner of a message's type refused it."""
