"""Facts of the tenant service: who our customers are, and where each stands in its lifecycle."""

from enum import StrEnum

from paybill_contracts.event import Event, Value
from paybill_contracts.operations import (
    IntakeQuarantined,
    MessageDeadLettered,
    MessageRedriven,
    MessageSkipped,
    RequestRefused,
)
from paybill_contracts.personal import Personal
from paybill_contracts.provisioner import Export
from paybill_contracts.values import Count, Digest, EnvironmentId, Key, ProviderId, Slug, TenantId, Text, Timestamp


class SuspensionMode(StrEnum):
    """What a suspended tenant may still do. Neither deletes anything."""

    READ_ONLY = "read_only"
    BLOCKED = "blocked"


class HoldOrigin(StrEnum):
    """Who put a hold on a tenant. Each lifts only its own."""

    BILLING = "billing"
    OPERATOR = "operator"


class Hold(Value):
    """One reason why a tenant is shut out."""

    origin: HoldOrigin
    mode: SuspensionMode
    reason: Text


class Source(StrEnum):
    """How onboarding began: at our API, or at the provider's checkout."""

    API = "api"
    CHECKOUT = "checkout"


class TenantRequested(Event, type="tenant.tenant_requested", version=1, aggregate="tenant", key="tenant_id"):
    """Somebody wants to become a customer. payment: the billing provider that it wants to pay through, None for any.

    customer: the customer that it is there already, with what it subscribed to; None for a new one.
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
    """The tenant's environment is being built, by the plan with this hash."""

    tenant_id: TenantId
    environment_id: EnvironmentId
    plan_hash: Digest


class ProvisioningFailed(Event, type="tenant.provisioning_failed", version=1, aggregate="tenant", key="tenant_id"):
    """The environment could not be built; it can be tried again."""

    tenant_id: TenantId
    environment_id: EnvironmentId
    reason: Text


class TenantActivated(Event, type="tenant.tenant_activated", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant can work: its environment of this epoch is ready."""

    tenant_id: TenantId
    slug: Slug
    environment_id: EnvironmentId
    epoch: Count


class TenantSuspended(Event, type="tenant.tenant_suspended", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is shut out, all it owns is kept. `holds` are all that are in force; `mode` is the strictest."""

    tenant_id: TenantId
    mode: SuspensionMode
    holds: tuple[Hold, ...]


class TenantReactivated(Event, type="tenant.tenant_reactivated", version=1, aggregate="tenant", key="tenant_id"):
    """The last hold is gone. `lifted` says whose it was."""

    tenant_id: TenantId
    lifted: HoldOrigin


class HoldsChanged(Event, type="tenant.holds_changed", version=1, aggregate="tenant", key="tenant_id"):
    """`holds` are in force from now on; they take effect once the environment is ready: nobody is shut out before."""

    tenant_id: TenantId
    holds: tuple[Hold, ...]


class RetentionNoted(Event, type="tenant.retention_noted", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant's plan promises to keep its data for `retention_s` seconds after it left."""

    tenant_id: TenantId
    retention_s: Count


class OffboardingStarted(Event, type="tenant.offboarding_started", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant leaves: its data is exported, its access ends, and its data stays until `retain_until` at least."""

    tenant_id: TenantId
    origin: HoldOrigin
    reason: Text
    retain_until: Timestamp


class TenantRetained(Event, type="tenant.tenant_retained", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is gone and its data is kept. Nothing is purged before `retain_until`."""

    tenant_id: TenantId
    retain_until: Timestamp
    export: Export


class TenantCancelled(Event, type="tenant.tenant_cancelled", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant left before its environment was ready: nothing to export, nothing to keep."""

    tenant_id: TenantId
    origin: HoldOrigin
    reason: Text


class OfferingNoted(Event, type="tenant.offering_noted", version=1, aggregate="offering", key="offering"):
    """What may be asked for when signing up, as the owners published it: `plans` or `regions`.

    `source_hash` is the hash of the published catalogue or blueprint that it was read from.
    """

    offering: Key
    keys: tuple[Key, ...]
    source_hash: Digest


class TenantRequestRefused(
    RequestRefused, type="tenant.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A caller was refused by a rule of this context."""


class TenantMessageDeadLettered(
    MessageDeadLettered, type="tenant.message_dead_lettered", version=1, aggregate="dead-letter", key="message_key"
):
    """A fact that this context heard waits for an operator."""


class TenantMessageRedriven(
    MessageRedriven, type="tenant.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator had a dead letter tried again."""


class TenantMessageSkipped(
    MessageSkipped, type="tenant.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator gave up a dead letter."""


class TenantIntakeQuarantined(
    IntakeQuarantined, type="tenant.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """A published message was refused by the owner of its type."""
