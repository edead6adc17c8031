"""Planning: the steps from what is built to what the tenant is entitled to, or the reason why there is no plan."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import assert_never

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import LimitFeature
from paybill_contracts.envelope import MAX_PAYLOAD_BYTES
from paybill_contracts.environment_plans import (
    BlueprintRef,
    EnvironmentDesired,
    EnvironmentPlanned,
    Plan,
    PlanRefused,
    Step,
    StepAction,
)
from paybill_contracts.errors import ConflictError, DomainError
from paybill_contracts.event import canonical, digest
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_definitions.resources import ResourceError, Values, render

from paybill_provisioner.domain.blueprints import (
    Blueprints,
    UnknownRegionError,
    UnknownTierError,
    definition_of,
)
from paybill_provisioner.domain.building import ended
from paybill_provisioner.domain.cells import Cells, RegionFullError, emptiest
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environments import (
    Desired,
    Environment,
    PlanMismatchError,
    Refusal,
    Status,
    evolve,
    existing,
)
from paybill_provisioner.domain.estimates import estimates
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.domain.steps import BrokenGraphError, ChangeRefusedError, diff

PUBLISH = "publish a blueprint that has it; the environment is then planned by itself"
"""What ends most refusals of a plan."""

MAKE_ROOM = "publish a blueprint with more cells, or reopen a drained cell and retry the environment"
"""What ends the refusal of a full region."""

PLANNED_AGAIN = "the environment is planned again"
WAITS_FOR = "an operator, who moves the tenant: this version of the provisioner moves no data"

CellsInForce = Mapping[Isolation, Cells | None]
"""Cells by their isolation level."""

SPLIT = "publish a blueprint whose tier has fewer resources or tables"
"""What ends the refusal of a plan that is too large."""

ENVELOPE_BYTES = 4096
"""Of a fact with a plan, for its other fields."""


class PlanTooLargeError(DomainError):
    """The plan does not fit into a fact."""

    code = "plan_too_large"


_CANNOT_BE_PLANNED = (
    PlanTooLargeError,
    UnknownTierError,
    UnknownRegionError,
    RegionFullError,
    ResourceError,
    BrokenGraphError,
    ChangeRefusedError,
)


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
    desired = Desired(Size(fact.tier, fact.placement), fact.entitlements_hash, limits, fact.allows_access)
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
    plan, hashes = environment.plan, {each.content_hash for each in blueprints.in_force}
    unchanged = plan is not None and plan.blueprint.content_hash in hashes
    if environment.desired is None or (environment.failure is not None and unchanged):
        return []
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

    Raises EnvironmentUnknownError, EnvironmentNotFailedError.
    """
    environment = existing(environment, id_)
    if environment.status in {Status.BUILDING, Status.CHANGING}:
        return []
    if environment.desired is None or (environment.failure is None and environment.refusal is None):
        raise EnvironmentNotFailedError(
            f"the environment is {environment.status}; only a plan that failed or was refused can be retried"
        )
    return towards(environment, environment.desired, blueprints, cells, now, inputs=inputs)


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
        case Status.BUILDING | Status.CHANGING | Status.RETAINING | Status.RETAINED | Status.RESTORING:
            return events
        case Status.REGISTERED | Status.FAILED | Status.READY:
            if not desired.allows_access:
                return events
        case _:
            assert_never(environment.status)
    try:
        cell = _cell(environment, desired, blueprints, cells)
        plan = plan_of(environment, desired, blueprints, cell, inputs)
        plan_hash = hash_of(plan)
    except _CANNOT_BE_PLANNED as error:
        return [*events, *_refused(environment, desired, error)]
    if environment.epoch and moves_data(plan.steps):
        return [*events, *_pending(environment, desired, reason, now)]
    return _planned(environment, events, plan, plan_hash, now)


def _cell(environment: Environment, desired: Desired, blueprints: Blueprints, cells: CellsInForce) -> int | None:
    """Returns the number of the cell that the tenant is in, or in which it gets a place; None for a silo.

    Raises UnknownTierError, UnknownRegionError, RegionFullError.
    """
    _, tier = definition_of(blueprints, desired.size.tier, desired.size.preset, environment.region)
    isolation = tier.layers.data
    if isolation is Isolation.SILO:
        return None
    current = environment.cell_of(isolation)
    return emptiest(cells.get(isolation), isolation, environment.region) if current is None else current


def plan_of(
    environment: Environment,
    desired: Desired,
    blueprints: Blueprints,
    cell: int | None,
    inputs: PlanInputs = NO_INPUTS,
) -> Plan:
    """Returns the plan from the existing resources to those of `desired`, in the cell with this number.

    Raises UnknownTierError, UnknownRegionError, ResourceError, BrokenGraphError, ChangeRefusedError.
    """
    size = desired.size
    blueprint, tier = definition_of(blueprints, size.tier, size.preset, environment.region)
    cells = {tier.layers.data: cell} if cell is not None else {}
    values = Values(environment.tenant_id, environment.slug, environment.region, desired.limits, cells)
    built = [each.resource for each in environment.built]
    steps = diff(render(blueprint.content, tier, values), built, environment.replaced)
    book = inputs.price_book
    return Plan(
        environment_id=environment.id,
        epoch=environment.epoch,
        based_on=environment.base_revision,
        observed_hash=environment.observed_hash,
        blueprint=BlueprintRef(
            name=blueprint.content.name, version=blueprint.content.version, content_hash=blueprint.content_hash
        ),
        entitlements_hash=desired.entitlements_hash,
        tier=size.tier,
        preset=size.preset,
        placement=tier.layers,
        cloud=tier.cloud,
        region=environment.region,
        limits=dict(desired.limits),
        price_book=book.ref if book else None,
        steps=steps,
        estimates=estimates(
            steps,
            (*built, *environment.replaced),
            (tier.cloud, environment.region),
            (environment.built_limits, desired.limits),
            book.content if book else None,
            inputs.runs,
        ),
    )


def hash_of(plan: Plan) -> str:
    """Returns the SHA-256 of the plan's canonical form. Raises PlanTooLargeError for one that fits into no fact."""
    content = canonical(plan.model_dump(mode="json"))
    if len(content) > MAX_PAYLOAD_BYTES - ENVELOPE_BYTES:
        raise PlanTooLargeError(
            f"the plan has {len(content)} bytes and {len(plan.steps)} steps; "
            f"a fact has at most {MAX_PAYLOAD_BYTES - ENVELOPE_BYTES} bytes for it"
        )
    return sha256(content).hexdigest()


def moves_data(steps: Sequence[Step]) -> bool:
    """Returns True when a step replaces or deletes a resource, which the tenant's data may be in."""
    return any(step.action in {StepAction.REPLACE, StepAction.DELETE} for step in steps)


def require_plan(environment: Environment, fact: EnvironmentPlanned) -> None:
    """Raises PlanMismatchError unless the plan in `fact` is the recorded one, with the hash that it names."""
    computed = digest(fact.plan) if fact.plan.hashed else fact.plan_hash
    if not computed == fact.plan_hash == environment.plan_hash:
        raise PlanMismatchError(
            f"the requested plan is {computed[:12]}…, the recorded one {str(environment.plan_hash)[:12]}…; "
            "check the environment and retry it"
        )


def _planned(
    environment: Environment, events: list[EnvironmentEvent], plan: Plan, plan_hash: str, now: datetime
) -> list[EnvironmentEvent]:
    """Returns the events of a plan; one without steps is complete at once, and an equal one is not recorded."""
    last = environment.plan
    if environment.pending is not None:
        size = Size(plan.tier, plan.preset)
        reason = PLANNED_AGAIN if plan.steps else "the tenant is entitled to the built size again"
        events = [*events, _settled(environment, size, reason)]
    if not plan.steps and last is not None and environment.failure is None and _same(last, plan):
        return events
    fact = EnvironmentPlanned(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        plan=plan,
        plan_hash=plan_hash,
        planned_at=now,
    )
    # The plan names the desired state, so that one fact records both.
    settled = [event for event in events if not isinstance(event, EnvironmentDesired)]
    return [*settled, fact, *ended(evolve(environment, fact))]


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
    next_step = {RegionFullError: MAKE_ROOM, PlanTooLargeError: SPLIT}.get(type(error), PUBLISH)
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


def _pending(environment: Environment, desired: Desired, reason: str, now: datetime) -> list[EnvironmentEvent]:
    """Returns the pending change of an environment whose data would have to move, unless it is recorded already."""
    built = environment.built_size
    if built is None or (environment.pending is not None and environment.desired_size == desired.size):
        return []
    return [
        EnvironmentChangePending(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            from_tier=built.tier,
            from_preset=built.preset,
            to_tier=desired.size.tier,
            to_preset=desired.size.preset,
            since=environment.pending.since if environment.pending else now,
            reason=reason or f"the tenant is entitled to {desired.size.text}",
            waits_for=WAITS_FOR,
        )
    ]


def _settled(environment: Environment, size: Size, reason: str) -> EnvironmentChangeSettled:
    return EnvironmentChangeSettled(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        tier=size.tier,
        preset=size.preset,
        reason=reason,
    )


def on_leaving(environment: Environment | None) -> list[EnvironmentEvent]:
    """Ends a pending change, because a tenant that leaves keeps what it has."""
    if environment is None or environment.pending is None or environment.built_size is None:
        return []
    return [_settled(environment, environment.built_size, "the tenant leaves")]
