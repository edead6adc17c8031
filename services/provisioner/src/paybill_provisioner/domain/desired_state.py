"""Desired state of an environment, as facts set it: entitlements, moves and quoted changes of the subscription."""

from dataclasses import replace

from paybill_contracts.environment_plans import Plan
from paybill_contracts.environment_requests import MoveRequested, ProrationNoted
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import EnvironmentChangeSettled

from paybill_provisioner.domain.environment_parts import Move, QuotedChange
from paybill_provisioner.domain.environment_state import Desired, Environment
from paybill_provisioner.domain.sizes import Size


def with_settled(environment: Environment, event: EnvironmentChangeSettled) -> Environment:
    """Ends a pending change, and a move back to the entitled size."""
    settled = with_desired_size(environment, event.tier, event.preset)
    is_over = settled.move is not None and settled.desired_size == settled.move.entitled
    return replace(settled, pending=None, move=None if is_over else settled.move)


def with_desired(environment: Environment, desired: Desired) -> Environment:
    """Sets the desired state; another size than that of a move ends the move."""
    move = environment.move if environment.desired_size == desired.size else None
    return replace(environment, desired=desired, move=move)


def with_planned(environment: Environment, plan: Plan) -> Environment:
    """Sets what a plan is for as desired, unless it only keeps what is built while a change is pending."""
    if environment.keeps(plan):
        return environment
    return replace(with_desired(environment, Desired.of(plan)), pending=None)


def with_move(environment: Environment, event: MoveRequested) -> Environment:
    """Sets the placement of a move. A second move is from the same entitled size."""
    if environment.desired is None:
        return environment
    size = environment.desired.size
    entitled = environment.move.entitled if environment.move else size
    return replace(
        environment,
        desired=replace(environment.desired, size=Size(size.tier, event.to_preset)),
        move=Move(entitled, event.requester, event.requested_at),
    )


def with_quoted(environment: Environment, event: ProrationNoted) -> Environment:
    """Sets the quoted change, or forgets it when it will not be made."""
    if event.due_now is None:
        return replace(environment, quoted=None)
    size = Size(event.tier, event.preset)
    return replace(environment, quoted=QuotedChange(event.change_id, event.due_now, size, event.entitlements_hash))


def quoted_after(environment: Environment) -> QuotedChange | None:
    """Returns the quoted change after the plan is complete; None when the plan was for it."""
    was_planned = environment.plan is not None and environment.plan.estimates.proration is not None
    return None if was_planned else environment.quoted


def with_desired_size(environment: Environment, tier: str, preset: Preset) -> Environment:
    """Sets the size of the desired state; its entitlements stay."""
    if environment.desired is None:
        return environment
    return replace(environment, desired=replace(environment.desired, size=Size(tier, preset)))
