"""Plans made, seen and applied by a person, and plans that are superseded before they begin."""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from paybill_contracts.environment_plans import Plan
from paybill_contracts.errors import ConflictError
from paybill_contracts.plan_approvals import ApprovalUsed, PlanSuperseded
from paybill_contracts.policy import Handling

from paybill_provisioner.domain import approvals, planning, purging
from paybill_provisioner.domain.approvals import ApprovalEndedError, ApprovalRequiredError, PlanSupersededError
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.building import failure
from paybill_provisioner.domain.cells import RegionFullError
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Desired, Environment, Status
from paybill_provisioner.domain.environments import evolve, evolved, existing
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.plan_approvals import ApprovalStatus
from paybill_provisioner.domain.planning import held, plan_of_kept, planned, towards
from paybill_provisioner.domain.plans import CellsInForce, cell_for, changed_since, hash_of, plan_of
from paybill_provisioner.domain.policy import Verdict, transfers_data, verdict
from paybill_provisioner.domain.steps import cells_of


class EnvironmentNotPlannableError(ConflictError):
    """A plan is being applied, the tenant leaves, or it is not entitled to anything."""

    code = "environment_not_plannable"


class TransferUnavailableError(ConflictError):
    """The plan would transfer the tenant's data, which this version does not do."""

    code = "transfer_unavailable"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan as it would be applied now, its handling by policy, and whether it would transfer data."""

    plan: Plan
    plan_hash: str
    judged: Verdict
    transfers_data: bool


def propose(environment: Environment, blueprints: Blueprints, cells: CellsInForce, inputs: PlanInputs) -> Proposal:
    """Returns the plan from what exists to what is desired now.

    Raises EnvironmentNotPlannableError, and the errors of `plan_of`, `cell_for` and `hash_of`.
    """
    if environment.status is Status.PURGING and (plan := purging.plan_of_purge(environment, inputs)) is not None:
        _require_deletable(environment)
        judged = verdict(inputs.policy, plan, was_ready=environment.epoch > 0)
        return Proposal(plan, hash_of(plan), judged, transfers_data=False)
    desired = plannable(environment)
    cell = cell_for(environment, desired, blueprints, cells)
    plan = plan_of(environment, desired, blueprints, cell, inputs, by_person=True)
    was_ready = environment.epoch > 0
    transfers = was_ready and transfers_data(plan)
    if transfers and (kept := _kept(environment, blueprints, cells, inputs)) is not None:
        return kept
    judged = verdict(inputs.policy, plan, was_ready=was_ready, is_moving=environment.is_moving)
    return Proposal(plan, hash_of(plan), judged, transfers)


def _kept(environment: Environment, blueprints: Blueprints, cells: CellsInForce, inputs: PlanInputs) -> Proposal | None:
    """Returns what can be done for the environment while its change of size waits for a transfer."""
    plan = plan_of_kept(environment, blueprints, cells, inputs, by_person=True)
    if plan is None:
        return None
    judged = verdict(inputs.policy, plan, was_ready=environment.epoch > 0)
    return Proposal(plan, hash_of(plan), judged, transfers_data=False)


def current(environment: Environment, blueprints: Blueprints, cells: CellsInForce, inputs: PlanInputs) -> Proposal:
    """Returns the plan of the open approval while it is still right, else the one that would be applied now.

    Raises the errors of `propose`.
    """
    approval = environment.approval
    if approval is not None and approval.plan is not None and approval.is_open:
        plan, was_ready = approval.plan, environment.epoch > 0
        if not changed_since(environment, plan, blueprints, inputs):
            transfers = was_ready and transfers_data(plan)
            kept = _kept(environment, blueprints, cells, inputs) if transfers else None
            judged = Verdict(approval.handling, approval.reasons)
            return kept or Proposal(plan, approval.plan_hash, judged, transfers)
    return propose(environment, blueprints, cells, inputs)


def make_plan(
    environment: Environment | None,
    id_: str,
    requester: str,
    blueprints: Blueprints,
    cells: CellsInForce,
    inputs: PlanInputs,
    now: datetime,
) -> list[EnvironmentEvent]:
    """Plans what is desired now, and requests an approval when policy requires one; nothing is applied.

    An open approval of a plan that is still right stays. Raises the errors of `propose`.
    """
    environment = existing(environment, id_)
    if environment.status is Status.PURGING:
        return purging.delete_all(environment, inputs, now, requester)
    events = approvals.superseded(environment, blueprints, inputs)
    environment = evolved(environment, events)
    found = propose(environment, blueprints, cells, inputs)
    if found.judged.handling is Handling.UNATTENDED:
        return events
    reason = "an operator made the plan"
    return [*events, *held(environment, found.plan, found.plan_hash, found.judged, inputs, now, reason, requester)]


def apply(
    environment: Environment | None,
    id_: str,
    plan_hash: str,
    blueprints: Blueprints,
    cells: CellsInForce,
    inputs: PlanInputs,
    now: datetime,
) -> list[EnvironmentEvent]:
    """Applies the plan with this hash: one that needs no approval, or one with an approval, which is used once.

    Raises ApprovalRequiredError, ApprovalEndedError, ApprovalMismatchError, PlanSupersededError, RegionFullError,
    TransferUnavailableError, and the errors of `propose`.
    """
    environment = existing(environment, id_)
    approval = environment.approval
    if approval is None or approval.plan_hash != plan_hash:
        return _apply_unattended(environment, plan_hash, blueprints, cells, inputs, now)
    match approval.status:
        case ApprovalStatus.REQUESTED:
            raise ApprovalRequiredError(f"the plan waits for the approval {approval.id}")
        case ApprovalStatus.REJECTED | ApprovalStatus.USED | ApprovalStatus.VOID:
            raise ApprovalEndedError(f"the approval {approval.id} is {approval.status}; it is used once at most")
        case ApprovalStatus.GRANTED:
            pass
        case _:
            assert_never(approval.status)
    plan = approvals.require_current(environment, approval, blueprints, inputs)
    if plan.purge:
        _require_deletable(environment)
    else:
        plannable(environment)
    if approval.granted is not None:
        approval.granted.check(plan_hash, now)
    if environment.epoch and transfers_data(plan):
        raise _no_transfer()
    _require_room(environment, plan, cells)
    used = ApprovalUsed(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        approval_id=approval.id,
        plan_hash=plan_hash,
    )
    return [used, *planned(evolve(environment, used), [], plan, plan_hash, now)]


def _apply_unattended(
    environment: Environment,
    plan_hash: str,
    blueprints: Blueprints,
    cells: CellsInForce,
    inputs: PlanInputs,
    now: datetime,
) -> list[EnvironmentEvent]:
    found = propose(environment, blueprints, cells, inputs)
    if found.plan_hash != plan_hash:
        raise PlanSupersededError(f"the plan {plan_hash[:12]}… is not the newest of the environment; plan again")
    if found.judged.handling is not Handling.UNATTENDED:
        raise ApprovalRequiredError("the plan needs an approval, which nobody has requested; plan again")
    if found.transfers_data:
        raise _no_transfer()
    return planned(environment, [], found.plan, plan_hash, now)


def superseded_before_begin(environment: Environment, blueprints: Blueprints, inputs: PlanInputs) -> tuple[str, ...]:
    """Returns the names of what has changed since the open plan was made; empty once a step of it is recorded."""
    plan = environment.plan
    if plan is None or plan.observed_hash is None or environment.has_begun:
        return ()
    # The fact of the plan itself is the newest revision of the base.
    unchanged = plan.model_copy(update={"based_on": environment.base_revision})
    return changed_since(environment, unchanged, blueprints, inputs)


def plan_anew(
    environment: Environment,
    plan_hash: str,
    changed: tuple[str, ...],
    blueprints: Blueprints,
    cells: CellsInForce,
    inputs: PlanInputs,
    now: datetime,
) -> list[EnvironmentEvent]:
    """Ends a plan that has not begun, because of what changed, and plans what is desired now."""
    open_ = environment.status in {Status.BUILDING, Status.CHANGING} and environment.plan_hash == plan_hash
    if not open_ or environment.desired is None:
        return []
    event = PlanSuperseded(
        tenant_id=environment.tenant_id, environment_id=environment.id, plan_hash=plan_hash, changed=changed
    )
    after = evolve(environment, event)
    reason = f"{approvals.named(changed)} changed"
    return [event, *towards(after, environment.desired, blueprints, cells, now, reason, inputs)]


def retry(
    environment: Environment | None,
    id_: str,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
    *,
    is_waiting: bool = False,
) -> list[EnvironmentEvent]:
    """Ends a plan that waits when another state is desired by now, and plans that; else as `planning.retry`.

    is_waiting: a job of the plan could not be done yet. Raises EnvironmentUnknownError, EnvironmentNotFailedError.
    """
    environment = existing(environment, id_)
    desired, plan_hash = environment.desired, environment.plan_hash
    is_open = environment.status in {Status.BUILDING, Status.CHANGING} and environment.is_overtaken
    if not (is_waiting and is_open) or desired is None or plan_hash is None or not desired.allows_access:
        return planning.retry(environment, id_, blueprints, cells, now, inputs)
    reason = f"the plan waited, and {desired.size.text} is entitled by now"
    events: list[EnvironmentEvent] = [failure(environment, plan_hash, reason)]
    return [*events, *towards(evolved(environment, events), desired, blueprints, cells, now, reason, inputs)]


def plannable(environment: Environment) -> Desired:
    """Returns the desired state. Raises EnvironmentNotPlannableError."""
    desired = environment.desired
    match environment.status:
        case Status.BUILDING | Status.CHANGING | Status.COMPENSATING:
            raise EnvironmentNotPlannableError("a plan is being applied; wait until it has ended")
        case Status.RETAINING | Status.RETAINED | Status.RESTORING | Status.PURGING | Status.PURGED:
            raise EnvironmentNotPlannableError(f"the environment is {environment.status}; nothing is planned for it")
        case Status.REGISTERED | Status.FAILED | Status.READY:
            if desired is None or not desired.allows_access:
                raise EnvironmentNotPlannableError("the tenant is not entitled to anything; nothing is planned for it")
            return desired
        case _:
            assert_never(environment.status)


def _require_deletable(environment: Environment) -> None:
    """Raises EnvironmentNotPlannableError when no plan of a purge may begin."""
    if (reason := purging.objection(environment)) is not None:
        raise EnvironmentNotPlannableError(reason)


def _require_room(environment: Environment, plan: Plan, cells: CellsInForce) -> None:
    """Raises RegionFullError when a cell of the plan has no place for the tenant any more."""
    for level, number in cells_of(step.after for step in plan.steps if step.after is not None) - environment.cells:
        of_level = cells.get(level)
        found = [each for each in (of_level.of(environment.region) if of_level else ()) if each.number == number]
        if not any(each.free for each in found):
            raise RegionFullError(f"the {level} cell {number} of {environment.region} has no place left; plan again")


def _no_transfer() -> TransferUnavailableError:
    return TransferUnavailableError(
        "the plan would transfer the tenant's data, which this version does not do; the change stays pending"
    )
