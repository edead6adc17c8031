"""A move that a person requests is planned, priced and held, and refused where it cannot be made."""

from datetime import timedelta
from typing import Any

import pytest
from approval_samples import ADA, BO, applied, approved, compared, open_approval, policy, prices
from blueprint_samples import blueprint_of, cells_of, published, tier_blueprint
from environment_samples import (
    BUILDING,
    CLOSED,
    CLOSING,
    LEAVES,
    NOW,
    READY,
    REGISTERED,
    RETAINED,
    after,
    completed,
    entitled,
)
from paybill_contracts.environment_requests import MoveRequested
from paybill_contracts.money import Money
from paybill_contracts.placement import Isolation, Preset
from paybill_contracts.plan_approvals import ApprovalRejected, ApprovalRequested, ApprovalVoid
from paybill_contracts.plan_estimates import MonthlyCost
from paybill_contracts.policy import Handling
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_provisioner.domain import access, cells, moves, planning
from paybill_provisioner.domain.applying import EnvironmentNotPlannableError, TransferUnavailableError
from paybill_provisioner.domain.blueprints import UnknownTierError
from paybill_provisioner.domain.cells import RegionFullError
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.moves import ChangePendingError, SamePlacementError, TenantSuspendedError
from paybill_provisioner.domain.sizes import Size

CONTENT = blueprint_of(
    *(tier_blueprint("starter", preset) for preset in Preset), tier_blueprint("team", Preset.BRIDGE), version=2
)
BLUEPRINTS = published(CONTENT)
CELLS = cells_of(CONTENT)
POOLED, SILO = Size("starter", Preset.POOLED), Size("starter", Preset.SILO)
HERE = compared(READY, BLUEPRINTS)
"""An environment that is ready, by the blueprint whose tier is on every placement."""


def moved(
    environment: Environment, to: Preset = Preset.SILO, who: str = ADA, inputs: PlanInputs | None = None, **other: Any
) -> list[Any]:
    values = {"blueprints": BLUEPRINTS, "cells": CELLS, "now": NOW} | other
    return moves.move(environment, environment.id, to, who, inputs=inputs or PlanInputs(), **values)


def entitle(environment: Environment, **fields: Any) -> Environment:
    fact = entitled(**fields)
    return after(environment, planning.on_entitlements_set(environment, fact, BLUEPRINTS, CELLS, NOW))


WAITING = after(HERE, moved(HERE))


def test_a_requested_placement_is_a_pending_change_with_plan_price_and_approval() -> None:
    events = moved(HERE, inputs=PlanInputs(price_book=prices()))
    waiting = after(HERE, events)
    approval, pending = open_approval(waiting), waiting.pending

    assert [type(each) for each in events] == [MoveRequested, ApprovalRequested, EnvironmentChangePending]
    assert (waiting.desired_size, waiting.built_size) == (SILO, POOLED)
    assert pending is not None
    assert pending.cost == MonthlyCost(
        before=Money(minor=1200, currency="EUR"), after=Money(minor=6000, currency="EUR")
    )
    assert (pending.approval_id, pending.plan_hash) == (approval.id, approval.plan_hash)
    assert pending.reason == "user:ada requested the move from pooled to silo"
    assert (approval.requester, approval.other_person) == (ADA, True)
    assert {each.rule for each in approval.reasons} == {"replaces", "moves_data", "move"}


def test_a_requested_placement_is_only_planned() -> None:
    granted = approved(WAITING, BLUEPRINTS, approver=BO)

    with pytest.raises(TransferUnavailableError):
        applied(granted, BLUEPRINTS)


def test_a_requested_placement_waits_for_an_approval_whatever_policy_allows() -> None:
    rules = dict.fromkeys(("deletes", "replaces", "moves_data"), Handling.UNATTENDED)
    inputs = PlanInputs(published_policy=policy(**rules))
    waiting = after(HERE, moved(HERE, inputs=inputs))

    assert [each.rule for each in open_approval(waiting).reasons] == ["move"]
    assert planning.compare(waiting, BLUEPRINTS, CELLS, NOW, inputs) == []


def test_a_repeated_request_and_equal_entitlements_change_nothing() -> None:
    assert moved(WAITING, who=BO) == []
    assert planning.on_entitlements_set(WAITING, entitled(), BLUEPRINTS, CELLS, NOW) == []


def test_a_changed_input_requests_the_approval_anew_for_the_same_person() -> None:
    changed = entitle(WAITING, entitlements_hash="cd" * 32)

    assert changed.desired_size == SILO
    assert open_approval(changed).id != open_approval(WAITING).id
    assert open_approval(changed).requester == ADA


def test_another_entitled_size_ends_the_request() -> None:
    changed = entitle(WAITING, tier="team", placement=Preset.BRIDGE)
    back = entitle(changed)

    assert (changed.desired_size, changed.move) == (Size("team", Preset.BRIDGE), None)
    assert (back.desired_size, back.pending) == (POOLED, None)


@pytest.mark.parametrize("blueprints", [BLUEPRINTS, published(blueprint_of(CONTENT.tiers[0], version=3))])
def test_the_built_placement_withdraws_the_request_even_if_it_cannot_be_planned_any_more(blueprints: Any) -> None:
    waiting = compared(WAITING, blueprints)
    events = moved(waiting, Preset.POOLED, blueprints=blueprints)
    ended = after(waiting, events)

    assert EnvironmentChangeSettled in {type(each) for each in events}
    assert (ended.desired_size, ended.move, ended.pending) == (POOLED, None, None)
    assert not (ended.approval and ended.approval.is_open)
    assert compared(ended, blueprints).pending is None


def test_a_rejected_request_ends() -> None:
    events = moves.reject(WAITING, open_approval(WAITING).id, BO, "not before the audit", NOW)
    ended = after(WAITING, events)

    assert [type(each) for each in events] == [ApprovalRejected, EnvironmentChangeSettled]
    assert events[1].reason == "the move ends: it was rejected: not before the audit"
    assert (ended.desired_size, ended.move, ended.pending) == (POOLED, None, None)
    assert planning.compare(ended, BLUEPRINTS, CELLS, NOW) == []


def test_a_rejected_plan_of_entitlements_stays_pending() -> None:
    waiting = entitle(HERE, placement=Preset.SILO)
    events = moves.reject(waiting, open_approval(waiting).id, BO, "not now", NOW)

    assert [type(each) for each in events] == [ApprovalRejected, EnvironmentChangePending]
    assert after(waiting, events).desired_size == SILO
    assert events[1].waits_for == f"another plan, because the approval {open_approval(waiting).id} was rejected"


def test_a_pending_change_names_what_it_waits_for_after_its_approval() -> None:
    waiting = entitle(HERE, placement=Preset.SILO)
    granted = approved(waiting, BLUEPRINTS)
    approval = open_approval(waiting).id

    assert waiting.pending is not None
    assert waiting.pending.waits_for == f"the approval {approval} by another person, then {planning.TRANSFER}"
    assert granted.pending is not None
    assert (granted.pending.waits_for, granted.pending.approval_id) == (planning.TRANSFER, approval)
    assert granted.pending.since == waiting.pending.since
    assert planning.compare(granted, BLUEPRINTS, CELLS, NOW) == []


def test_a_tenant_that_leaves_keeps_its_placement() -> None:
    events = planning.on_leaving(WAITING)
    left = after(WAITING, [*events, *access.on_tenant_left(after(WAITING, events), LEAVES)])

    assert ApprovalVoid in {type(each) for each in events}
    assert (left.move, left.desired_size) == (None, POOLED)


PENDING = entitle(HERE, tier="team", placement=Preset.BRIDGE)


@pytest.mark.parametrize(
    ("environment", "to", "refused"),
    [
        (HERE, Preset.POOLED, SamePlacementError),
        (PENDING, Preset.SILO, ChangePendingError),
        (WAITING, Preset.BRIDGE, ChangePendingError),
        (BUILDING, Preset.SILO, EnvironmentNotPlannableError),
        (REGISTERED, Preset.SILO, EnvironmentNotPlannableError),
        (RETAINED, Preset.SILO, EnvironmentNotPlannableError),
        (CLOSING, Preset.SILO, TenantSuspendedError),
        (CLOSED, Preset.SILO, TenantSuspendedError),
    ],
)
def test_a_placement_is_refused_before_anything_is_recorded(
    environment: Environment, to: Preset, refused: type[Exception]
) -> None:
    with pytest.raises(refused):
        moved(environment, to)


def test_a_placement_on_which_no_blueprint_has_the_tier_is_refused() -> None:
    with pytest.raises(UnknownTierError):
        moved(HERE, blueprints=published(blueprint_of(CONTENT.tiers[0], version=2)))


def test_a_full_region_names_what_is_free_elsewhere() -> None:
    content = blueprint_of(*CONTENT.tiers, regions=("eu-central", "us-east"), version=2)
    full = cells_of(content)
    for event in cells.drain(full[Isolation.BRIDGE], Isolation.BRIDGE, "eu-central", 1, "its server is replaced"):
        full[Isolation.BRIDGE] = cells.evolve(full[Isolation.BRIDGE], event)

    with pytest.raises(RegionFullError, match="us-east"):
        moved(HERE, Preset.BRIDGE, blueprints=published(content), cells=full)


def test_an_open_approval_of_another_plan_is_another_change_until_it_expires() -> None:
    smaller = blueprint_of(
        CONTENT.tiers[0].model_copy(
            update={"resources": tuple(each for each in CONTENT.tiers[0].resources if each.address != "bucket.data")}
        ),
        *CONTENT.tiers[1:],
        version=3,
    )
    waiting = compared(HERE, published(smaller))

    with pytest.raises(ChangePendingError, match=open_approval(waiting).id):
        moved(waiting, blueprints=published(smaller))
    assert after(waiting, moved(waiting, blueprints=published(smaller), now=NOW + timedelta(hours=73))).is_moving


def test_a_tenant_can_return_to_the_placement_of_its_subscription() -> None:
    plan = open_approval(WAITING).plan
    assert plan is not None
    replaced = [each.before for each in plan.steps if each.after is None and each.before is not None]
    events = planning.planned(WAITING, [], plan, open_approval(WAITING).plan_hash, NOW)
    built = after(WAITING, events)
    built = after(built, completed(built, removed=replaced))
    assert (built.built_size, built.is_moving) == (SILO, False)
    assert planning.on_entitlements_set(built, entitled(), BLUEPRINTS, CELLS, NOW) == []

    back = after(built, moved(built, Preset.POOLED))
    rejected = after(back, moves.reject(back, open_approval(back).id, BO, "no", NOW))

    assert back.desired_size == POOLED
    assert (rejected.desired_size, rejected.move) == (SILO, built.move)
    assert planning.on_entitlements_set(rejected, entitled(), BLUEPRINTS, CELLS, NOW) == []
