"""Plans of tenants' environments, and the facts of what is built by them.

Before version 2, resources were untyped and an environment had one connection: the upcasters are at the end.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event, Payload, Value, upcaster
from paybill_contracts.kinds import Address, Attributes, Name, Schema
from paybill_contracts.placement import Isolation, Placement, Preset
from paybill_contracts.plan_estimates import Estimates
from paybill_contracts.price_book import PriceBookRef
from paybill_contracts.values import Count, Digest, EnvironmentId, Key, SecretRef, TenantId, Text, Timestamp

Property = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$"), Field(examples=["value"])]


class Resource(Value):
    """A resource of an environment. `needs`: addresses of resources that must exist before it."""

    address: Address
    layer: Key
    isolation: Isolation
    attributes: Attributes
    needs: tuple[Address, ...]

    @property
    def kind(self) -> str:
        """Name of its kind."""
        return self.attributes.kind

    @property
    def identity(self) -> str:
        """Its name at the provider; that of a schema with its database."""
        attributes = self.attributes
        return f"{attributes.database}/{attributes.name}" if isinstance(attributes, Schema) else attributes.name


class EnvironmentFact(Event):
    """Common fields of an environment's events."""

    tenant_id: TenantId
    environment_id: EnvironmentId


class StepAction(StrEnum):
    """Action of a plan on a resource.

    adopt: it exists and becomes recorded. rebuild: it stays, and its content is written anew, which locks it. replace:
    another resource takes its place.
    """

    CREATE = "create"
    ADOPT = "adopt"
    UPDATE = "update"
    REBUILD = "rebuild"
    REPLACE = "replace"
    DELETE = "delete"


class Step(Value):
    """One change of a plan. before: the built resource, None for a new one; after: None for one that is deleted.

    repairs: the resource differs from its record, which stays.
    """

    action: StepAction
    before: Resource | None
    after: Resource | None
    reason: Text | None = None
    repairs: bool = False

    @property
    def address(self) -> str:
        """Address of the resource."""
        return self.resource.address

    @property
    def keeps_record(self) -> bool:
        """True when the record of the resource does not show that the step is done."""
        return self.repairs or self.before == self.after

    @property
    def key(self) -> str:
        """Identifies the step in its plan."""
        return step_key(self.action, self.address, self.resource.identity)

    @property
    def resource(self) -> Resource:
        """The resource after the step; of a deletion the one before it."""
        resource = self.after or self.before
        if resource is None:
            raise ValueError("a step has a resource before or after it")
        return resource


def step_key(action: StepAction, address: str, identity: str) -> str:
    """Returns what identifies a step in its plan.

    identity: of the resource. A replacement and the deletions of what it and earlier plans replaced have one address.
    """
    return f"{action}:{address}:{identity}"


class BlueprintRef(Value):
    """A version of a blueprint. `content_hash` identifies what it contains."""

    name: Key
    version: Count
    content_hash: Digest


class Plan(Value):
    """The difference between desired and existing resources, in an order that respects `needs`.

    based_on: the environment's base revision that it was computed from; observed_hash: of the resources that existed,
    as the drivers reported them. limits: of the entitlements, which expressions of the blueprint use. price_book: by
    which it is estimated, None when none is published. purge: it deletes everything that exists for a tenant that left.
    hashed: False for a plan of an earlier version, of which the hash cannot be computed again.
    """

    environment_id: EnvironmentId
    epoch: Count
    based_on: Count
    observed_hash: Digest | None = None
    blueprint: BlueprintRef
    entitlements_hash: Digest
    tier: Key
    preset: Preset
    placement: Placement
    cloud: Key
    region: Key
    limits: dict[Key, Count]
    price_book: PriceBookRef | None = None
    steps: tuple[Step, ...]
    estimates: Estimates = Field(default_factory=Estimates)
    purge: bool = False
    hashed: bool = True


class EnvironmentPlanned(
    EnvironmentFact,
    type="provisioner.environment_planned",
    version=2,
    aggregate="environment",
    key="environment_id",
):
    """The plan is recorded. The executor applies exactly the plan with `plan_hash`."""

    plan: Plan
    plan_hash: Digest
    planned_at: Timestamp | None = None


class EnvironmentDesired(
    EnvironmentFact,
    type="provisioner.environment_desired",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """The tenant is entitled to this tier and placement with these limits; without access nothing is built."""

    tier: Key
    preset: Preset
    entitlements_hash: Digest
    limits: dict[Key, Count]
    allows_access: bool


class PlanRefused(
    EnvironmentFact, type="provisioner.plan_refused", version=1, aggregate="environment", key="environment_id"
):
    """The desired state cannot be planned by the blueprint in force. next_step: what ends that."""

    tier: Key
    preset: Preset
    entitlements_hash: Digest
    code: Key
    reason: Text
    next_step: Text


class BuiltOutputs(Value):
    """A resource that is built. `outputs`: values for later steps and consumers, never a secret."""

    address: Address
    outputs: dict[Key, Property]


class ResourceBuilt(
    EnvironmentFact,
    type="provisioner.resource_built",
    version=2,
    aggregate="environment",
    key="environment_id",
):
    """Steps of the plan are done that became durable together."""

    plan_hash: Digest
    resources: tuple[BuiltOutputs, ...]


class ResourceRemoved(
    EnvironmentFact,
    type="provisioner.resource_removed",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """A step of the plan removed a resource, and its absence was observed. name: that of a schema with its database."""

    plan_hash: Digest
    address: Address
    name: Name


class Connection(Value):
    """Parameters of a tenant's connection to a database. secret: of the password; None until it is requested.

    address: of the login's role in the environment.
    """

    address: Address
    host: Text
    port: Annotated[int, Field(ge=1, le=65_535)]
    database: Text
    schema_name: Text
    username: Text
    secret: SecretRef | None = None


class AgentConnection(Value):
    """The agents' login of a tenant. The password is a secret that only the agent gateway can open.

    blueprint: by which the environment is built. epoch: of the placement; an older connection is never used again.
    """

    connection: Connection
    blueprint: Key
    preset: Preset
    epoch: Count


class EnvironmentReady(
    EnvironmentFact,
    type="provisioner.environment_ready",
    version=2,
    aggregate="environment",
    key="environment_id",
):
    """The tenant's environment is ready. `epoch` grows with every placement of the tenant, and with its return.

    agents: the login of its agents; None while it has none.
    """

    plan_hash: Digest
    epoch: Count
    connections: tuple[Connection, ...]
    agents: AgentConnection | None = None


class StepsIntended(
    EnvironmentFact, type="provisioner.steps_intended", version=1, aggregate="environment", key="environment_id"
):
    """These resources are created next, of kinds without unique names: a repetition first searches for them."""

    plan_hash: Digest
    addresses: tuple[Address, ...]
    intended_at: Timestamp


class StepPending(
    EnvironmentFact, type="provisioner.step_pending", version=1, aggregate="environment", key="environment_id"
):
    """The provider works on a step of the plan. name: as of a removed resource; reference: of its operation."""

    plan_hash: Digest
    action: StepAction
    address: Address
    name: Name
    reference: Text


class EnvironmentChanged(
    EnvironmentFact,
    type="provisioner.environment_changed",
    version=1,
    aggregate="environment",
    key="environment_id",
):
    """A plan changed an environment that is ready, in place. agents: as of EnvironmentReady."""

    plan_hash: Digest
    connections: tuple[Connection, ...]
    agents: AgentConnection | None = None


_ADDRESSES = {
    "folder.data": "bucket.data",
    "postgres.database": "database.main",
    "postgres.schema": "schema.main",
    "postgres.role": "role.main",
}
_TABLE_PREFIX = "table-"


@upcaster("provisioner.environment_planned", 1)
def _planned_v1(fields: Payload) -> Payload:
    plan: dict[str, Any] = dict(fields["plan"])
    blueprint = {"name": "main", "version": 0, "content_hash": plan.pop("blueprint_hash")}
    steps = [{"action": step["action"], "before": None, "after": _resource(step["resource"])} for step in plan["steps"]]
    added = {"blueprint": blueprint, "steps": steps, "epoch": 0, "limits": {}, "hashed": False}
    return fields | {"plan": plan | added}


@upcaster("provisioner.resource_built", 1)
def _built_v1(fields: Payload) -> Payload:
    outputs = dict(fields["outputs"])
    if "folder" in outputs:
        outputs["bucket"] = outputs.pop("folder")
    rest = {name: value for name, value in fields.items() if name not in {"address", "outputs"}}
    return rest | {"resources": [{"address": _address(fields["address"]), "outputs": outputs}]}


@upcaster("provisioner.environment_ready", 1)
def _ready_v1(fields: Payload) -> Payload:
    rest = {name: value for name, value in fields.items() if name != "endpoint"}
    return rest | {"connections": [{"address": "role.main"} | fields["endpoint"]]}


def _address(address: str) -> str:
    return _ADDRESSES.get(address, address)


def _resource(resource: Payload) -> Payload:
    return {
        "address": _address(resource["address"]),
        "layer": resource["layer"],
        "isolation": resource["isolation"],
        "attributes": _attributes(resource["kind"], resource["properties"]),
        "needs": [_address(each) for each in resource["needs"]],
    }


def _attributes(kind: str, properties: Payload) -> Payload:
    match kind:
        case "secret":
            return {"kind": "secret", "name": properties["name"]}
        case "folder":
            return {"kind": "bucket", "name": properties["path"]}
        case "postgres-database":
            return {"kind": "database", "name": properties["name"]}
        case "postgres-schema":
            tables = [
                {"name": name.removeprefix(_TABLE_PREFIX), "columns": [_column(each) for each in columns.split(", ")]}
                for name, columns in sorted(properties.items())
                if name.startswith(_TABLE_PREFIX)
            ]
            return {
                "kind": "schema",
                "name": properties["name"],
                "in_database": "database.main",
                "database": properties["database"],
                "cell": 1 if properties["database"].startswith(("pool_", "bridge_")) else None,
                "tables": tables,
                "tenant_column": properties["name"] == "product" and properties["database"].startswith("pool_"),
            }
        case "postgres-role":
            return {
                "kind": "role",
                "name": properties["name"],
                "in_schema": "schema.main",
                "secret": "secret.database",
                "connection_limit": int(properties["connection-limit"]),
            }
        case _:
            # No plan had another kind, but the schema allowed every name.
            return {"kind": "identity", "name": kind}


def _column(text: str) -> Payload:
    name, type_ = text.split(" ")
    return {"name": name, "type": type_}
