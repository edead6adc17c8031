"""Environments: what one tenant runs on, from the day it is registered to the day only its data is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

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
    EnvironmentFailed,
    EnvironmentPlanned,
    EnvironmentReady,
    EnvironmentRegistered,
    EnvironmentRetained,
    Export,
    Plan,
    Resource,
    ResourceBuilt,
    RetentionStarted,
    Step,
    StepAction,
)
from paybill_contracts.tenant import TenantRequested

from paybill_provisioner.domain import graph
from paybill_provisioner.domain.blueprints import PublishedBlueprint, require_region, tier_of

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
)


class EnvironmentUnknownError(NotFoundError):
    """No environment is registered for this tenant."""

    code = "environment_unknown"


class EnvironmentNotFailedError(ConflictError):
    """Only a plan that failed can be tried again."""

    code = "environment_not_failed"


class PlanMismatchError(ConflictError):
    """What is about to be built is not the plan that is recorded."""

    code = "plan_mismatch"


class PlanDestroysError(ConflictError):
    """The plan would remove resources, and nothing of a tenant's is removed without an approval."""

    code = "plan_destroys"


class Status(StrEnum):
    """Where an environment stands. Whether the tenant can get in is apart from it, in `Environment.access`."""

    REGISTERED = "registered"
    BUILDING = "building"
    FAILED = "failed"
    READY = "ready"
    RETAINING = "retaining"
    RETAINED = "retained"


@dataclass(frozen=True, slots=True)
class Built:
    """A resource that stands, as it was defined, and what its driver said about it."""

    resource: Resource
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Failure:
    """Which resource could not be built, and why."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Environment:
    """What one tenant runs on. `wanted` is the access last asked for, `access` the one in force.

    `revision` counts the facts so far: a plan names the one that it is based on.
    """

    id: str
    tenant_id: str
    slug: str
    region: str
    revision: int
    status: Status
    plan: Plan | None = None
    plan_hash: str | None = None
    built: tuple[Built, ...] = ()
    failure: Failure | None = None
    epoch: int = 0
    endpoint: Endpoint | None = None
    wanted: Access = Access.OPEN
    access: Access = Access.CLOSED
    export: Export | None = None

    @property
    def resources(self) -> Mapping[str, Resource]:
        """By address, all that stands or may have been begun."""
        standing = {each.resource.address: each.resource for each in self.built}
        return standing | {step.resource.address: step.resource for step in (self.plan.steps if self.plan else ())}

    @property
    def outputs(self) -> Mapping[str, Mapping[str, str]]:
        """By address, what drivers said about the resources that stand."""
        return {each.resource.address: each.outputs for each in self.built}

    @property
    def remaining(self) -> tuple[Step, ...]:
        """The steps of the plan that are not done yet, in order."""
        standing = {each.resource.address: each.resource for each in self.built}
        steps = self.plan.steps if self.plan else ()
        return tuple(step for step in steps if standing.get(step.resource.address) != step.resource)


def id_of(tenant_id: str) -> str:
    """A tenant's environment has the tenant's number."""
    return f"env_{tenant_id.removeprefix('ten_')}"


def existing(environment: Environment | None, tenant_id: str) -> Environment:
    """The environment, which must be there. Raises EnvironmentUnknownError."""
    if environment is None:
        raise EnvironmentUnknownError(f"no environment is registered for {tenant_id}; its sign-up was never heard")
    return environment


def on_tenant_requested(environment: Environment | None, fact: TenantRequested) -> list[EnvironmentEvent]:
    """Remember who will need an environment, and where."""
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
    """Plan the environment that the tenant is entitled to.

    Raises EnvironmentUnknownError, UnknownTierError, UnknownRegionError, PlanDestroysError.
    """
    environment = existing(environment, fact.tenant_id)
    match environment.status:
        case Status.REGISTERED | Status.FAILED:
            if not fact.allows_access:
                return []
            return [planned(environment, blueprint, fact.tier, fact.placement, fact.entitlements_hash)]
        case Status.BUILDING | Status.READY | Status.RETAINING | Status.RETAINED:
            return []
        case _:
            assert_never(environment.status)


def retry(
    environment: Environment | None, environment_id: str, blueprint: PublishedBlueprint
) -> list[EnvironmentEvent]:
    """Plan again after a failure, by the blueprint that is now in force; what stands already stays.

    Raises EnvironmentUnknownError, EnvironmentNotFailedError and what planning raises.
    """
    environment = existing(environment, environment_id)
    match environment.status:
        case Status.FAILED if environment.plan is not None:
            last = environment.plan
            return [planned(environment, blueprint, last.tier, last.preset, last.entitlements_hash)]
        case Status.BUILDING:
            return []
        case Status.FAILED | Status.REGISTERED | Status.READY | Status.RETAINING | Status.RETAINED:
            raise EnvironmentNotFailedError(
                f"the environment is {environment.status}; only one that failed can be tried again"
            )
        case _:
            assert_never(environment.status)


def planned(
    environment: Environment, blueprint: PublishedBlueprint, tier: str, preset: Preset, entitlements_hash: str
) -> EnvironmentPlanned:
    """The steps from what stands to what the tier needs, with the hash that the executor insists on."""
    require_region(blueprint.content, environment.region)
    made_of = tier_of(blueprint.content, tier, preset)
    wanted = graph.desired(blueprint.content, made_of, environment.tenant_id, environment.region)
    steps = graph.diff(wanted, (each.resource for each in environment.built))
    doomed = [step.resource.address for step in steps if step.action is StepAction.DELETE]
    if doomed:
        raise PlanDestroysError(f"the plan would remove {', '.join(doomed)}; keep the tier, or move the tenant")
    plan = Plan(
        environment_id=environment.id,
        based_on=environment.revision,
        blueprint_hash=blueprint.content_hash,
        entitlements_hash=entitlements_hash,
        tier=tier,
        preset=preset,
        placement=placement_of(preset),
        cloud=made_of.cloud,
        region=environment.region,
        steps=steps,
    )
    return EnvironmentPlanned(
        tenant_id=environment.tenant_id, environment_id=environment.id, plan=plan, plan_hash=digest(plan)
    )


def require_plan(environment: Environment, fact: EnvironmentPlanned) -> None:
    """Raises PlanMismatchError unless the plan in `fact` is, to the last letter, the one that is recorded."""
    if not digest(fact.plan) == fact.plan_hash == environment.plan_hash:
        raise PlanMismatchError(
            f"asked for is the plan {digest(fact.plan)[:12]}…, recorded is {str(environment.plan_hash)[:12]}…; "
            "look at the environment and try it again"
        )


def resources_built(
    environment: Environment, plan_hash: str, done: Sequence[tuple[str, Mapping[str, str]]]
) -> list[EnvironmentEvent]:
    """Record the steps that are `done` (address and outputs); after the last one the environment is ready.

    Said of a tenant that leaves meanwhile, it only records what stands. Raises PlanMismatchError.
    """
    if environment.plan_hash != plan_hash:
        raise PlanMismatchError(f"the plan {plan_hash[:12]}… is no longer the one to be built")
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
        events += _ready(after, plan_hash)
    return events


def _ready(environment: Environment, plan_hash: str) -> list[EnvironmentEvent]:
    ready = EnvironmentReady(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        plan_hash=plan_hash,
        epoch=environment.epoch + 1,
        endpoint=_endpoint(environment.outputs),
    )
    if environment.wanted is Access.OPEN:
        return [ready]
    return [ready, access_change(environment, environment.wanted)]


def access_change(environment: Environment, access: Access) -> AccessChangeStarted:
    """Access is to become `access`."""
    return AccessChangeStarted(tenant_id=environment.tenant_id, environment_id=environment.id, access=access)


def _endpoint(outputs: Mapping[str, Mapping[str, str]]) -> Endpoint:
    """Where the tenant's data is: every driver's outputs together name these six."""
    found = {name: value for each in outputs.values() for name, value in each.items()}
    return Endpoint(
        host=found["host"],
        port=int(found["port"]),
        database=found["database"],
        schema_name=found["schema_name"],
        username=found["username"],
        secret=found["secret"],
    )


def build_failed(environment: Environment, plan_hash: str, reason: str) -> list[EnvironmentEvent]:
    """Give up a plan, keeping what stands. Of a plan that is no longer the one to be built there is nothing to say."""
    if environment.status is not Status.BUILDING or environment.plan_hash != plan_hash:
        return []
    left = environment.remaining
    return [
        EnvironmentFailed(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            plan_hash=plan_hash,
            address=left[0].resource.address if left else "environment",
            reason=reason,
        )
    ]


def evolve(environment: Environment | None, event: EnvironmentEvent) -> Environment:
    """The environment after `event`; only `EnvironmentRegistered` may come first."""
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
                environment, status=Status.BUILDING, plan=event.plan, plan_hash=event.plan_hash, failure=None
            )
        case ResourceBuilt():
            built = Built(resource=environment.resources[event.address], outputs=event.outputs)
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
            return replace(environment, wanted=event.access)
        case AccessOpened():
            return replace(environment, access=Access.OPEN)
        case AccessClosed():
            return replace(environment, access=event.access)
        case RetentionStarted():
            return replace(environment, status=Status.RETAINING, wanted=Access.CLOSED)
        case EnvironmentRetained():
            return replace(environment, status=Status.RETAINED, access=Access.CLOSED, export=event.export)
        case _:
            assert_never(event)
