"""Lifecycle of a tenant's environment, from registration until only its data is retained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, assert_never

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.errors import ConflictError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset, placement_of
from paybill_contracts.provisioner import (
    Access,
    AccessChangeStarted,
    AccessClosed,
    AccessOpened,
    Endpoint,
    EnvironmentChangePending,
    EnvironmentChangeSettled,
    EnvironmentFailed,
    EnvironmentPlanned,
    EnvironmentReady,
    EnvironmentRegistered,
    EnvironmentRetained,
    Export,
    Plan,
    Resource,
    ResourceBuilt,
    RestorationStarted,
    RetentionStarted,
    Step,
    StepAction,
)
from paybill_contracts.tenant import TenantRequested
from pydantic import Field

from paybill_provisioner.domain import graph
from paybill_provisioner.domain.blueprints import PublishedBlueprint, require_region, tier_of
from paybill_provisioner.domain.sizes import PendingChange, Size

EnvironmentEvent = (
    EnvironmentRegistered
    | EnvironmentPlanned
    | ResourceBuilt
    | EnvironmentFailed
    | EnvironmentReady
    | AccessChangeStarted
    | AccessOpened
    | AccessClosed
    | RetentionStarted
    | EnvironmentRetained
    | EnvironmentChangePending
    | EnvironmentChangeSettled
    | RestorationStarted
)


class EnvironmentUnknownError(NotFoundError):
    """No environment is registered for this tenant."""

    code = "environment_unknown"


class EnvironmentNotFailedError(ConflictError):
    """Only a failed plan can be retried."""

    code = "environment_not_failed"


class PlanMismatchError(ConflictError):
    """The plan to be built is not the recorded one."""

    code = "plan_mismatch"


class PlanDestroysError(ConflictError):
    """The plan would delete resources of a tenant, which needs an approval."""

    code = "plan_destroys"


class Status(StrEnum):
    """Lifecycle status of an environment. The tenant's access is separate, in `Environment.access`."""

    REGISTERED = "registered"
    BUILDING = "building"
    FAILED = "failed"
    READY = "ready"
    RETAINING = "retaining"
    RETAINED = "retained"
    RESTORING = "restoring"


@dataclass(frozen=True, slots=True)
class BuiltResource:
    """A built resource, as it was defined, with its driver's outputs."""

    resource: Resource
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Failure:
    """The resource that could not be built, and the reason."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of one tenant.

    changed_size: the entitled size, if it has changed since the plan. pending: of that change, until it is built.
    target_access: last requested; access: in effect. revision: number of events so far; a plan names the one that it
    is based on.
    """

    id: str
    tenant_id: str
    slug: str
    region: str
    revision: int
    status: Status
    plan: Plan | None = None
    plan_hash: str | None = None
    built: tuple[BuiltResource, ...] = ()
    failure: Failure | None = None
    epoch: int = 0
    endpoint: Endpoint | None = None
    target_access: Annotated[Access, Field(alias="wanted")] = Access.OPEN
    access: Access = Access.CLOSED
    export: Export | None = None
    changed_size: Size | None = None
    pending: PendingChange | None = None

    @property
    def planned_size(self) -> Size | None:
        """The size of the plan; None before the first plan."""
        return Size(self.plan.tier, self.plan.preset) if self.plan else None

    @property
    def entitled_size(self) -> Size | None:
        """The size that the tenant is entitled to; None before the first plan."""
        return self.changed_size or self.planned_size

    @property
    def resources(self) -> Mapping[str, Resource]:
        """Resources by address: built ones and those of the plan, which may be incomplete."""
        built = {each.resource.address: each.resource for each in self.built}
        return built | {step.resource.address: step.resource for step in (self.plan.steps if self.plan else ())}

    @property
    def outputs(self) -> Mapping[str, Mapping[str, str]]:
        """Drivers' outputs of the built resources, by address."""
        return {each.resource.address: each.outputs for each in self.built}

    @property
    def remaining(self) -> tuple[Step, ...]:
        """Steps of the plan that are not done yet, in order."""
        built = {each.resource.address: each.resource for each in self.built}
        steps = self.plan.steps if self.plan else ()
        return tuple(step for step in steps if built.get(step.resource.address) != step.resource)


def id_of(tenant_id: str) -> str:
    """Returns the id of a tenant's environment: it has the tenant's hexadecimal number."""
    return f"env_{tenant_id.removeprefix('ten_')}"


def existing(environment: Environment | None, tenant_id: str) -> Environment:
    """Returns the environment. Raises EnvironmentUnknownError for None."""
    if environment is None:
        raise EnvironmentUnknownError(f"no environment is registered for {tenant_id}; its sign-up event never arrived")
    return environment


def on_tenant_requested(environment: Environment | None, fact: TenantRequested) -> list[EnvironmentEvent]:
    """Registers the environment that the tenant will need, with its region."""
    if environment is not None:
        return []
    return [
        EnvironmentRegistered(
            tenant_id=fact.tenant_id, environment_id=id_of(fact.tenant_id), slug=fact.slug, region=fact.region
        )
    ]


def on_entitlements_set(
    environment: Environment | None, fact: EntitlementsSet, blueprint: PublishedBlueprint
) -> list[EnvironmentEvent]:
    """Plans the environment that the tenant is entitled to.

    Raises EnvironmentUnknownError, UnknownTierError, UnknownRegionError, PlanDestroysError.
    """
    environment = existing(environment, fact.tenant_id)
    match environment.status:
        case Status.REGISTERED | Status.FAILED:
            if not fact.allows_access:
                return []
            return [planned(environment, blueprint, fact.tier, fact.placement, fact.entitlements_hash)]
        case Status.BUILDING | Status.READY | Status.RETAINING | Status.RETAINED | Status.RESTORING:
            return []
        case _:
            assert_never(environment.status)


def retry(
    environment: Environment | None, environment_id: str, blueprint: PublishedBlueprint
) -> list[EnvironmentEvent]:
    """Plans again after a failure, by the current blueprint; built resources stay.

    Raises EnvironmentUnknownError, EnvironmentNotFailedError and what planning raises.
    """
    environment = existing(environment, environment_id)
    match environment.status:
        case Status.FAILED if environment.plan is not None:
            last = environment.plan
            size = environment.changed_size or Size(last.tier, last.preset)
            return [planned(environment, blueprint, size.tier, size.preset, last.entitlements_hash)]
        case Status.BUILDING:
            return []
        case Status.FAILED | Status.REGISTERED | Status.READY | Status.RETAINING | Status.RETAINED | Status.RESTORING:
            raise EnvironmentNotFailedError(
                f"the environment is {environment.status}; only a failed one can be retried"
            )
        case _:
            assert_never(environment.status)


def planned(
    environment: Environment, blueprint: PublishedBlueprint, tier: str, preset: Preset, entitlements_hash: str
) -> EnvironmentPlanned:
    """Plans the steps from the built resources to those of the tier, with the hash that the executor checks."""
    require_region(blueprint.content, environment.region)
    definition = tier_of(blueprint.content, tier, preset)
    desired = graph.desired(blueprint.content, definition, environment.tenant_id, environment.region)
    steps = graph.diff(desired, (each.resource for each in environment.built))
    deleted = [step.resource.address for step in steps if step.action is StepAction.DELETE]
    if deleted:
        raise PlanDestroysError(f"the plan would delete {', '.join(deleted)}; keep the tier, or move the tenant")
    plan = Plan(
        environment_id=environment.id,
        based_on=environment.revision,
        blueprint_hash=blueprint.content_hash,
        entitlements_hash=entitlements_hash,
        tier=tier,
        preset=preset,
        placement=placement_of(preset),
        cloud=definition.cloud,
        region=environment.region,
        steps=steps,
    )
    return EnvironmentPlanned(
        tenant_id=environment.tenant_id, environment_id=environment.id, plan=plan, plan_hash=digest(plan)
    )


def require_plan(environment: Environment, fact: EnvironmentPlanned) -> None:
    """Raises PlanMismatchError unless the plan in `fact` has the hash of the recorded one."""
    if not digest(fact.plan) == fact.plan_hash == environment.plan_hash:
        raise PlanMismatchError(
            f"the requested plan is {digest(fact.plan)[:12]}…, the recorded one {str(environment.plan_hash)[:12]}…; "
            "check the environment and retry it"
        )


def resources_built(
    environment: Environment, plan_hash: str, done: Sequence[tuple[str, Mapping[str, str]]]
) -> list[EnvironmentEvent]:
    """Records the steps that are `done` (address and outputs); after the last one the environment is ready.

    For a tenant in offboarding it only records the resources. Raises PlanMismatchError.
    """
    if environment.plan_hash != plan_hash:
        raise PlanMismatchError(f"the plan {plan_hash[:12]}… is no longer the current one")
    open_steps = {step.resource.address for step in environment.remaining}
    events: list[EnvironmentEvent] = [
        ResourceBuilt(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            address=address,
            plan_hash=plan_hash,
            outputs=dict(outputs),
        )
        for address, outputs in done
        if address in open_steps
    ]
    after = environment
    for event in events:
        after = evolve(after, event)
    if after.status is Status.BUILDING and not after.remaining:
        events += ready(after, plan_hash)
    return events


def ready(environment: Environment, plan_hash: str) -> list[EnvironmentEvent]:
    """Returns the events of an environment that is ready, at the access level that is requested."""
    fact = EnvironmentReady(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        plan_hash=plan_hash,
        epoch=environment.epoch + 1,
        endpoint=_endpoint(environment.outputs),
    )
    if environment.target_access is Access.OPEN:
        return [fact]
    return [fact, access_change(environment, environment.target_access)]


def access_change(environment: Environment, access: Access) -> AccessChangeStarted:
    """Returns the event that starts a change to `access`."""
    return AccessChangeStarted(tenant_id=environment.tenant_id, environment_id=environment.id, access=access)


def _endpoint(outputs: Mapping[str, Mapping[str, str]]) -> Endpoint:
    """Builds the endpoint: the outputs of every driver together contain these six values."""
    values = {name: value for each in outputs.values() for name, value in each.items()}
    return Endpoint(
        host=values["host"],
        port=int(values["port"]),
        database=values["database"],
        schema_name=values["schema_name"],
        username=values["username"],
        secret=values["secret"],
    )


def build_failed(environment: Environment, plan_hash: str, reason: str) -> list[EnvironmentEvent]:
    """Records the failure of the current plan; built resources stay. Any other plan is ignored."""
    if environment.status is not Status.BUILDING or environment.plan_hash != plan_hash:
        return []
    remaining = environment.remaining
    return [
        EnvironmentFailed(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            plan_hash=plan_hash,
            address=remaining[0].resource.address if remaining else "environment",
            reason=reason,
        )
    ]


def evolve(environment: Environment | None, event: EnvironmentEvent) -> Environment:
    """Returns the environment after `event`; only `EnvironmentRegistered` may come first."""
    if isinstance(event, EnvironmentRegistered):
        return Environment(
            id=event.environment_id,
            tenant_id=event.tenant_id,
            slug=event.slug,
            region=event.region,
            revision=1,
            status=Status.REGISTERED,
        )
    environment = existing(environment, event.tenant_id)
    environment = replace(environment, revision=environment.revision + 1)
    match event:
        case EnvironmentPlanned():
            return replace(
                environment,
                status=Status.BUILDING,
                plan=event.plan,
                plan_hash=event.plan_hash,
                failure=None,
                changed_size=None,
                pending=None,
            )
        case ResourceBuilt():
            built = BuiltResource(resource=environment.resources[event.address], outputs=event.outputs)
            others = tuple(each for each in environment.built if each.resource.address != event.address)
            return replace(environment, built=(*others, built))
        case EnvironmentFailed():
            failure = Failure(address=event.address, reason=event.reason)
            return replace(environment, status=Status.FAILED, failure=failure)
        case EnvironmentReady():
            return replace(
                environment, status=Status.READY, epoch=event.epoch, endpoint=event.endpoint, access=Access.OPEN
            )
        case AccessChangeStarted():
            return replace(environment, target_access=event.access)
        case AccessOpened():
            return replace(environment, access=Access.OPEN)
        case AccessClosed():
            return replace(environment, access=event.access)
        case RetentionStarted():
            return replace(environment, status=Status.RETAINING, target_access=Access.CLOSED)
        case EnvironmentRetained():
            return replace(environment, status=Status.RETAINED, access=Access.CLOSED, export=event.export)
        case EnvironmentChangePending():
            pending = PendingChange(since=event.since, reason=event.reason, waits_for=event.waits_for)
            return replace(environment, changed_size=Size(event.to_tier, event.to_preset), pending=pending)
        case EnvironmentChangeSettled():
            return replace(environment, changed_size=Size(event.tier, event.preset), pending=None)
        case RestorationStarted():
            return replace(environment, status=Status.RESTORING, target_access=event.access)
        case _:
            assert_never(event)
