"""A block pauses the plan that is applied, and a failed first build is kept or compensated."""

from dataclasses import replace

import pytest
from environment_samples import (
    BLOCKED,
    BUILDING,
    CHANGED_HOLDS,
    EVERYTHING,
    FAILED,
    LEAVES,
    NOW,
    PLAN_HASH,
    REACTIVATED,
    READY,
    TENANT,
    after,
    built,
    completed,
)
from paybill_contracts.environment_plans import EnvironmentReady, ResourceBuilt, ResourceRemoved
from paybill_contracts.plan_execution import CompensationEnded, CompensationStarted, PlanPaused, PlanResumed
from paybill_contracts.policy import AfterFailure
from paybill_contracts.provisioner import Access, AccessChangeStarted
from paybill_provisioner.domain import access, building
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.policy import SAFE

COMPENSATE = SAFE.model_copy(update={"after_failure": AfterFailure.COMPENSATE})


def types(events):
    return [type(event) for event in events]


def test_the_access_in_force_is_set_after_the_last_step() -> None:
    """Suspended and reactivated before the last step (fault 6): the logins are built closed in any case."""
    suspended = after(BUILDING, access.on_tenant_suspended(BUILDING, BLOCKED))
    resumed = after(suspended, access.on_tenant_reactivated(suspended, REACTIVATED))
    events = completed(resumed)

    assert types(events) == [ResourceBuilt, AccessChangeStarted, EnvironmentReady]
    assert after(resumed, events).access is Access.OPEN


def test_a_suspension_pauses_the_plan_and_its_end_resumes_it() -> None:
    changing = replace(READY, status=Status.CHANGING, built=READY.built[:2])
    for environment in (BUILDING, changing):
        paused = access.on_tenant_suspended(environment, BLOCKED)
        suspended = after(environment, paused)
        resumed = access.on_tenant_reactivated(suspended, REACTIVATED)

        assert types(paused) == [AccessChangeStarted, PlanPaused]
        assert types(resumed) == [AccessChangeStarted, PlanResumed]
        assert (suspended.is_applied, after(suspended, resumed).is_applied) == (False, True)


def test_a_hold_before_the_environment_is_ready_pauses_nothing_and_leaves_it_closed() -> None:
    held = after(BUILDING, access.on_holds_changed(BUILDING, CHANGED_HOLDS))
    events = completed(held)

    assert held.is_applied
    assert types(events) == [ResourceBuilt, EnvironmentReady]
    assert after(held, events).access is Access.CLOSED


def test_a_hold_that_arrives_after_the_last_step_keeps_the_login_closed() -> None:
    opening = after(BUILDING, building.progress_recorded(BUILDING, PLAN_HASH, built(EVERYTHING)))
    held = after(opening, access.on_holds_changed(opening, CHANGED_HOLDS))

    assert opening.status is Status.BUILDING
    assert access.access_changed(held, Access.OPEN) == []
    assert after(held, access.access_changed(held, Access.CLOSED)).access is Access.CLOSED


def test_a_failed_first_build_is_deleted_in_order_when_the_policy_requires_it() -> None:
    halfway = after(BUILDING, building.progress_recorded(BUILDING, PLAN_HASH, built(EVERYTHING[:4])))
    failed = after(halfway, building.build_failed(halfway, PLAN_HASH, "no such size", "role.main"))
    (started,) = building.compensated(halfway, failed, COMPENSATE, NOW)
    compensating = after(failed, [started])
    steps = [step.before for step in compensating.remaining]
    events = completed(compensating, (), [each for each in steps if each])
    done = after(compensating, events)

    assert building.compensated(halfway, failed, SAFE, NOW) == []
    assert isinstance(started, CompensationStarted)
    # The database of a pool is shared, and stays. The login may exist although its step has failed.
    assert [each.address for each in steps if each] == ["role.main", "schema.main", "secret.database", "bucket.data"]
    assert types(events) == [ResourceRemoved] * 4 + [CompensationEnded]
    assert (done.status, done.failure) == (Status.FAILED, failed.failure)
    assert [each.resource.address for each in done.built] == ["database.main"]


@pytest.mark.parametrize(
    "before", [replace(READY, status=Status.CHANGING), replace(FAILED, status=Status.COMPENSATING)]
)
def test_a_failed_change_and_a_failed_compensation_are_not_compensated(before) -> None:
    failed = after(before, building.build_failed(before, PLAN_HASH, "no rights", "role.main"))

    assert building.compensated(before, failed, COMPENSATE, NOW) == []


def test_a_tenant_that_leaves_ends_the_pause() -> None:
    suspended = after(BUILDING, access.on_tenant_suspended(BUILDING, BLOCKED))
    leaving = after(suspended, access.on_tenant_left(suspended, LEAVES))

    assert (leaving.paused, leaving.is_applied, leaving.tenant_id) == (False, False, TENANT)
