"""Environments of tenants: registered, and folded from their events."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import assert_never

from paybill_contracts.agent_access import AgentLoginRequested, AgentRightsGranted, AgentRightsRequested
from paybill_contracts.credentials import CredentialsMade, CredentialsRequested
from paybill_contracts.drift import EnvironmentDriftAccepted, EnvironmentDriftEnded, EnvironmentDriftFound
from paybill_contracts.environment_plans import (
    EnvironmentChanged,
    EnvironmentDesired,
    EnvironmentPlanned,
    EnvironmentReady,
    PlanRefused,
    Resource,
    ResourceBuilt,
    ResourceRemoved,
    StepAction,
    StepPending,
    StepsIntended,
    step_key,
)
from paybill_contracts.environment_requests import MoveRequested, ProrationNoted
from paybill_contracts.errors import ConflictError, NotFoundError
from paybill_contracts.plan_approvals import (
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoid,
    PlanSuperseded,
)
from paybill_contracts.plan_execution import CompensationEnded, CompensationStarted, PlanPaused, PlanResumed
from paybill_contracts.provisioner import (
    Access,
    AccessChangeStarted,
    AccessClosed,
    AccessOpened,
    EnvironmentChangePending,
    EnvironmentChangeSettled,
    EnvironmentFailed,
    EnvironmentRegistered,
    EnvironmentRetained,
    RestorationStarted,
    RetentionStarted,
)
from paybill_contracts.purges import DeletionEnded, DeletionStarted, DeletionStopped, EnvironmentPurged
from paybill_contracts.table_rebuilds import TablesInspected, TablesInspectionRequested
from paybill_contracts.tenant import TenantRequested
from paybill_contracts.values import Timestamp

from paybill_provisioner.domain import agent_logins, desired_state, drift_state, plan_approvals, rebuilding
from paybill_provisioner.domain.environment_events import KEEP_BASE, EnvironmentEvent
from paybill_provisioner.domain.environment_parts import BuiltResource, Failure, Purge, Refusal
from paybill_provisioner.domain.environment_state import Desired, Environment, Status, intent_key
from paybill_provisioner.domain.plan_approvals import earlier
from paybill_provisioner.domain.sizes import PendingChange, Size
from paybill_provisioner.domain.steps import is_same, is_shared
from paybill_provisioner.domain.unfinished import confirmed, existing_resources, with_unconfirmed, with_unfinished

_AFTER_FAILURE = {Status.CHANGING: Status.READY, Status.PURGING: Status.PURGING}


class EnvironmentUnknownError(NotFoundError):
    """No environment is registered for this tenant."""

    code = "environment_unknown"


class PlanMismatchError(ConflictError):
    """The plan to be built is not the recorded one."""

    code = "plan_mismatch"


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


def evolved(environment: Environment, events: Iterable[EnvironmentEvent]) -> Environment:
    """Returns the environment after `events`."""
    for event in events:
        environment = evolve(environment, event)
    return environment


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
    revision = environment.revision + 1
    base_revision = environment.base_revision if isinstance(event, KEEP_BASE) else revision
    environment = replace(environment, revision=revision, base_revision=base_revision)
    match event:
        case EnvironmentDesired():
            desired = Desired(
                Size(event.tier, event.preset), event.entitlements_hash, event.limits, event.allows_access
            )
            return replace(desired_state.with_desired(environment, desired), refusal=None)
        case PlanRefused():
            return replace(environment, refusal=Refusal(event.code, event.reason, event.next_step))
        case EnvironmentPlanned():
            return _with_plan(environment, event)
        case ResourceBuilt():
            return _with_built(environment, event)
        case ResourceRemoved():
            return _without(environment, event)
        case StepsIntended():
            return _with_intents(environment, event)
        case StepPending():
            key = step_key(event.action, event.address, event.name)
            operations = dict(environment.operations) | {key: event.reference}
            return replace(environment, operations=operations)
        case EnvironmentFailed():
            return _with_failure(environment, event)
        case EnvironmentReady():
            return replace(
                environment,
                status=Status.READY,
                epoch=event.epoch,
                connections=event.connections,
                access=environment.target_access,
                built_size=environment.planned_size,
                built_limits=environment.plan.limits if environment.plan else {},
                quoted=desired_state.quoted_after(environment),
            )
        case EnvironmentChanged():
            return replace(
                environment,
                status=Status.READY,
                connections=event.connections,
                built_size=environment.planned_size,
                built_limits=environment.plan.limits if environment.plan else {},
                quoted=desired_state.quoted_after(environment),
                failure=None,
            )
        case AccessChangeStarted():
            return replace(environment, target_access=event.access)
        case AccessOpened() | AccessClosed():
            return replace(environment, access=event.access if isinstance(event, AccessClosed) else Access.OPEN)
        case RetentionStarted():
            return replace(
                with_unconfirmed(environment),
                status=Status.RETAINING,
                target_access=Access.CLOSED,
                requested_credentials=(),
                paused=False,
            )
        case EnvironmentRetained():
            return replace(environment, status=Status.RETAINED, access=Access.CLOSED, export=event.export)
        case EnvironmentChangePending():
            pending = PendingChange(
                since=event.since,
                reason=event.reason,
                waits_for=event.waits_for,
                tier=event.to_tier,
                preset=event.to_preset,
                approval_id=event.approval_id,
                plan_hash=event.plan_hash,
                cost=event.cost,
            )
            return replace(
                desired_state.with_desired_size(environment, event.to_tier, event.to_preset), pending=pending
            )
        case EnvironmentChangeSettled():
            return desired_state.with_settled(environment, event)
        case RestorationStarted():
            # One that was never complete has nothing to restore and is planned again.
            return replace(
                environment if environment.epoch else with_unfinished(environment),
                status=Status.RESTORING if environment.epoch else Status.REGISTERED,
                target_access=event.access,
            )
        case ApprovalRequested():
            kept = earlier(environment.earlier_approvals, environment.approval)
            return replace(environment, approval=plan_approvals.evolve(None, event), earlier_approvals=kept)
        case ApprovalGranted() | ApprovalRejected() | ApprovalUsed() | ApprovalVoid():
            return replace(environment, approval=plan_approvals.evolve(environment.approval, event))
        case PlanSuperseded():
            return _with_superseded(environment, event)
        case CredentialsRequested():
            return replace(environment, requested_credentials=event.secrets)
        case CredentialsMade():
            return replace(
                environment,
                credentials=dict(environment.credentials) | event.secrets,
                requested_credentials=(),
                connections=event.connections,
            )
        case DeletionStarted():
            return _with_deletion(environment, event)
        case DeletionStopped(is_intact=True):
            return replace(environment, status=Status.RETAINED, purge=None)
        case DeletionStopped():
            return replace(environment, failure=None, purge=replace(_purge(environment), held_by=event.cases))
        case DeletionEnded():
            return replace(environment, failure=None, purge=replace(_purge(environment), is_deleted=True))
        case EnvironmentPurged():
            purge = replace(_purge(environment), certificate=event.certificate)
            # What is built still are shared resources, which are the other tenants'.
            return replace(
                environment, status=Status.PURGED, purge=purge, export=None, connections=(), failure=None, built=()
            )
        case EnvironmentDriftFound() | EnvironmentDriftEnded() | EnvironmentDriftAccepted():
            return replace(environment, drift=drift_state.evolve(environment.drift, event))
        case PlanPaused() | PlanResumed():
            return replace(environment, paused=isinstance(event, PlanPaused))
        case CompensationStarted():
            return replace(
                environment,
                status=Status.COMPENSATING,
                plan=event.plan,
                plan_hash=event.plan_hash,
                planned_at=event.planned_at,
            )
        case TablesInspectionRequested() | TablesInspected():
            return rebuilding.evolve(environment, event)
        case AgentLoginRequested() | AgentRightsRequested() | AgentRightsGranted():
            return agent_logins.evolve(environment, event)
        case CompensationEnded():
            return replace(environment, status=Status.FAILED)
        case MoveRequested():
            return desired_state.with_move(environment, event)
        case ProrationNoted():
            return desired_state.with_quoted(environment, event)
        case _:
            assert_never(event)


def _with_failure(environment: Environment, event: EnvironmentFailed) -> Environment:
    """Ends the plan. What it rebuilds is inspected again before the next one."""
    failure = Failure(address=event.address, reason=event.reason)
    # A failed operation is not polled again: the next attempt finds what it has left.
    ends = environment if environment.status is Status.PURGING else with_unconfirmed(environment)
    return replace(
        with_unfinished(ends),
        status=_AFTER_FAILURE.get(environment.status, Status.FAILED),
        failure=failure,
        operations={},
        inspected={},
    )


def _with_deletion(environment: Environment, event: DeletionStarted) -> Environment:
    """Begins a deletion, or continues one; what an unfinished plan may have created is deleted, too."""
    removed = environment.purge.removed if environment.purge else ()
    return replace(
        with_unfinished(environment),
        status=Status.PURGING,
        purge=Purge(since=event.since, removed=removed),
        failure=None,
        pending=None,
    )


def _purge(environment: Environment) -> Purge:
    """Returns the purge that runs. Raises ValueError without one, which no sequence of facts has."""
    if environment.purge is None:
        raise ValueError(f"no deletion of {environment.id} has begun")
    return environment.purge


def _with_superseded(environment: Environment, event: PlanSuperseded) -> Environment:
    """Ends the open plan, of which no step is recorded. A plan that only waited for an approval changes nothing."""
    is_open = environment.status in {Status.BUILDING, Status.CHANGING} and environment.plan_hash == event.plan_hash
    if not is_open or environment.plan is None:
        return environment
    plan, environment = environment.plan, with_unfinished(with_unconfirmed(environment))
    if environment.status is Status.BUILDING:
        if environment.built:
            failure = Failure(address="environment", reason="the plan was superseded before it began")
            return replace(environment, status=Status.FAILED, failure=failure)
        return replace(environment, status=Status.REGISTERED, plan=None, plan_hash=None)
    built = environment.built_size or Size.of(plan)
    nothing = plan.model_copy(update={"steps": (), "tier": built.tier, "preset": built.preset})
    return replace(environment, status=Status.READY, plan=nothing)


def _with_plan(environment: Environment, event: EnvironmentPlanned) -> Environment:
    plan = event.plan
    if plan.purge:
        purge = replace(_purge(environment), plan_hash=event.plan_hash)
        begun = replace(environment, plan=plan, plan_hash=event.plan_hash, planned_at=event.planned_at)
        return replace(begun, purge=purge, failure=None)
    changes = environment.status in {Status.READY, Status.CHANGING}
    return replace(
        desired_state.with_planned(environment, plan),
        status=Status.CHANGING if changes else Status.BUILDING,
        plan=plan,
        plan_hash=event.plan_hash,
        planned_at=event.planned_at,
        refusal=None,
        failure=None,
        repaired=(),
        paused=False,
    )


def _with_built(environment: Environment, event: ResourceBuilt) -> Environment:
    built = {each.resource.address: each for each in environment.built}
    replaced = list(environment.replaced)
    resources = environment.resources
    steps = environment.plan.steps if environment.plan else ()
    replacements = {step.address for step in steps if step.action is StepAction.REPLACE}
    for done in event.resources:
        before = built.pop(done.address, None)
        after = resources[done.address]
        replaced = [each for each in replaced if not is_same(each, after)]
        is_replaced = done.address in replacements or (before and not is_same(before.resource, after))
        if before is not None and is_replaced and not is_shared(before.resource):
            replaced.append(before.resource)
        built[done.address] = BuiltResource(resource=after, outputs=done.outputs)
    ended = {each.address for each in event.resources}
    applied = [step for step in steps if step.address in ended]
    repaired = {step.address for step in applied if step.repairs}
    unchanged = {step.address for step in applied if step.keeps_record}
    rebuilt = {step.address for step in applied if step.action is StepAction.REBUILD}
    return replace(
        environment,
        repaired=tuple(sorted({*environment.repaired, *unchanged})),
        inspected={key: each for key, each in environment.inspected.items() if key not in rebuilt},
        drift=drift_state.repaired(environment.drift, repaired),
        credentials={key: each for key, each in environment.credentials.items() if key not in repaired},
        built=tuple(built.values()),
        replaced=tuple(replaced),
        intended=_without_intents(environment, [resources[address] for address in ended]),
        unconfirmed=confirmed(environment, [resources[address] for address in ended]),
        operations={
            key: reference
            for key, reference in environment.operations.items()
            if key.startswith("delete:") or key.split(":")[1] not in ended
        },
    )


def _without(environment: Environment, event: ResourceRemoved) -> Environment:
    def is_removed(resource: Resource) -> bool:
        return (resource.address, resource.identity) == (event.address, event.name)

    of_resource = {step_key(action, event.address, event.name) for action in StepAction}
    operations = {key: each for key, each in environment.operations.items() if key not in of_resource}
    removed = [each for each in existing_resources(environment) if is_removed(each)][:1]
    if environment.purge is not None:
        purge = replace(environment.purge, removed=(*environment.purge.removed, *removed))
        environment = replace(environment, purge=purge)
    intended = _without_intents(environment, removed)
    unconfirmed = confirmed(environment, removed)
    environment = replace(environment, operations=operations, intended=intended, unconfirmed=unconfirmed)
    replaced = tuple(each for each in environment.replaced if not is_removed(each))
    if len(replaced) < len(environment.replaced):
        return replace(environment, replaced=replaced)
    return replace(
        environment,
        built=tuple(each for each in environment.built if not is_removed(each.resource)),
        credentials={address: each for address, each in environment.credentials.items() if address != event.address},
    )


def _with_intents(environment: Environment, event: StepsIntended) -> Environment:
    keys = [intent_key(environment.resources[address]) for address in event.addresses]
    return replace(environment, intended=dict(environment.intended) | dict.fromkeys(keys, event.intended_at))


def _without_intents(environment: Environment, resources: Iterable[Resource]) -> Mapping[str, Timestamp]:
    settled = {intent_key(each) for each in resources}
    return {key: each for key, each in environment.intended.items() if key not in settled}
