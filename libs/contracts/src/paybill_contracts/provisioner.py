"""Events of the provisioner: environments of tenants, planned, built, closed, opened and retained."""

from enum import StrEnum

from paybill_contracts.environment_plans import EnvironmentFact
from paybill_contracts.event import Value
from paybill_contracts.kinds import Address
from paybill_contracts.operations import (
    IntakeQuarantined,
    JobCancelled,
    JobRetried,
    MessageDeadLettered,
    MessageRedriven,
    MessageSkipped,
    RequestRefused,
)
from paybill_contracts.placement import Preset
from paybill_contracts.plan_estimates import MonthlyCost
from paybill_contracts.values import Count, Digest, Key, Slug, Text, Timestamp


class EnvironmentRegistered(
    EnvironmentFact,
    type="provisioner.environment_registered",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """A tenant will need an environment in this region; it is built once the tenant is entitled to it."""

    slug: Slug
    region: Key


class EnvironmentFailed(
    EnvironmentFact,
    type="provisioner.environment_failed",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The plan could not be applied; existing resources stay, and a retry continues from them."""

    plan_hash: Digest
    address: Address
    reason: Text


class Access(StrEnum):
    """Level of the tenant's access."""

    OPEN = "open"
    READ_ONLY = "read_only"
    CLOSED = "closed"


class AccessChangeStarted(
    EnvironmentFact,
    type="provisioner.access_change_started",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The access level is to become `access`."""

    access: Access


class AccessOpened(
    EnvironmentFact,
    type="provisioner.access_opened",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant has access again."""


class AccessClosed(
    EnvironmentFact,
    type="provisioner.access_closed",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant has no access, or read access only; its data is unchanged."""

    access: Access


class Export(Value):
    """An export of a tenant's data. `location`: name in the provisioner's store; `sha256`: of the file."""

    location: Text
    sha256: Digest
    size_bytes: Count
    rows: Count


class RetentionStarted(
    EnvironmentFact,
    type="provisioner.retention_started",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """Offboarding: the data is to be exported and access closed."""


class EnvironmentRetained(
    EnvironmentFact,
    type="provisioner.environment_retained",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant's data is exported and retained, and access is closed."""

    export: Export


class EnvironmentChangePending(
    EnvironmentFact,
    type="provisioner.environment_change_pending",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """Another tier or placement than the built one is entitled, or requested by a move. waits_for: what ends that.

    plan_hash, cost: of its plan; None in facts of earlier versions. approval_id: None when it needs none.
    """

    from_tier: Key
    from_preset: Preset
    to_tier: Key
    to_preset: Preset
    since: Timestamp
    reason: Text
    waits_for: Text
    plan_hash: Digest | None = None
    approval_id: Key | None = None
    cost: MonthlyCost | None = None


class EnvironmentChangeSettled(
    EnvironmentFact,
    type="provisioner.environment_change_settled",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """Ends a pending change: the size is entitled or planned again, or the tenant leaves. `reason` says which."""

    tier: Key
    preset: Preset
    reason: Text


class RestorationStarted(
    EnvironmentFact,
    type="provisioner.restoration_started",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant returns: its retained environment is to become accessible again, at this access level."""

    access: Access


class ProvisionerRequestRefused(
    RequestRefused, type="provisioner.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A domain rule of this context refused a caller."""


class ProvisionerMessageDeadLettered(
    MessageDeadLettered, type="provisioner.message_dead_lettered", version=1, aggregate="dead-letter", key="message_key"
):
    """An event that this context subscribes to is a dead letter and waits for an operator."""


class ProvisionerMessageRedriven(
    MessageRedriven, type="provisioner.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator retried a dead letter."""


class ProvisionerMessageSkipped(
    MessageSkipped, type="provisioner.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator skipped a dead letter."""


class ProvisionerJobRetried(JobRetried, type="provisioner.job_retried", version=1, aggregate="job", key="job_id"):
    """An operator retried a background job."""


class ProvisionerJobCancelled(JobCancelled, type="provisioner.job_cancelled", version=1, aggregate="job", key="job_id"):
    """An operator cancelled a background job."""


class ProvisionerIntakeQuarantined(
    IntakeQuarantined, type="provisioner.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """The owner of a message's type refused it."""
