"""Planning: desired states are planned, held for an approval, refused with a reason, or pending."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import LimitFeature
from paybill_contracts.environment_plans import EnvironmentDesired, EnvironmentPlanned, Plan, PlanRefused
from paybill_contracts.errors import ConflictError, DomainError
from paybill_contracts.policy import Handling
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_contracts.table_rebuilds import InspectedTables

from paybill_provisioner.domain import approvals, purging, rebuilding
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.building import ended
from paybill_provisioner.domain.cells import RegionFullError
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_parts import Refusal
from paybill_provisioner.domain.environment_state import Desired, Environment, Status
from paybill_provisioner.domain.environments import evolve, evolved, existing
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.plan_approvals import ApprovalStatus, PlanApproval
from paybill_provisioner.domain.plans import (
    CANNOT_BE_PLANNED,
    CellsInForce,
    PlanTooLargeError,
    cell_for,
    hash_of,
    is_current,
    plan_of,
)
from paybill_provisioner.domain.policy import Verdict, transfers_data, verdict
from paybill_provisioner.domain.rebuilding import ForeignObjectsError, TablesNotInspectedError
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.domain.steps import ChangeRefusedError

PUBLISH = "publish a blueprint that has it; the environment is then planned by itself"
"""End of most refusals of a plan."""

MAKE_ROOM = "publish a blueprint with more cells, or reopen a drained cell; the environment is then planned by itself"
"""End of the refusal of a full region."""

SPLIT = "publish a blueprint whose tier has fewer resources or tables"
"""End of the refusal of a plan that is too large."""

KEEP = "publish a blueprint whose tier keeps what is built, or choose another tier; then it is planned by itself"
"""End of the refusal of a change that no built resource can follow."""

NEXT_STEPS: dict[type[DomainError], str] = {
    RegionFullError: MAKE_ROOM,
    PlanTooLargeError: SPLIT,
    ChangeRefusedError: KEEP,
    TablesNotInspectedError: "they are being inspected; the environment is then planned by itself",
    ForeignObjectsError: "remove it from the tables, then retry the environment",
}
"""Ends of the refusals that another blueprint does not end."""

PLANNED_AGAIN = "the environment is planned again"
TRANSFER = "the transfer of its data, which this version of the provisioner does not do"


class EnvironmentNotFailedError(ConflictError):
    """Nothing can be retried: the last plan did not fail, and no desired state is refused."""

    code = "environment_not_failed"


def on_entitlements_set(
    environment: Environment | None,
    fact: EntitlementsSet,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Records what the tenant is entitled to, in every status, and plans it. Raises EnvironmentUnknownError."""
    environment = existing(environment, fact.tenant_id)
    limits = {each.key: each.limit for each in fact.features if isinstance(each, LimitFeature)}
    entitled = Desired(Size(fact.tier, fact.placement), fact.entitlements_hash, limits, fact.allows_access)
    desired = environment.moved(entitled)
    if desired == environment.desired and environment.status is not Status.FAILED:
        return []
    reason = f"the plan {fact.plan.plan} needs {desired.size.text}"
    return towards(environment, desired, blueprints, cells, now, reason, inputs)


def compare(
    environment: Environment,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Plans the environment when its desired state differs from the planned one and no plan is open.

    A failed plan is not repeated: that needs another desired state, another blueprint or an operator.
    """
    if environment.status is Status.PURGING:
        return [] if environment.failure is not None else purging.delete_all(environment, inputs, now)
    if is_current(environment, blueprints):
        return []
    plan, hashes = environment.plan, {each.content_hash for each in blueprints.in_force}
    unchanged = plan is not None and plan.blueprint.content_hash in hashes
    has_failed = environment.failure is not None and unchanged and not environment.is_overtaken
    if environment.desired is None or has_failed:
        return approvals.superseded(environment, blueprints, inputs)
    return towards(environment, environment.desired, blueprints, cells, now, inputs=inputs)


def retry(
    environment: Environment | None,
    id_: str,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Plans again what is desired now, after a failure or a refusal; built resources stay.

    Tables that the plan would rebuild are inspected before.

    Raises EnvironmentUnknownError, EnvironmentNotFailedError.
    """
    environment = existing(environment, id_)
    if environment.status in {Status.BUILDING, Status.CHANGING, Status.COMPENSATING}:
        return []
    if environment.status is Status.PURGING and environment.failure is not None:
        return purging.retry(environment, inputs, now)
    if environment.status is Status.READY and rebuilding.earlier_schemas(environment):
        return [rebuilding.inspection_requested(environment)]
    if environment.desired is None or (environment.failure is None and environment.refusal is None):
        raise EnvironmentNotFailedError(
            f"the environment is {environment.status}; only a plan that failed or was refused can be retried"
        )
    return towards(environment, environment.desired, blueprints, cells, now, inputs=inputs)


def inspected(
    environment: Environment,
    schemas: Sequence[InspectedTables],
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Records the inspection of tables, and plans what is desired now by it."""
    events: list[EnvironmentEvent] = [*rebuilding.inspected(environment, schemas)]
    after = evolved(environment, events)
    if not events or after.desired is None:
        return events
    return [*events, *towards(after, after.desired, blueprints, cells, now, inputs=inputs)]


def towards(
    environment: Environment,
    desired: Desired,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    reason: str = "",
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Returns the events that make `desired` the desired state, and its plan, its refusal or its pending change."""
    events: list[EnvironmentEvent] = [] if desired == environment.desired else [_desired(environment, desired)]
    match environment.status:
        case (
            Status.BUILDING
            | Status.CHANGING
            | Status.COMPENSATING
            | Status.RETAINING
            | Status.RETAINED
            | Status.RESTORING
        ):
            return events
        case Status.PURGING | Status.PURGED:
            return events
        case Status.REGISTERED | Status.FAILED | Status.READY:
            pass
        case _:
            assert_never(environment.status)
    after = evolved(environment, events)
    events += approvals.superseded(after, blueprints, inputs)
    after = evolved(environment, events)
    if not desired.allows_access:
        return events
    try:
        cell = cell_for(after, desired, blueprints, cells)
        plan = plan_of(after, desired, blueprints, cell, inputs)
        plan_hash = hash_of(plan)
    except CANNOT_BE_PLANNED as error:
        refused = _refused(environment, desired, error)
        needs_inspection = isinstance(error, TablesNotInspectedError) and refused
        return [*events, *refused, *([rebuilding.inspection_requested(after)] if needs_inspection else [])]
    was_ready = after.epoch > 0
    judged = verdict(inputs.policy, plan, was_ready=was_ready, is_moving=after.is_moving)
    transfers = was_ready and transfers_data(plan)
    if judged.handling is Handling.UNATTENDED and not transfers:
        return planned(after, events, plan, plan_hash, now)
    if transfers:
        pending = _pending(after, plan, plan_hash, reason, now)
        state = evolved(after, pending)
        kept = plan_of_kept(state, blueprints, cells, inputs)
        if kept is not None:
            first, first_hash = verdict(inputs.policy, kept, was_ready=was_ready), hash_of(kept)
            if first.handling is Handling.UNATTENDED:
                return planned(state, [*events, *pending], kept, first_hash, now)
            return [*events, *pending, *held(state, kept, first_hash, first, inputs, now, reason)]
    requester = after.move.requester if after.move and after.is_moving else approvals.SERVICE
    return [*events, *held(after, plan, plan_hash, judged, inputs, now, reason, requester)]


def plan_of_kept(
    environment: Environment,
    blueprints: Blueprints,
    cells: CellsInForce,
    inputs: PlanInputs,
    *,
    by_person: bool = False,
) -> Plan | None:
    """Returns the plan of what is built, while a change of its size waits for a transfer.

    It repairs drift, and changes in place what another blueprint defines. None when there is nothing to do, or when it
    cannot be planned: the pending change is what is desired. by_person: as of `plan_of`.
    """
    kept = environment.kept
    if kept is None:
        return None
    try:
        cell = cell_for(environment, kept, blueprints, cells)
        plan = plan_of(environment, kept, blueprints, cell, inputs, by_person=by_person)
        hash_of(plan)
    except CANNOT_BE_PLANNED:
        return None
    return plan if plan.steps and not transfers_data(plan) else None


def held(
    environment: Environment,
    plan: Plan,
    plan_hash: str,
    judged: Verdict,
    inputs: PlanInputs,
    now: datetime,
    reason: str = "",
    requester: str = approvals.SERVICE,
) -> list[EnvironmentEvent]:
    """Returns the request for an approval of the plan, unless there is one, and the pending change of what is built."""
    events: list[EnvironmentEvent] = []
    covered = approvals.still_covers(environment, plan, judged, now, requester)
    if judged.handling is not Handling.UNATTENDED and not covered:
        why = approvals.EXPIRED if environment.approval and environment.approval.has_expired(now) else "requested again"
        events = approvals.void(environment, why)
        after = evolved(environment, events)
        events.append(approvals.request(after, plan, plan_hash, judged, inputs, now, requester))
    after = evolved(environment, events)
    return [*events, *_pending(after, plan, plan_hash, reason, now)]


def planned(
    environment: Environment, events: list[EnvironmentEvent], plan: Plan, plan_hash: str, now: datetime
) -> list[EnvironmentEvent]:
    """Returns the events of a plan; one without steps is complete at once, and an equal one is not recorded."""
    last = environment.plan
    voided = approvals.void(environment, "another plan is applied")
    events, environment = [*events, *voided], evolved(environment, voided)
    if environment.pending is not None and not environment.keeps(plan):
        reason = PLANNED_AGAIN if plan.steps else "the tenant is entitled to the built size again"
        events = [*events, settled(environment, Size.of(plan), reason)]
    if not plan.steps and last is not None and environment.failure is None and _same(last, plan):
        return events
    fact = EnvironmentPlanned(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        plan=plan,
        plan_hash=plan_hash,
        planned_at=now,
    )
    if not environment.keeps(plan):  # it names the desired state, so that one fact records both
        events = [event for event in events if not isinstance(event, EnvironmentDesired)]
    return [*events, fact, *ended(evolve(environment, fact))]


def _same(last: Plan, plan: Plan) -> bool:
    fields = ("blueprint", "entitlements_hash", "tier", "preset", "limits")
    return all(getattr(last, each) == getattr(plan, each) for each in fields)


def _desired(environment: Environment, desired: Desired) -> EnvironmentDesired:
    return EnvironmentDesired(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        tier=desired.size.tier,
        preset=desired.size.preset,
        entitlements_hash=desired.entitlements_hash,
        limits=dict(desired.limits),
        allows_access=desired.allows_access,
    )


def _refused(environment: Environment, desired: Desired, error: DomainError) -> list[EnvironmentEvent]:
    """Returns the refusal, unless it is recorded already."""
    next_step = NEXT_STEPS.get(type(error), PUBLISH)
    refusal = Refusal(error.code, str(error)[:500], next_step)
    if refusal == environment.refusal and desired == environment.desired:
        return []
    return [
        PlanRefused(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            tier=desired.size.tier,
            preset=desired.size.preset,
            entitlements_hash=desired.entitlements_hash,
            code=refusal.code,
            reason=refusal.reason,
            next_step=refusal.next_step,
        )
    ]


def _pending(
    environment: Environment, plan: Plan, plan_hash: str, reason: str, now: datetime
) -> list[EnvironmentEvent]:
    """Returns the pending change of an environment that is built, unless it is recorded already."""
    built, pending, approval = environment.built_size, environment.pending, environment.approval
    if built is None or environment.keeps(plan):
        return []
    of_plan = approval if approval and approval.plan and Size.of(approval.plan) == Size.of(plan) else None
    waits_for = _waits_for(plan, of_plan)
    open_ = of_plan if of_plan and of_plan.is_open else None
    if pending is not None and (pending.tier, pending.preset, pending.waits_for) == (plan.tier, plan.preset, waits_for):
        return []
    return [
        EnvironmentChangePending(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            from_tier=built.tier,
            from_preset=built.preset,
            to_tier=plan.tier,
            to_preset=plan.preset,
            since=pending.since if pending else now,
            reason=reason or (pending.reason if pending else f"the tenant is entitled to {plan.tier} ({plan.preset})"),
            waits_for=waits_for,
            plan_hash=open_.plan_hash if open_ else plan_hash,
            cost=plan.estimates.cost,
            approval_id=of_plan.id if of_plan else None,
        )
    ]


def _waits_for(plan: Plan, approval: PlanApproval | None) -> str:
    """Returns what ends a pending change with this plan, for people. approval: of the plan."""
    status = approval.status if approval else None
    if approval is not None and status is ApprovalStatus.REJECTED:
        return f"another plan, because the approval {approval.id} was rejected"
    steps = []
    if approval is not None and status is ApprovalStatus.REQUESTED:
        steps.append(f"the approval {approval.id}{' by another person' if approval.other_person else ''}")
    if transfers_data(plan):
        steps.append(TRANSFER)
    return ", then ".join(steps) or "an operator"


def decided(environment: Environment | None, events: list[EnvironmentEvent], now: datetime) -> list[EnvironmentEvent]:
    """Returns the events of a decision on an approval, with the pending change that waits for something else then."""
    if environment is None or environment.pending is None:
        return events
    after = evolved(environment, events)
    if after.pending is None or after.approval is None or after.approval.plan is None:
        return events
    return [*events, *_pending(after, after.approval.plan, after.approval.plan_hash, "", now)]


def settled(environment: Environment, size: Size, reason: str) -> EnvironmentChangeSettled:
    """Returns the end of a pending change, with the size that is built or planned then."""
    return EnvironmentChangeSettled(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        tier=size.tier,
        preset=size.preset,
        reason=reason,
    )


def on_leaving(environment: Environment | None) -> list[EnvironmentEvent]:
    """Ends an open approval and a pending change, because a tenant that leaves keeps what it has."""
    if environment is None:
        return []
    events = approvals.void(environment, "the tenant leaves")
    if environment.pending is not None and environment.built_size is not None:
        events.append(settled(environment, environment.built_size, "the tenant leaves"))
    return events
