"""Plans: the steps from what exists to a desired state, with everything that they are made from, and their hash."""

from collections.abc import Iterator, Mapping
from hashlib import sha256

from paybill_contracts.envelope import MAX_PAYLOAD_BYTES
from paybill_contracts.environment_plans import BlueprintRef, EnvironmentPlanned, Plan
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical, digest
from paybill_contracts.money import Money
from paybill_contracts.placement import Isolation
from paybill_definitions.resources import ResourceError, Values, render

from paybill_provisioner.domain.agent_logins import is_missing, with_login
from paybill_provisioner.domain.blueprints import Blueprints, UnknownRegionError, UnknownTierError, definition_of
from paybill_provisioner.domain.cells import Cells, RegionFullError, emptiest
from paybill_provisioner.domain.drift import repairs_of
from paybill_provisioner.domain.environment_state import Desired, Environment, Status
from paybill_provisioner.domain.environments import PlanMismatchError
from paybill_provisioner.domain.estimates import estimates
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.rebuilding import (
    ForeignObjectsError,
    TablesNotInspectedError,
    earlier_schemas,
    require_inspected,
)
from paybill_provisioner.domain.steps import BrokenGraphError, ChangeRefusedError, cells_of, diff
from paybill_provisioner.domain.unfinished import changes_of

CellsInForce = Mapping[Isolation, Cells | None]
"""Cells by their isolation level."""

ENVELOPE_BYTES = 4096
"""Of a fact with a plan, for its other fields."""


class PlanTooLargeError(DomainError):
    """The plan does not fit into a fact."""

    code = "plan_too_large"


CANNOT_BE_PLANNED = (
    PlanTooLargeError,
    UnknownTierError,
    UnknownRegionError,
    RegionFullError,
    ResourceError,
    BrokenGraphError,
    ChangeRefusedError,
    TablesNotInspectedError,
    ForeignObjectsError,
)


def cell_for(environment: Environment, desired: Desired, blueprints: Blueprints, cells: CellsInForce) -> int | None:
    """Returns the number of the cell that the tenant is in, or in which it gets a place; None for a silo.

    Raises UnknownTierError, UnknownRegionError, RegionFullError.
    """
    _, tier = definition_of(blueprints, desired.size.tier, desired.size.preset, environment.region)
    isolation = tier.layers.data
    if isolation is Isolation.SILO:
        return None
    current = environment.cell_of(isolation)
    if current is None:
        current = _requested_cell(environment, isolation, cells.get(isolation))
    return emptiest(cells.get(isolation), isolation, environment.region) if current is None else current


def _requested_cell(environment: Environment, isolation: Isolation, cells: Cells | None) -> int | None:
    """Returns the number of the cell in the plan that waits for an approval, while there is room in it."""
    approval = environment.approval
    if approval is None or approval.plan is None or not approval.is_open:
        return None
    number = dict(cells_of(step.after for step in approval.plan.steps if step.after is not None)).get(isolation)
    room = {cell.number for cell in (cells.of(environment.region) if cells else ()) if cell.free}
    return number if number in room else None


def plan_of(
    environment: Environment,
    desired: Desired,
    blueprints: Blueprints,
    cell: int | None,
    inputs: PlanInputs = NO_INPUTS,
    *,
    by_person: bool = False,
) -> Plan:
    """Returns the plan from the existing resources to those of `desired`, in the cell with this number.

    by_person: it repairs drift whatever policy says.
    Raises UnknownTierError, UnknownRegionError, ResourceError, BrokenGraphError, ChangeRefusedError,
    TablesNotInspectedError, ForeignObjectsError.
    """
    size = desired.size
    blueprint, tier = definition_of(blueprints, size.tier, size.preset, environment.region)
    cells = {tier.layers.data: cell} if cell is not None else {}
    values = Values(environment.tenant_id, environment.slug, environment.region, desired.limits, cells)
    built = [each.resource for each in environment.built]
    repairs = repairs_of(environment, None if by_person else inputs.policy.drift)
    target = with_login(environment, render(blueprint.content, tier, values), blueprint.content.name, tier)
    steps = diff(
        target,
        built,
        environment.replaced,
        missing=repairs.missing,
        changed=repairs.changed,
        unconfirmed=changes_of(environment),
    )
    require_inspected(steps, environment.inspected)
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
            _proration(environment, desired),
            environment.inspected,
        ),
    )


def _proration(environment: Environment, desired: Desired) -> Money | None:
    """Returns the proration of the quoted change that led to the desired state; None for another desired state."""
    quoted = environment.quoted
    if quoted is None or quoted.size != desired.size or quoted.entitlements_hash == desired.entitlements_hash:
        return None
    return quoted.due_now


def hash_of(plan: Plan) -> str:
    """Returns the SHA-256 of the plan's canonical form. Raises PlanTooLargeError for one that fits into no fact."""
    content = canonical(plan.model_dump(mode="json"))
    if len(content) > MAX_PAYLOAD_BYTES - ENVELOPE_BYTES:
        raise PlanTooLargeError(
            f"the plan has {len(content)} bytes and {len(plan.steps)} steps; "
            f"a fact has at most {MAX_PAYLOAD_BYTES - ENVELOPE_BYTES} bytes for it"
        )
    return sha256(content).hexdigest()


def is_current(environment: Environment, blueprints: Blueprints) -> bool:
    """Returns True when nothing differs between desired, planned and built, so that another plan has no steps.

    False does not mean that one has: only what is cheap to see is compared.
    """
    plan, desired, approval = environment.plan, environment.desired, environment.approval
    if plan is None or desired is None or environment.status is not Status.READY:
        return False
    unsettled = (environment.failure, environment.refusal, environment.pending, environment.replaced, environment.drift)
    if (
        any(unsettled)
        or environment.unconfirmed
        or environment.remaining
        or (approval is not None and approval.is_open)
    ):
        return False
    if earlier_schemas(environment) or is_missing(environment):
        return False
    if environment.is_overtaken:
        return False
    try:
        in_force, _ = definition_of(blueprints, plan.tier, plan.preset, environment.region)
    except CANNOT_BE_PLANNED:
        return False
    return in_force.content_hash == plan.blueprint.content_hash


def changed_since(environment: Environment, plan: Plan, blueprints: Blueprints, inputs: PlanInputs) -> tuple[str, ...]:
    """Returns the names of what the plan was made from and that has changed since; its steps are not compared."""
    return tuple(_changed(environment, plan, blueprints, inputs))


def _changed(environment: Environment, plan: Plan, blueprints: Blueprints, inputs: PlanInputs) -> Iterator[str]:
    due = environment.due(plan)
    in_force = blueprints.named(plan.blueprint.name)
    if (plan.epoch, plan.based_on) != (environment.epoch, environment.base_revision):
        yield "base_revision"
    if plan.observed_hash != environment.observed_hash:
        yield "observed"
    if plan.purge:
        return
    if in_force is None or in_force.content_hash != plan.blueprint.content_hash:
        yield "blueprint"
    if due is None or not due.is_planned_by(plan):
        yield "entitlements"
    if plan.price_book != (inputs.price_book.ref if inputs.price_book else None):
        yield "price_book"


def require_plan(environment: Environment, fact: EnvironmentPlanned) -> None:
    """Raises PlanMismatchError unless the plan in `fact` is the recorded one, with the hash that it names."""
    computed = digest(fact.plan) if fact.plan.hashed else fact.plan_hash
    if not computed == fact.plan_hash == environment.plan_hash:
        raise PlanMismatchError(
            f"the requested plan is {computed[:12]}…, the recorded one {str(environment.plan_hash)[:12]}…; "
            "check the environment and retry it"
        )
