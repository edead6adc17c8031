"""State machine of an environment: every event and every driver result in every status."""

from dataclasses import replace
from typing import Any

import pytest
from environment_samples import (
    BLOCKED,
    BLUEPRINT,
    BUILDING,
    CANCELLED,
    CELLS,
    CLOSED,
    CLOSING,
    EVERYTHING,
    EXPORT,
    FAILED,
    HASH,
    LEAVES,
    NOW,
    NUMBER,
    PLAN_HASH,
    REACTIVATED,
    READ_ONLY,
    READY,
    REGISTERED,
    REQUESTED,
    RESTORING,
    RETAINED,
    RETAINING,
    RETURNS,
    TENANT,
    after,
    built,
    completed,
    entitled,
)
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.environment_plans import EnvironmentPlanned, EnvironmentReady, ResourceBuilt, StepAction
from paybill_contracts.errors import DomainError
from paybill_contracts.event import decode, digest, encode
from paybill_contracts.placement import Preset, placement_of
from paybill_contracts.provisioner import (
    Access,
    AccessChangeStarted,
    AccessClosed,
    AccessOpened,
    EnvironmentFailed,
    EnvironmentRetained,
    RestorationStarted,
    RetentionStarted,
)
from paybill_contracts.tenant import Hold, HoldOrigin, HoldsChanged, SuspensionMode, TenantSuspended
from paybill_provisioner.domain import access, building, environments, planning, plans
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import EnvironmentUnknownError, PlanMismatchError, evolve
from paybill_provisioner.domain.planning import EnvironmentNotFailedError
from paybill_provisioner.tables import ENVIRONMENTS


def test_a_sign_up_registers_one_environment_with_the_tenants_number() -> None:
    assert environments.on_tenant_requested(REGISTERED, REQUESTED) == []
    assert (REGISTERED.id, REGISTERED.slug, REGISTERED.region) == (f"env_{NUMBER}", "acme", "eu-central")
    assert (REGISTERED.status, REGISTERED.revision, REGISTERED.access) == (Status.REGISTERED, 1, Access.CLOSED)


def test_entitlements_lead_to_a_plan_that_names_its_inputs() -> None:
    (event,) = planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW)

    assert isinstance(event, EnvironmentPlanned)
    assert (event.plan.blueprint.name, event.plan.blueprint.version) == ("standard", 1)
    assert event.plan.blueprint.content_hash == BLUEPRINT.in_force[0].content_hash
    assert event.plan.entitlements_hash == HASH
    assert event.plan.placement == placement_of(Preset.POOLED)
    assert (event.plan.based_on, event.plan.cloud, event.plan.region) == (1, "local", "eu-central")
    assert [step.action for step in event.plan.steps] == [StepAction.CREATE] * 5
    assert event.plan_hash == digest(event.plan)


def test_the_hash_of_a_plan_survives_encoding() -> None:
    (event,) = planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW)
    copy = decode(event.TYPE, event.VERSION, encode(event))

    assert isinstance(copy, EnvironmentPlanned)
    plans.require_plan(after(REGISTERED, [event]), copy)


def test_entitlements_of_an_unknown_tenant_are_refused() -> None:
    with pytest.raises(EnvironmentUnknownError):
        planning.on_entitlements_set(None, entitled(), BLUEPRINT, CELLS, NOW)


def test_the_last_step_makes_the_environment_ready_with_its_connection() -> None:
    assert (READY.status, READY.epoch, READY.access, READY.remaining) == (Status.READY, 1, Access.OPEN, ())
    (connection,) = READY.connections
    assert (connection.database, connection.port, connection.username) == ("pool_eu_central", 5432, f"t_{NUMBER}")


def test_steps_recorded_in_two_parts_are_each_recorded_once() -> None:
    first = building.progress_recorded(BUILDING, PLAN_HASH, built(EVERYTHING[:2]))
    halfway = after(BUILDING, first)
    second = completed(halfway)

    assert [type(event) for event in first] == [ResourceBuilt]
    assert [type(event) for event in second] == [ResourceBuilt, AccessChangeStarted, EnvironmentReady]
    assert building.progress_recorded(after(halfway, second), PLAN_HASH, built(EVERYTHING)) == []


def test_a_plan_other_than_the_recorded_one_is_not_built() -> None:
    (planned,) = planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW)
    assert isinstance(planned, EnvironmentPlanned)
    forged = planned.model_copy(update={"plan": planned.plan.model_copy(update={"region": "us-east"})})
    consistent = forged.model_copy(update={"plan_hash": digest(forged.plan)})

    for fact in (forged, consistent):
        with pytest.raises(PlanMismatchError):
            plans.require_plan(BUILDING, fact)
    with pytest.raises(PlanMismatchError):
        building.progress_recorded(BUILDING, HASH, built(EVERYTHING))


def test_a_failed_plan_names_the_step_and_keeps_built_resources() -> None:
    halfway = after(BUILDING, building.progress_recorded(BUILDING, PLAN_HASH, built(EVERYTHING[:2])))
    (event,) = building.build_failed(halfway, PLAN_HASH, "disk full", "schema.main")

    assert isinstance(event, EnvironmentFailed)
    assert event.address == "schema.main"
    assert len(after(halfway, [event]).built) == 2


@pytest.mark.parametrize("environment", [READY, FAILED, RETAINING, RETAINED])
def test_only_a_building_environment_can_fail(environment: Environment) -> None:
    assert building.build_failed(environment, PLAN_HASH, "disk full") == []


def test_a_build_whose_access_is_cancelled_has_failed_and_its_retry_sets_the_access() -> None:
    steps, *_ = completed(BUILDING)
    waiting = after(BUILDING, [steps])
    failed = after(waiting, building.access_cancelled(waiting, "op1 cancelled its job: none"))
    retried = planning.retry(failed, TENANT, BLUEPRINT, CELLS, NOW)

    assert (waiting.status, waiting.remaining, failed.status) == (Status.BUILDING, (), Status.FAILED)
    assert [type(each) for each in retried] == [EnvironmentPlanned, AccessChangeStarted]
    assert [building.access_cancelled(each, "none") for each in (BUILDING, READY, RETAINED)] == [[], [], []]


def test_the_failure_of_a_superseded_plan_is_ignored() -> None:
    assert building.build_failed(BUILDING, HASH, "disk full") == []


def test_a_retry_plans_only_the_remaining_steps() -> None:
    halfway = after(BUILDING, building.progress_recorded(BUILDING, PLAN_HASH, built(EVERYTHING[:2])))
    failed = after(halfway, building.build_failed(halfway, PLAN_HASH, "disk full"))
    (event,) = planning.retry(failed, TENANT, BLUEPRINT, CELLS, NOW)

    assert isinstance(event, EnvironmentPlanned)
    assert {step.resource.address for step in event.plan.steps} == {name for name, _ in EVERYTHING[2:]}
    again = after(failed, [event])
    assert again.status is Status.BUILDING
    assert event.plan.based_on == failed.revision
    assert after(again, completed(again, EVERYTHING[2:])).status is Status.READY


def test_a_retry_during_the_build_records_nothing() -> None:
    assert planning.retry(BUILDING, TENANT, BLUEPRINT, CELLS, NOW) == []


@pytest.mark.parametrize("environment", [REGISTERED, READY, RETAINING, RETAINED])
def test_only_a_failed_environment_can_be_retried(environment: Environment) -> None:
    with pytest.raises(EnvironmentNotFailedError):
        planning.retry(environment, TENANT, BLUEPRINT, CELLS, NOW)


def test_an_unknown_environment_cannot_be_retried() -> None:
    with pytest.raises(EnvironmentUnknownError):
        planning.retry(None, TENANT, BLUEPRINT, CELLS, NOW)


@pytest.mark.parametrize(
    ("environment", "fact", "target"),
    [(READY, BLOCKED, Access.CLOSED), (READY, READ_ONLY, Access.READ_ONLY), (CLOSED, READ_ONLY, Access.READ_ONLY)],
)
def test_a_suspension_starts_an_access_change(environment: Environment, fact: TenantSuspended, target: Access) -> None:
    (event,) = access.on_tenant_suspended(environment, fact)

    assert isinstance(event, AccessChangeStarted)
    assert event.access is target


def test_a_duplicate_suspension_starts_one_change() -> None:
    assert access.on_tenant_suspended(CLOSING, BLOCKED) == []


def test_a_reactivation_opens_even_while_access_is_closing() -> None:
    for environment in (CLOSING, CLOSED):
        (event,) = access.on_tenant_reactivated(environment, REACTIVATED)
        assert isinstance(event, AccessChangeStarted)
        assert event.access is Access.OPEN


@pytest.mark.parametrize("environment", [RETAINING, RETAINED])
def test_offboarding_happens_once_and_ignores_later_holds(environment: Environment) -> None:
    assert access.on_tenant_suspended(environment, BLOCKED) == []
    assert access.on_tenant_reactivated(environment, REACTIVATED) == []
    assert access.on_tenant_left(environment, LEAVES) == []


def test_an_early_suspension_closes_the_environment_when_it_is_ready() -> None:
    suspended = after(BUILDING, access.on_tenant_suspended(BUILDING, BLOCKED))
    done = after(suspended, completed(suspended))

    assert suspended.paused
    assert (done.status, done.access, done.target_access) == (Status.READY, Access.CLOSED, Access.CLOSED)


def test_an_access_change_is_recorded_once() -> None:
    assert [type(event) for event in access.access_changed(CLOSING, Access.CLOSED)] == [AccessClosed]
    assert access.access_changed(CLOSED, Access.CLOSED) == []
    assert [type(event) for event in access.access_changed(CLOSED, Access.OPEN)] == [AccessOpened]
    assert access.access_changed(BUILDING, Access.CLOSED) == []


@pytest.mark.parametrize("environment", [BUILDING, FAILED, READY, CLOSED])
def test_offboarding_starts_export_and_closing(environment: Environment) -> None:
    for fact in (LEAVES, CANCELLED):
        (event,) = access.on_tenant_left(environment, fact)
        assert isinstance(event, RetentionStarted)


def test_offboarding_before_any_plan_retains_at_once() -> None:
    events = access.on_tenant_left(REGISTERED, LEAVES)

    assert [type(event) for event in events] == [RetentionStarted, EnvironmentRetained]
    assert after(REGISTERED, events).status is Status.RETAINED


def test_resources_built_during_offboarding_are_recorded_but_never_ready() -> None:
    leaving = after(BUILDING, access.on_tenant_left(BUILDING, LEAVES))
    events = completed(leaving)

    assert [type(event) for event in events] == [ResourceBuilt]
    assert after(leaving, events).status is Status.RETAINING


def test_a_retained_environment_names_its_export_and_is_closed() -> None:
    assert (RETAINED.status, RETAINED.access, RETAINED.export) == (Status.RETAINED, Access.CLOSED, EXPORT)
    assert access.retained(RETAINED, EXPORT) == []


def test_a_retained_environment_is_restored_with_its_data_at_the_next_epoch() -> None:
    (ready,) = access.restored(RESTORING, Access.OPEN)
    back = after(RESTORING, [ready])

    assert isinstance(ready, EnvironmentReady)
    assert (ready.epoch, ready.plan_hash) == (READY.epoch + 1, READY.plan_hash)
    assert ready.connections == READY.connections
    assert (back.status, back.access, back.built) == (Status.READY, Access.OPEN, READY.built)
    assert access.restored(back, Access.OPEN) == access.on_return_started(back, RETURNS, BLUEPRINT, CELLS, NOW) == []


def test_a_held_tenant_returns_without_more_access_than_its_hold_leaves() -> None:
    held = RETURNS.model_copy(update={"holds": BLOCKED.holds})
    restoring = after(RETAINED, access.on_return_started(RETAINED, held, BLUEPRINT, CELLS, NOW))
    ready = after(restoring, access.restored(restoring, Access.CLOSED))
    late = access.restored(restoring, Access.OPEN)

    assert (restoring.target_access, ready.access) == (Access.CLOSED, Access.CLOSED)
    assert [type(event) for event in late] == [EnvironmentReady, AccessChangeStarted]


def test_a_tenant_leaves_again_during_its_return_and_returns_during_the_export() -> None:
    leaving = after(RESTORING, access.on_tenant_left(RESTORING, LEAVES))
    back = after(leaving, access.on_return_started(leaving, RETURNS, BLUEPRINT, CELLS, NOW))

    assert (leaving.status, back.status) == (Status.RETAINING, Status.RESTORING)
    assert access.restored(leaving, Access.OPEN) == access.retained(back, EXPORT) == []


def test_an_environment_that_was_never_complete_is_planned_when_the_tenant_returns() -> None:
    for incomplete in (REGISTERED, FAILED):
        gone = after(incomplete, access.on_tenant_left(incomplete, LEAVES))
        gone = after(gone, access.retained(gone, EXPORT))
        events = access.on_return_started(gone, RETURNS, BLUEPRINT, CELLS, NOW)
        back = after(gone, events)

        assert [type(event) for event in events] == [RestorationStarted, EnvironmentPlanned]
        assert (back.status, back.target_access) == (Status.BUILDING, Access.OPEN)


def test_holds_before_the_build_set_the_access_with_which_it_is_built() -> None:
    read_only = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="audit")
    changed = HoldsChanged(tenant_id=TENANT, holds=(read_only, *BLOCKED.holds))
    held = after(REGISTERED, access.on_holds_changed(REGISTERED, changed))
    lifted = after(held, access.on_holds_changed(held, HoldsChanged(tenant_id=TENANT, holds=(read_only,))))
    free = after(lifted, access.on_holds_changed(lifted, HoldsChanged(tenant_id=TENANT, holds=())))

    assert held.target_access is Access.CLOSED
    assert lifted.target_access is Access.READ_ONLY
    assert free.target_access is Access.OPEN


@pytest.mark.parametrize(
    "handle",
    [
        lambda: access.on_tenant_suspended(None, BLOCKED),
        lambda: access.on_tenant_reactivated(None, REACTIVATED),
        lambda: access.on_tenant_left(None, LEAVES),
        lambda: access.on_return_started(None, RETURNS, BLUEPRINT, CELLS, NOW),
    ],
)
def test_events_of_an_unknown_tenant_are_refused(handle: Any) -> None:
    with pytest.raises(EnvironmentUnknownError):
        handle()


ACTIONS = {
    "requested": lambda env: environments.on_tenant_requested(env, REQUESTED),
    "entitled": lambda env: planning.on_entitlements_set(env, entitled(), BLUEPRINT, CELLS, NOW),
    "blocked": lambda env: access.on_tenant_suspended(env, BLOCKED),
    "read_only": lambda env: access.on_tenant_suspended(env, READ_ONLY),
    "reactivated": lambda env: access.on_tenant_reactivated(env, REACTIVATED),
    "leaves": lambda env: access.on_tenant_left(env, LEAVES),
    "some": lambda env: building.progress_recorded(env, env.plan_hash, built(EVERYTHING[:3])) if env else [],
    "all": lambda env: completed(env) if env else [],
    "fails": lambda env: building.build_failed(env, env.plan_hash, "no") if env else [],
    "retry": lambda env: planning.retry(env, TENANT, BLUEPRINT, CELLS, NOW),
    "changed": lambda env: access.access_changed(env, env.target_access) if env else [],
    "retained": lambda env: access.retained(env, EXPORT) if env else [],
    "returns": lambda env: access.on_return_started(env, RETURNS, BLUEPRINT, CELLS, NOW),
    "restored": lambda env: access.restored(env, env.target_access) if env else [],
}


@given(st.lists(st.sampled_from(sorted(ACTIONS)), max_size=25))
def test_invariants_hold_for_any_order_of_events(actions: list[str]) -> None:
    environment: Environment | None = None
    count, left = 0, False
    for action in actions:
        try:
            events = ACTIONS[action](environment)
        except DomainError:
            continue
        for event in events:
            environment = evolve(environment, event)
            count += 1
            assert environment.revision == count
            left = (left or environment.status is Status.RETAINED) and not isinstance(event, RestorationStarted)
        assert not left or (environment and environment.access is Access.CLOSED and environment.export)
        if environment and environment.status is Status.READY:
            assert environment.failure or not environment.remaining
            assert environment.connections
        if environment:
            assert not environment.paused or environment.target_access is not Access.OPEN


def test_the_stored_document_keeps_the_key_of_the_target_access() -> None:
    document = ENVIRONMENTS.dump(replace(READY, target_access=Access.READ_ONLY))

    assert '"wanted":"read_only"' in document
    assert ENVIRONMENTS.load(document).target_access is Access.READ_ONLY
