"""Moves to another placement that a person requests. This version plans them, and transfers no data."""

from datetime import datetime

from paybill_contracts.environment_requests import MoveRequested
from paybill_contracts.errors import ConflictError
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access, EnvironmentChangeSettled

from paybill_provisioner.domain import approvals
from paybill_provisioner.domain.applying import EnvironmentNotPlannableError, plannable, propose
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import evolve, existing
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.planning import decided, held, settled
from paybill_provisioner.domain.plans import CellsInForce
from paybill_provisioner.domain.sizes import Size


class SamePlacementError(ConflictError):
    """The tenant is on this placement already."""

    code = "same_placement"


class ChangePendingError(ConflictError):
    """Another change of the environment waits."""

    code = "change_pending"


class TenantSuspendedError(ConflictError):
    """The tenant is suspended, so that nothing of it is moved."""

    code = "tenant_suspended"


def move(
    environment: Environment | None,
    id_: str,
    preset: Preset,
    requester: str,
    blueprints: Blueprints,
    cells: CellsInForce,
    inputs: PlanInputs,
    now: datetime,
) -> list[EnvironmentEvent]:
    """Plans the move of a tenant to another placement, and requests its approval; nothing is applied.

    A repeated request changes nothing; one for the built placement withdraws a move that is pending.
    Raises SamePlacementError, ChangePendingError, TenantSuspendedError, and the errors of `propose`, such as
    RegionFullError.
    """
    environment = existing(environment, id_)
    desired, built, approval = plannable(environment), environment.built_size, environment.approval
    if built is None:
        raise EnvironmentNotPlannableError("nothing is built that could be moved; wait until the environment is ready")
    if environment.is_moving and desired.size.preset is preset:
        return []
    if environment.is_moving and built.preset is preset:
        return [*approvals.void(environment, "the move is withdrawn"), _ended(environment, built, "it is withdrawn")]
    is_held = approval is not None and approval.is_open and not approval.has_expired(now)
    if desired.size != built or is_held or environment.refusal is not None:
        waits = f"the approval {approval.id}" if approval is not None and is_held else "`paybill environment show`"
        raise ChangePendingError(f"another change of the environment is pending; end it first: {waits}")
    if preset is built.preset:
        raise SamePlacementError(f"the tenant is {built.preset} already")
    if environment.target_access is not Access.OPEN:
        raise TenantSuspendedError("the tenant is suspended; move it when its access is open again")
    requested = MoveRequested(
        tenant_id=environment.tenant_id,
        environment_id=environment.id,
        from_preset=built.preset,
        to_preset=preset,
        requester=requester,
        requested_at=now,
    )
    after = evolve(environment, requested)
    found = propose(after, blueprints, cells, inputs)
    reason = f"{requester} requested the move from {built.preset} to {preset}"
    return [requested, *held(after, found.plan, found.plan_hash, found.judged, inputs, now, reason, requester)]


def reject(
    environment: Environment | None, approval_id: str, rejected_by: str, reason: str, now: datetime
) -> list[EnvironmentEvent]:
    """Rejects a plan, which ends the move that it is for. Raises ApprovalUnknownError, ApprovalEndedError."""
    events = approvals.reject(environment, approval_id, rejected_by, reason)
    if environment is None or not environment.is_moving or environment.built_size is None:
        return decided(environment, events, now)
    return [*events, _ended(environment, environment.built_size, f"it was rejected: {reason}")]


def _ended(environment: Environment, built: Size, reason: str) -> EnvironmentChangeSettled:
    """Returns the end of a move that is not built: what is built is desired again."""
    return settled(environment, built, f"the move ends: {reason}"[:500])
