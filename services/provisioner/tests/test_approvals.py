"""A plan that policy holds waits for a person; its approval expires, is used once, and is void with its inputs."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from approval_samples import (
    ADA,
    BO,
    applied,
    approved,
    compared,
    finished,
    open_approval,
    policy,
    prices,
    without_bucket,
)
from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import (
    BLUEPRINT,
    BUILDING,
    CELLS,
    CONTENT,
    NOW,
    PLAN_HASH,
    READY,
    REGISTERED,
    RETAINED,
    after,
    entitled,
)
from paybill_contracts.approval import ApprovalMismatchError
from paybill_contracts.environment_plans import EnvironmentPlanned, StepAction
from paybill_contracts.event import decode, digest, encode
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import (
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoid,
    PlanSuperseded,
)
from paybill_contracts.policy import Handling
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_provisioner.domain import applying, approvals, building, moves, planning
from paybill_provisioner.domain.applying import EnvironmentNotPlannableError, TransferUnavailableError
from paybill_provisioner.domain.approvals import (
    ApprovalEndedError,
    ApprovalRequiredError,
    ApprovalUnknownError,
    PlanSupersededError,
)
from paybill_provisioner.domain.cells import RegionFullError
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plan_approvals import MAX_EARLIER_APPROVALS, ApprovalStatus
from paybill_provisioner.domain.sizes import Size

SILO = entitled(tier="business", placement=Preset.SILO)
SMALLER = without_bucket()
LATER = NOW + timedelta(hours=73)


def entitle(environment: Environment, fact: Any = SILO, inputs: PlanInputs | None = None) -> Environment:
    events = planning.on_entitlements_set(environment, fact, BLUEPRINT, CELLS, NOW, inputs or PlanInputs())
    return after(environment, events)


def made(environment: Environment, requester: str, blueprints: Any = SMALLER, now: datetime = NOW) -> Environment:
    events = applying.make_plan(environment, environment.id, requester, blueprints, CELLS, PlanInputs(), now)
    return after(environment, events)


def types(events: Any) -> list[type]:
    return [type(each) for each in events]


def test_a_plan_that_deletes_waits_for_an_approval_and_is_applied_once() -> None:
    waiting = compared(READY, SMALLER)
    approval = open_approval(waiting)
    granted = approved(waiting, SMALLER)
    events = applied(granted, SMALLER)
    changing = after(granted, events)
    ready = finished(changing)

    assert (waiting.status, waiting.plan_hash, approval.requester) == (Status.READY, PLAN_HASH, approvals.SERVICE)
    assert [each.rule for each in approval.reasons] == ["deletes"]
    assert approval.plan is not None
    assert [(step.action, step.address) for step in approval.plan.steps] == [(StepAction.DELETE, "bucket.data")]
    assert types(events) == [ApprovalUsed, EnvironmentChangeSettled, EnvironmentPlanned]
    assert (changing.status, changing.plan_hash) == (Status.CHANGING, approval.plan_hash)
    assert ready.status is Status.READY
    assert "bucket.data" not in {each.resource.address for each in ready.built}
    for environment in (changing, ready):
        with pytest.raises(ApprovalEndedError):
            applied(environment, SMALLER, plan_hash=approval.plan_hash)


def test_the_hash_of_an_approved_plan_is_that_of_its_canonical_form_in_the_log() -> None:
    (event,) = [each for each in planning.compare(READY, SMALLER, CELLS, NOW) if isinstance(each, ApprovalRequested)]
    read = decode(event.TYPE, event.VERSION, encode(event))

    assert isinstance(read, ApprovalRequested)
    assert digest(read.plan) == read.plan_hash == event.plan_hash


def test_an_approval_is_requested_once_for_a_plan() -> None:
    waiting = compared(READY, SMALLER)

    assert planning.compare(waiting, SMALLER, CELLS, NOW) == []
    assert made(waiting, ADA).approval == waiting.approval
    assert planning.compare(approved(waiting, SMALLER), SMALLER, CELLS, NOW) == []


def test_the_requester_cannot_approve_and_another_key_of_the_same_person_neither() -> None:
    rejected = after(
        waiting := compared(READY, SMALLER), approvals.reject(waiting, open_approval(waiting).id, BO, "not now")
    )
    own = made(rejected, ADA)

    with pytest.raises(ApprovalMismatchError, match="same person"):
        approved(own, SMALLER, approver=ADA)
    assert approved(own, SMALLER, approver=BO).approval.status is ApprovalStatus.GRANTED  # type: ignore[union-attr]


def test_policy_can_allow_the_requester_to_approve() -> None:
    inputs = PlanInputs(published_policy=policy(deletes=Handling.APPROVAL))
    events = applying.make_plan(READY, READY.id, ADA, SMALLER, CELLS, inputs, NOW)
    granted = approved(after(READY, events), SMALLER, inputs, approver=ADA)

    assert granted.approval is not None
    assert granted.approval.granted is not None
    assert granted.approval.granted.other_person is False


def test_an_approval_under_another_hash_twice_or_of_nothing_is_refused() -> None:
    waiting = compared(READY, SMALLER)
    approval = open_approval(waiting)
    arguments = (BO, SMALLER, PlanInputs(), NOW)

    with pytest.raises(ApprovalMismatchError, match="review the new plan"):
        approvals.approve(waiting, approval.id, "cd" * 32, *arguments)
    with pytest.raises(ApprovalUnknownError):
        approvals.approve(waiting, f"apr_{'0' * 32}", approval.plan_hash, *arguments)
    with pytest.raises(ApprovalUnknownError):
        approvals.approve(None, approval.id, approval.plan_hash, *arguments)
    with pytest.raises(ApprovalEndedError, match="granted already"):
        approvals.approve(approved(waiting, SMALLER), approval.id, approval.plan_hash, *arguments)


def test_a_request_and_an_approval_expire() -> None:
    waiting = compared(READY, SMALLER)
    granted = approved(waiting, SMALLER, now=NOW + timedelta(hours=71))
    anew = made(waiting, ADA, now=LATER)

    with pytest.raises(ApprovalMismatchError, match="expired"):
        approved(waiting, SMALLER, now=LATER)
    assert ApprovalUsed in types(applied(granted, SMALLER, now=LATER))
    with pytest.raises(ApprovalMismatchError, match="expired"):
        applied(granted, SMALLER, now=NOW + timedelta(hours=143))
    assert (open_approval(anew).requester, anew.earlier_approvals[-1].ended) == (ADA, "it expired")


def test_an_approval_that_expired_ends_by_time_once_and_is_requested_again() -> None:
    waiting = compared(READY, SMALLER)
    ended = after(waiting, approvals.on_time(waiting, LATER))
    anew = after(ended, planning.compare(ended, SMALLER, CELLS, LATER))

    assert approvals.on_time(waiting, NOW) == approvals.on_time(ended, LATER) == approvals.on_time(READY, LATER) == []
    assert (ended.approval.status, ended.approval.ended) == (ApprovalStatus.VOID, "it expired")  # type: ignore[union-attr]
    assert (open_approval(anew).plan_hash, open_approval(anew).requester) == (
        open_approval(waiting).plan_hash,
        approvals.SERVICE,
    )


def test_a_rejected_plan_is_requested_again_by_a_person_only() -> None:
    waiting = compared(READY, SMALLER)
    rejected = after(waiting, moves.reject(waiting, open_approval(waiting).id, BO, "not now", NOW))

    assert planning.compare(rejected, SMALLER, CELLS, NOW) == []
    with pytest.raises(ApprovalEndedError):
        applied(rejected, SMALLER)
    assert open_approval(made(rejected, ADA)).requester == ADA
    assert open_approval(compared(rejected, without_bucket(3))).requester == approvals.SERVICE


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize(
    ("name", "blueprints", "inputs", "desired"),
    [
        ("blueprint", without_bucket(3), PlanInputs(), {}),
        ("price_book", SMALLER, PlanInputs(price_book=prices()), {}),
        ("entitlements", SMALLER, PlanInputs(), {"entitlements_hash": "cd" * 32}),
    ],
)
def test_an_approval_is_void_when_something_that_its_plan_was_made_from_changes(
    name: str, blueprints: Any, inputs: PlanInputs, desired: Any, *, granted: bool
) -> None:
    waiting = compared(READY, SMALLER)
    old = open_approval(waiting)
    environment = approved(waiting, SMALLER) if granted else waiting
    fact = entitled(**desired)
    if desired:
        events = planning.on_entitlements_set(environment, fact, blueprints, CELLS, NOW, inputs)
    else:
        events = planning.compare(environment, blueprints, CELLS, NOW, inputs)
    anew = after(environment, events)
    (superseded,) = [each for each in events if isinstance(each, PlanSuperseded)]

    assert (superseded.plan_hash, superseded.changed) == (old.plan_hash, (name,))
    assert ApprovalVoid in types(events)
    assert open_approval(anew).id != old.id
    with pytest.raises(PlanSupersededError):
        applied(anew, blueprints, inputs, plan_hash=old.plan_hash)
    with pytest.raises(ApprovalEndedError, match="void already"):
        approvals.approve(anew, old.id, old.plan_hash, BO, blueprints, inputs, NOW)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("base revision", {"base_revision": 99}),
        ("observed", {"built": READY.built[:-1]}),
    ],
)
def test_what_exists_is_compared_when_a_plan_is_approved_and_when_it_is_applied(name: str, change: Any) -> None:
    waiting = compared(READY, SMALLER)
    changed = replace(waiting, **change)

    with pytest.raises(PlanSupersededError, match=name):
        approved(changed, SMALLER)
    with pytest.raises(PlanSupersededError, match=name):
        applied(replace(approved(waiting, SMALLER), **change), SMALLER)


def test_inputs_are_compared_again_when_an_approved_plan_is_applied() -> None:
    granted = approved(compared(READY, SMALLER), SMALLER)

    with pytest.raises(PlanSupersededError, match="blueprint"):
        applied(granted, without_bucket(3))
    with pytest.raises(PlanSupersededError, match="price book"):
        applied(granted, SMALLER, PlanInputs(price_book=prices()))


def test_the_cost_limit_of_the_policy_holds_a_plan() -> None:
    inputs = PlanInputs(price_book=prices(), published_policy=policy(5000))
    held = entitle(REGISTERED, SILO, inputs)
    approval = open_approval(held)
    assert approval.plan is not None
    building_ = after(held, applied(approved(held, BLUEPRINT, inputs, approver=ADA), BLUEPRINT, inputs)[1:])

    assert (held.status, held.cells, [each.rule for each in approval.reasons]) == (
        Status.REGISTERED,
        frozenset(),
        ["cost_limit"],
    )
    assert "it would cost 60.00 EUR a month, and the limit is 50.00 EUR" in approval.reasons[0].text
    assert building_.status is Status.BUILDING
    within = PlanInputs(price_book=prices(), published_policy=policy(6000))
    assert entitle(REGISTERED, SILO, within).status is Status.BUILDING
    unknown = entitle(REGISTERED, SILO, PlanInputs(published_policy=policy(6000)))
    assert "its cost is unknown" in open_approval(unknown).reasons[0].text


def test_a_change_of_the_placement_is_priced_approved_and_pending_and_never_applied() -> None:
    inputs = PlanInputs(price_book=prices(), published_policy=policy(5000))
    waiting = entitle(READY, SILO, inputs)
    approval = open_approval(waiting)
    assert approval.plan is not None
    assert waiting.pending is not None
    cost = approval.plan.estimates.cost

    assert (cost.before.text, cost.after.text) == ("12.00 EUR", "60.00 EUR")  # type: ignore[union-attr]
    assert {each.rule for each in approval.reasons} == {"replaces", "moves_data", "cost_limit"}
    assert approval.other_person
    assert (waiting.pending.approval_id, waiting.status) == (approval.id, Status.READY)
    assert approval.id in waiting.pending.waits_for
    with pytest.raises(ApprovalRequiredError):
        applied(waiting, BLUEPRINT, inputs)
    with pytest.raises(TransferUnavailableError):
        applied(approved(waiting, BLUEPRINT, inputs), BLUEPRINT, inputs)


def test_a_policy_that_allows_it_transfers_no_data_either() -> None:
    everything = policy(deletes=Handling.UNATTENDED, replaces=Handling.UNATTENDED, moves_data=Handling.UNATTENDED)
    inputs = PlanInputs(published_policy=everything)
    events = planning.on_entitlements_set(READY, SILO, BLUEPRINT, CELLS, NOW, inputs)

    assert types(events)[1:] == [EnvironmentChangePending]
    assert compared(READY, SMALLER, inputs).status is Status.CHANGING


def test_another_policy_applies_or_holds_a_plan_anew() -> None:
    waiting = compared(READY, SMALLER)
    allowed = PlanInputs(published_policy=policy(deletes=Handling.UNATTENDED))
    easier = PlanInputs(published_policy=policy(deletes=Handling.APPROVAL))

    assert compared(waiting, SMALLER, allowed).status is Status.CHANGING
    assert not open_approval(compared(waiting, SMALLER, easier)).other_person


def test_what_a_failed_build_left_is_cleaned_up_unattended() -> None:
    silo = entitle(REGISTERED)
    outputs = {"host": "127.0.0.1", "port": "5432", "database": "silo"}
    progress = building.Progress(built={"database.main": outputs})
    halfway = after(silo, building.progress_recorded(silo, silo.plan_hash or "", progress))
    failed = after(halfway, building.build_failed(halfway, silo.plan_hash or "", "disk full"))
    planned = entitle(failed, entitled())

    assert (planned.status, planned.approval) == (Status.BUILDING, None)
    assert StepAction.DELETE in {step.action for step in planned.remaining}


def test_a_plan_that_needs_no_approval_is_applied_by_its_hash() -> None:
    failed = after(BUILDING, building.build_failed(BUILDING, PLAN_HASH, "disk full"))
    found = applying.propose(failed, BLUEPRINT, CELLS, PlanInputs())

    assert made(failed, ADA, BLUEPRINT).approval is None
    assert types(applied(failed, BLUEPRINT, plan_hash=found.plan_hash)) == [EnvironmentPlanned]
    with pytest.raises(PlanSupersededError):
        applied(failed, BLUEPRINT, plan_hash="cd" * 32)
    held = applying.propose(READY, SMALLER, CELLS, PlanInputs())
    with pytest.raises(ApprovalRequiredError):
        applied(READY, SMALLER, plan_hash=held.plan_hash)


@pytest.mark.parametrize("environment", [BUILDING, RETAINED])
def test_nothing_is_planned_during_another_plan_or_after_the_tenant_left(environment: Environment) -> None:
    with pytest.raises(EnvironmentNotPlannableError):
        applying.make_plan(environment, environment.id, ADA, BLUEPRINT, CELLS, PlanInputs(), NOW)


def test_a_cell_without_room_is_refused_when_the_approved_plan_is_applied() -> None:
    inputs = PlanInputs(published_policy=policy(0))
    held = entitle(REGISTERED, entitled(), inputs)
    granted = approved(held, BLUEPRINT, inputs)
    full = dict.fromkeys(CELLS)

    with pytest.raises(RegionFullError):
        applying.apply(granted, granted.id, open_approval(granted).plan_hash, BLUEPRINT, full, inputs, NOW)


def test_earlier_approvals_are_kept_without_their_plans_and_bounded() -> None:
    environment = READY
    for version in range(2, MAX_EARLIER_APPROVALS + 5):
        environment = compared(environment, without_bucket(version))

    assert len(environment.earlier_approvals) == MAX_EARLIER_APPROVALS
    assert {each.plan for each in environment.earlier_approvals} == {None}
    with pytest.raises(ApprovalEndedError):
        approvals.reject(environment, environment.earlier_approvals[0].id, BO, "late")


def test_a_plan_is_superseded_before_it_begins_and_planned_anew() -> None:
    other = published(blueprint_of(*CONTENT.tiers, tier_blueprint("huge", Preset.SILO), version=2))
    entitled_again = entitle(BUILDING, entitled(entitlements_hash="cd" * 32))
    changed = applying.superseded_before_begin(BUILDING, other, PlanInputs())
    events = applying.plan_anew(BUILDING, PLAN_HASH, changed, other, CELLS, PlanInputs(), NOW)
    anew = after(BUILDING, events)

    assert applying.superseded_before_begin(BUILDING, BLUEPRINT, PlanInputs()) == ()
    assert applying.superseded_before_begin(entitled_again, BLUEPRINT, PlanInputs()) == ("entitlements",)
    assert applying.superseded_before_begin(BUILDING, BLUEPRINT, PlanInputs(price_book=prices())) == ("price_book",)
    assert (changed, types(events)) == (("blueprint",), [PlanSuperseded, EnvironmentPlanned])
    assert (anew.status, anew.plan_hash == PLAN_HASH, anew.cells) == (Status.BUILDING, False, BUILDING.cells)
    assert applying.plan_anew(anew, PLAN_HASH, changed, other, CELLS, PlanInputs(), NOW) == []


def test_a_plan_that_has_begun_is_not_superseded() -> None:
    progress = building.Progress(built={"secret.database": {"secret": "secret://x?v=1"}})
    begun = after(BUILDING, building.progress_recorded(BUILDING, PLAN_HASH, progress))

    assert applying.superseded_before_begin(begun, SMALLER, PlanInputs()) == ()


def test_a_superseded_change_leaves_the_environment_ready_as_it_is_built() -> None:
    larger = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 50), *CONTENT.tiers[1:], version=2))
    changing = compared(READY, larger)
    event = PlanSuperseded(
        tenant_id=READY.tenant_id,
        environment_id=READY.id,
        plan_hash=changing.plan_hash or "",
        changed=("blueprint",),
    )
    back = evolve(changing, event)

    assert (back.status, back.remaining, back.planned_size) == (Status.READY, (), Size("starter", Preset.POOLED))


def test_a_tenant_that_leaves_ends_its_approval() -> None:
    waiting = compared(READY, SMALLER)
    left = after(waiting, planning.on_leaving(waiting))

    assert left.approval is not None
    assert (left.approval.status, left.approval.ended) == (ApprovalStatus.VOID, "the tenant leaves")
