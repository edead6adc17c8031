"""Facts of the provisioner: what tenants run on, how it was planned, built, closed, opened and kept."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event, Value
from paybill_contracts.operations import (
    IntakeQuarantined,
    MessageDeadLettered,
    MessageRedriven,
    MessageSkipped,
    RequestRefused,
)
from paybill_contracts.placement import Isolation, Placement, Preset
from paybill_contracts.values import Count, Digest, EnvironmentId, Key, SecretRef, Slug, TenantId, Text

Address = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,120}$"), Field(examples=["postgres.schema.main"])
]
"""A resource's name inside its environment: `<kind>.<name>`."""

Property = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$"), Field(examples=["value"])]


class Resource(Value):
    """One thing to be built. `needs` are the addresses that must exist before it."""

    address: Address
    kind: Key
    layer: Key
    isolation: Isolation
    properties: dict[Key, Property]
    needs: tuple[Address, ...]


class Column(Value):
    """A column of a table that tenants get. `type` is one of the blueprint's allowed PostgreSQL types."""

    name: Key
    type: Key


class Table(Value):
    """A table of the customers' product; every placement gives a tenant its own rows of it."""

    name: Key
    columns: tuple[Column, ...]


class TierBlueprint(Value):
    """What a tier's environment is made of, on which placement and cloud."""

    tier: Key
    placement: Preset
    cloud: Key
    connection_limit: Count


class Blueprint(Value):
    """Versioned data that says which resources a tier and placement need, and in which regions we build."""

    name: Key
    regions: tuple[Key, ...]
    tiers: tuple[TierBlueprint, ...]
    tables: tuple[Table, ...]


class BlueprintPublished(
    Event, type="provisioner.blueprint_published", version=1, aggregate="blueprint", key="blueprint"
):
    """From now on environments are planned by this. Plans name `content_hash`."""

    blueprint: Key
    content: Blueprint
    content_hash: Digest


class EnvironmentFact(Event):
    """What all facts of an environment carry."""

    tenant_id: TenantId
    environment_id: EnvironmentId


class EnvironmentRegistered(
    EnvironmentFact,
    type="provisioner.environment_registered",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """A tenant will need an environment here; it is built when the tenant is entitled to one."""

    slug: Slug
    region: Key


class StepAction(StrEnum):
    """What a plan does to a resource."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Step(Value):
    """One change of a plan."""

    action: StepAction
    resource: Resource


class Plan(Value):
    """The difference between what is wanted and what is there, in an order that respects `needs`.

    `based_on` is the environment's revision that it was computed from.
    """

    environment_id: EnvironmentId
    based_on: Count
    blueprint_hash: Digest
    entitlements_hash: Digest
    tier: Key
    preset: Preset
    placement: Placement
    cloud: Key
    region: Key
    steps: tuple[Step, ...]


class EnvironmentPlanned(
    EnvironmentFact,
    type="provisioner.environment_planned",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """This is what will be built. The executor does exactly the plan with `plan_hash`."""

    plan: Plan
    plan_hash: Digest


class ResourceBuilt(
    EnvironmentFact,
    type="provisioner.resource_built",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """One step of the plan is done. `outputs` hold what later steps and readers need, never a secret."""

    address: Address
    plan_hash: Digest
    outputs: dict[Key, Property]


class EnvironmentFailed(
    EnvironmentFact,
    type="provisioner.environment_failed",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The plan could not be carried out; what was built stays, and another attempt goes on from there."""

    plan_hash: Digest
    address: Address
    reason: Text


class Endpoint(Value):
    """Where a tenant's data is. The password is behind `secret`."""

    host: Text
    port: Annotated[int, Field(ge=1, le=65_535)]
    database: Text
    schema_name: Text
    username: Text
    secret: SecretRef


class EnvironmentReady(
    EnvironmentFact,
    type="provisioner.environment_ready",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant's environment stands. `epoch` grows by one with every placement of the tenant."""

    plan_hash: Digest
    epoch: Count
    endpoint: Endpoint


class Access(StrEnum):
    """Whether the tenant can get in."""

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
    """Access is to become `access`."""

    access: Access


class AccessOpened(
    EnvironmentFact,
    type="provisioner.access_opened",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant can get in again."""


class AccessClosed(
    EnvironmentFact,
    type="provisioner.access_closed",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant is out, or can only read; its data is untouched."""

    access: Access


class Export(Value):
    """A copy of a tenant's data. `location` is a name inside the provisioner's store, `sha256` that of the file."""

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
    """The tenant leaves: export, then close."""


class EnvironmentRetained(
    EnvironmentFact,
    type="provisioner.environment_retained",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant's data is exported and kept, and nobody can get in."""

    export: Export


class ProvisionerRequestRefused(
    RequestRefused, type="provisioner.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A caller was refused by a rule of this context."""


class ProvisionerMessageDeadLettered(
    MessageDeadLettered, type="provisioner.message_dead_lettered", version=1, aggregate="dead-letter", key="message_key"
):
    """A fact that this context heard waits for an operator."""


class ProvisionerMessageRedriven(
    MessageRedriven, type="provisioner.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator had a dead letter tried again."""


class ProvisionerMessageSkipped(
    MessageSkipped, type="provisioner.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator gave up a dead letter."""


class ProvisionerIntakeQuarantined(
    IntakeQuarantined, type="provisioner.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """A published message was refused by the owner of its type."""
