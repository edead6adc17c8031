"""Building: what the executor of a plan has done, and the readiness or failure that follows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from paybill_contracts.environment_plans import (
    AgentConnection,
    BuiltOutputs,
    Connection,
    EnvironmentChanged,
    EnvironmentReady,
    Resource,
    ResourceBuilt,
    ResourceRemoved,
    StepPending,
    StepsIntended,
)
from paybill_contracts.event import digest
from paybill_contracts.kinds import Role, Schema
from paybill_contracts.plan_estimates import Estimates, PlanRunMeasured
from paybill_contracts.plan_execution import CompensationEnded, CompensationStarted
from paybill_contracts.policy import AfterFailure, Policy
from paybill_contracts.provisioner import Access, AccessChangeStarted, EnvironmentFailed
from paybill_contracts.purges import DeletionEnded
from paybill_definitions.resources import AGENTS_ROLE

from paybill_provisioner.domain.agent_logins import rights_requested
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import PlanMismatchError, evolved
from paybill_provisioner.domain.estimates import PLAN_RUNS_ID, signature
from paybill_provisioner.domain.steps import diff


@dataclass(slots=True)
class Progress:
    """Progress of a plan that is recorded together.

    built: outputs of resources by address; removed: deleted resources; pending: references of operations at the
    provider by step; intended: addresses of what is created next without a unique name, with the time of the intent.
    """

    built: dict[str, Mapping[str, str]] = field(default_factory=dict)
    removed: list[Resource] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)
    intended: dict[str, datetime] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.built or self.removed or self.pending or self.intended)


def progress_recorded(environment: Environment, plan_hash: str, progress: Progress) -> list[EnvironmentEvent]:
    """Records steps that ended together; after the last one of the plan the environment is ready.

    For a tenant in offboarding it only records the resources. Raises PlanMismatchError.
    """
    if environment.plan_hash != plan_hash:
        raise PlanMismatchError(f"the plan {plan_hash[:12]}… is no longer the current one")
    events = list(_facts(environment, plan_hash, progress))
    return [*events, *ended(evolved(environment, events))]


def _facts(environment: Environment, plan_hash: str, progress: Progress) -> Iterator[EnvironmentEvent]:
    of_plan = {"tenant_id": environment.tenant_id, "environment_id": environment.id, "plan_hash": plan_hash}
    steps = {step.key: step for step in environment.remaining}
    open_addresses = {step.address for step in steps.values() if step.after is not None}
    if progress.intended:
        latest = max(progress.intended.values())
        yield StepsIntended(**of_plan, addresses=tuple(progress.intended), intended_at=latest)
    built = [
        BuiltOutputs(address=address, outputs=dict(outputs))
        for address, outputs in progress.built.items()
        if address in open_addresses
    ]
    if built:
        yield ResourceBuilt(**of_plan, resources=tuple(built))
    for key, reference in progress.pending.items():
        if key in steps and environment.operations.get(key) != reference:
            step = steps[key]
            yield StepPending(
                **of_plan, action=step.action, address=step.address, name=step.resource.identity, reference=reference
            )
    for resource in progress.removed:
        if any(step.after is None and step.before == resource for step in steps.values()):
            yield ResourceRemoved(**of_plan, address=resource.address, name=resource.identity)


def ended(environment: Environment) -> list[EnvironmentEvent]:
    """Returns the events of a plan without remaining steps.

    Logins are built closed: a change to the access that is requested now comes after the last step, and the first build
    is ready once it is in effect.
    """
    if environment.remaining or environment.plan_hash is None:
        return []
    target = environment.target_access
    match environment.status:
        case Status.BUILDING:
            return ready(environment) if target is Access.CLOSED else [access_change(environment, target)]
        case Status.COMPENSATING:
            return [
                CompensationEnded(
                    tenant_id=environment.tenant_id,
                    environment_id=environment.id,
                    plan_hash=environment.plan_hash,
                )
            ]
        case Status.PURGING if environment.is_applied:
            return [
                DeletionEnded(
                    tenant_id=environment.tenant_id,
                    environment_id=environment.id,
                    plan_hash=environment.plan_hash,
                )
            ]
        case Status.CHANGING:
            changed = EnvironmentChanged(
                tenant_id=environment.tenant_id,
                environment_id=environment.id,
                plan_hash=environment.plan_hash,
                connections=tuple(connections(environment)),
                agents=agent_connection(environment, environment.epoch),
            )
            steps = environment.plan.steps if environment.plan else ()
            logins = [step.address for step in steps if step.after is not None and step.after.kind == "role"]
            access = [access_change(environment, target)] if logins else []
            return [changed, *access, *(rights_requested(environment) if AGENTS_ROLE in logins else ())]
        case _:
            return []


def ready(environment: Environment) -> list[EnvironmentEvent]:
    """Returns the event of an environment that is ready, and whose logins have the access that is requested.

    The rights of its agents' login are granted next.
    """
    return [
        EnvironmentReady(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            plan_hash=environment.plan_hash or "",
            epoch=environment.epoch + 1,
            connections=tuple(connections(environment)),
            agents=agent_connection(environment, environment.epoch + 1),
        ),
        *rights_requested(environment),
    ]


def access_change(environment: Environment, access: Access) -> AccessChangeStarted:
    """Returns the event that starts a change to `access`."""
    return AccessChangeStarted(tenant_id=environment.tenant_id, environment_id=environment.id, access=access)


def connections(environment: Environment) -> Iterator[Connection]:
    """Yields a connection for each login of the tenant itself; none for an environment without a database."""
    for address in sorted(environment.resources):
        if address != AGENTS_ROLE and (found := _connection(environment, address)) is not None:
            yield found


def agent_connection(environment: Environment, epoch: int) -> AgentConnection | None:
    """Returns the connection of the login for agents; None while there is none."""
    plan, found = environment.plan, _connection(environment, AGENTS_ROLE)
    if plan is None or found is None:
        return None
    return AgentConnection(connection=found, blueprint=plan.blueprint.name, preset=plan.preset, epoch=epoch)


def _connection(environment: Environment, address: str) -> Connection | None:
    """Returns the connection of the login with this address; None for another resource, and before it is built."""
    resources, outputs = environment.resources, environment.outputs
    role = resources[address].attributes if address in resources else None
    if not isinstance(role, Role) or address not in outputs:
        return None
    schema = resources[role.in_schema].attributes
    if not isinstance(schema, Schema):
        return None
    database = outputs[schema.in_database]
    return Connection(
        address=address,
        host=database["host"],
        port=int(database["port"]),
        database=database["database"],
        schema_name=outputs[role.in_schema]["schema_name"],
        username=outputs[address]["username"],
        secret=outputs[role.secret].get("secret") if role.secret is not None else None,
    )


def build_failed(environment: Environment, plan_hash: str, reason: str, address: str = "") -> list[EnvironmentEvent]:
    """Records the failure of the current plan; built resources stay. Any other plan is ignored.

    address: of the step that failed; empty when none did.
    """
    applied = environment.status in {Status.BUILDING, Status.CHANGING, Status.COMPENSATING, Status.PURGING}
    if not applied or environment.plan_hash != plan_hash:
        return []
    return [failure(environment, plan_hash, reason, address)]


def access_cancelled(environment: Environment, reason: str) -> list[EnvironmentEvent]:
    """Records the failure of a first build that waits for nothing but its access, which is not set any more."""
    if environment.status is not Status.BUILDING or environment.remaining or environment.plan_hash is None:
        return []
    return [failure(environment, environment.plan_hash, reason)]


def failure(environment: Environment, plan_hash: str, reason: str, address: str = "") -> EnvironmentFailed:
    """Returns the failure of a plan. reason: any text, also of a server; address: as in `build_failed`."""
    return EnvironmentFailed(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        plan_hash=plan_hash,
        address=address or "environment",
        reason="".join(each if each.isprintable() else " " for each in reason)[:400] or "no reason",
    )


def compensated(environment: Environment, failed: Environment, policy: Policy, now: datetime) -> list[EnvironmentEvent]:
    """Starts to delete what a failed first build has made, when policy requires it. failed: after the failure.

    An environment that was ready keeps what a failed change has built: the tenant uses it.
    """
    was_built = environment.status is Status.BUILDING and failed.status is Status.FAILED and not environment.epoch
    if not was_built or policy.after_failure is AfterFailure.KEEP or failed.plan is None:
        return []
    steps = diff((), (each.resource for each in failed.built), failed.replaced)
    if not steps:
        return []
    plan = failed.plan.model_copy(
        update={
            "based_on": failed.base_revision,
            "observed_hash": failed.observed_hash,
            "steps": steps,
            "estimates": Estimates(),
            "hashed": True,
        }
    )
    return [
        CompensationStarted(
            tenant_id=failed.tenant_id,
            environment_id=failed.id,
            plan=plan,
            plan_hash=digest(plan),
            planned_at=now,
        )
    ]


def run_measured(before: Environment, after: Environment, now: datetime) -> list[PlanRunMeasured]:
    """Returns the duration of the plan that is complete in `after` and was not in `before`; nothing when none is."""
    plan, planned_at = after.plan, after.planned_at
    running = before.status in {Status.BUILDING, Status.CHANGING} and before.plan_hash == after.plan_hash
    if not running or after.status is not Status.READY or after.failure is not None:
        return []
    if plan is None or planned_at is None or after.plan_hash is None or not plan.steps:
        return []
    return [
        PlanRunMeasured(
            plan_runs=PLAN_RUNS_ID,
            environment_id=after.id,
            plan_hash=after.plan_hash,
            signature=signature(plan.steps, plan.cloud),
            took_ms=max((now - planned_at) // timedelta(milliseconds=1), 0),
        )
    ]
