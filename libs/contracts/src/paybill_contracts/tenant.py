"""Events of the tenant service: the tenants and their lifecycle."""

from enum import StrEnum

from paybill_contracts.event import Event, Value
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
from paybill_contracts.provisioner import Export
from paybill_contracts.values import Count, Digest, EnvironmentId, Key, ProviderId, Slug, TenantId, Text, Timestamp


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

    customer: an existing customer of that provider with its subscriptions; None for a new one.
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


class ProvisioningStarted(Event, type="tenant.provisioning_started", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant's environment is being built by the plan with this hash."""

    tenant_id: TenantId
    environment_id: EnvironmentId
    plan_hash: Digest


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


class OffboardingStarted(Event, type="tenant.offboarding_started", version=1, aggregate="tenant", key="tenant_id"):
    """Offboarding began: data is exported, access ends, and data is kept at least until `retain_until`."""

    tenant_id: TenantId
    origin: HoldOrigin
    reason: Text
    retain_until: Timestamp


class TenantRetained(Event, type="tenant.tenant_retained", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is offboarded and its data is kept. Nothing is purged before `retain_until`."""

    tenant_id: TenantId
    retain_until: Timestamp
    export: Export


class TenantCancelled(Event, type="tenant.tenant_cancelled", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant left before it had an environment: there is no data to export or keep."""

    tenant_id: TenantId
    origin: HoldOrigin
    reason: Text


class OfferingNoted(Event, type="tenant.offering_noted", version=1, aggregate="offering", key="offering"):
    """Options of a sign-up, as their owners published them: `plans`, `regions` or `payments`.

    `source_hash` is the hash of the catalogue, blueprint or provider list that they come from.
    """

    offering: Key
    keys: tuple[Key, ...]
    source_hash: Digest


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
