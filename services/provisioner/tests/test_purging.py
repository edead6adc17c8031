"""Rules of a purge: a plan of deletions under the policy, stopped by a legal hold, that ends in a certificate."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from approval_samples import ADA, BO, policy, prices
from environment_samples import (
    BLUEPRINT,
    CELLS,
    EVERYTHING,
    EXPORT,
    HASH,
    LEAVES,
    NOW,
    READY,
    REGISTERED,
    RETAINED,
    TENANT,
    after,
    built,
    entitled,
)
from paybill_contracts.environment_plans import EnvironmentPlanned, ResourceRemoved, StepAction
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import ApprovalRequested, ApprovalVoid
from paybill_contracts.policy import Handling
from paybill_contracts.provisioner import EnvironmentFailed
from paybill_contracts.purges import DeletionEnded, DeletionStarted, DeletionStopped, RemovedExport
from paybill_contracts.tenant import LegalHoldPlaced, LegalHoldReleased
from paybill_contracts.tenant_lifecycle import PurgeStarted
from paybill_provisioner.domain import access, applying, approvals, building, planning, purging
from paybill_provisioner.domain.applying import EnvironmentNotPlannableError
from paybill_provisioner.domain.approvals import ApprovalEndedError
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.purging import NotPurgedError

PURGE = PurgeStarted(tenant_id=TENANT, expected_by=NOW)
UNATTENDED = PlanInputs(published_policy=policy(deletes=Handling.UNATTENDED))
BY_PERSON = PlanInputs(published_policy=policy())
LATER = NOW + timedelta(hours=1)


def held(case: str) -> LegalHoldPlaced:
    return LegalHoldPlaced(tenant_id=TENANT, case=case)


def released(case: str) -> LegalHoldReleased:
    return LegalHoldReleased(tenant_id=TENANT, case=case)


def purging_of(environment: Environment, inputs: PlanInputs = UNATTENDED) -> Environment:
    return after(environment, purging.on_purge_started(environment, PURGE, inputs, NOW))


def removed(environment: Environment, count: int | None = None) -> list[Any]:
    """Returns the events of the first deletions, each in its order."""
    gone = [step.before for step in environment.remaining if step.before is not None][:count]
    return building.progress_recorded(environment, environment.plan_hash or "", Progress(removed=gone))


PURGING = purging_of(RETAINED)
DELETED = after(PURGING, removed(PURGING))
ABSENT = [purging.absence(each, "pg_roles has no such name", LATER) for each in DELETED.purge.removed]  # type: ignore[union-attr]
GONE = RemovedExport(export=EXPORT, how="no file has its name", verified_at=LATER)
PURGED = after(DELETED, purging.purged(DELETED, ABSENT, GONE, LATER))


def silo_in_the_middle() -> Environment:
    """Returns a retained silo whose build failed after its database."""
    silo = entitled(tier="business", placement=Preset.SILO)
    planned = after(REGISTERED, planning.on_entitlements_set(REGISTERED, silo, BLUEPRINT, CELLS, NOW))
    outputs = {"host": "127.0.0.1", "port": "5432", "database": "silo"}
    halfway = after(
        planned, building.progress_recorded(planned, planned.plan_hash or "", built([("database.main", outputs)]))
    )
    failed = after(halfway, building.build_failed(halfway, planned.plan_hash or "", "disk full"))
    left = after(failed, access.on_tenant_left(failed, LEAVES))
    return after(left, access.retained(left, EXPORT))


def test_a_plan_deletes_everything_that_is_the_tenants_own_and_nothing_that_is_shared() -> None:
    plan = PURGING.plan
    assert plan is not None

    assert (PURGING.status, plan.purge) == (Status.PURGING, True)
    assert {step.action for step in plan.steps} == {StepAction.DELETE}
    assert {step.address for step in plan.steps} == {"role.main", "schema.main", "secret.database", "bucket.data"}


def test_a_purged_environment_has_nothing_and_costs_nothing() -> None:
    """Before, the pool's database stayed in both: 12.00 EUR -> 10.00 EUR."""
    plan = purging.plan_of_purge(RETAINED, PlanInputs(price_book=prices()))
    assert plan is not None
    cost = plan.estimates.cost

    assert (cost.before.text, cost.after.text, cost.missing) == ("12.00 EUR", "0.00 EUR", ())  # type: ignore[union-attr]
    assert [each.resource.address for each in DELETED.built] == ["database.main"]
    assert PURGED.built == ()


def test_a_plan_of_five_deletes_gives_five_facts_and_then_the_verification() -> None:
    silo = entitled(tier="business", placement=Preset.SILO)
    planned = after(REGISTERED, planning.on_entitlements_set(REGISTERED, silo, BLUEPRINT, CELLS, NOW))
    ready = after(planned, building.progress_recorded(planned, planned.plan_hash or "", built(EVERYTHING)))
    retaining = after(ready, access.on_tenant_left(ready, LEAVES))
    environment = purging_of(after(retaining, access.retained(retaining, EXPORT)))
    events = removed(environment)

    assert len(environment.remaining) == 5
    assert [type(each) for each in events] == [ResourceRemoved] * 5 + [DeletionEnded]
    assert after(environment, events).remaining == ()
    assert after(environment, events).built == ()


def test_what_an_unfinished_plan_may_have_created_is_deleted_too() -> None:
    environment = purging_of(silo_in_the_middle(), PlanInputs(published_policy=policy()))
    names = {step.address for step in environment.remaining}

    assert names == {"database.main", "schema.main", "role.main", "secret.database", "bucket.data"}
    assert after(environment, removed(environment)).cells == frozenset()


def test_an_environment_that_was_never_planned_has_a_certificate_without_resources() -> None:
    left = after(REGISTERED, access.on_tenant_left(REGISTERED, LEAVES))
    events = purging.on_purge_started(left, PURGE, BY_PERSON, NOW)
    environment = after(left, events)
    purged = after(environment, purging.purged(environment, (), None, LATER))

    assert [type(each) for each in events] == [DeletionStarted, DeletionEnded]
    assert purging.certificate_of(purged, TENANT).resources == ()


def test_the_certificate_has_the_hash_of_the_plan_and_every_resource_with_its_proof() -> None:
    certificate = purging.certificate_of(PURGED, TENANT)

    assert certificate.plan_hash == PURGING.plan_hash
    assert {(each.kind, each.name) for each in certificate.resources} == {
        (step.resource.kind, step.resource.identity) for step in (PURGING.plan.steps if PURGING.plan else ())
    }
    assert all(each.how and each.verified_at == LATER for each in certificate.resources)
    assert certificate.export == GONE
    assert (PURGED.status, PURGED.export, PURGED.cells) == (Status.PURGED, None, frozenset())


def test_there_is_no_certificate_before_the_verification() -> None:
    assert purging.purged(PURGING, ABSENT, GONE, LATER) == []
    with pytest.raises(NotPurgedError, match="purging"):
        purging.certificate_of(DELETED, TENANT)


def test_a_ready_environment_is_not_purged() -> None:
    assert purging.on_purge_started(READY, PURGE, UNATTENDED, NOW) == []


def test_policy_may_require_an_approval_of_the_deletions() -> None:
    waiting = purging_of(RETAINED, BY_PERSON)
    approval = waiting.approval
    assert approval is not None
    plan_hash = approval.plan_hash
    granted = after(waiting, approvals.approve(waiting, approval.id, plan_hash, ADA, BLUEPRINT, BY_PERSON, NOW))
    applied = after(granted, applying.apply(granted, TENANT, plan_hash, BLUEPRINT, CELLS, BY_PERSON, NOW))

    assert waiting.status is Status.PURGING
    assert waiting.remaining == ()
    assert {each.rule for each in approval.reasons} == {"deletes"}
    assert applying.propose(waiting, BLUEPRINT, CELLS, BY_PERSON).plan_hash == plan_hash
    assert (applied.plan_hash, len(applied.remaining)) == (plan_hash, 4)


def test_a_rejected_purge_is_requested_again_only_by_a_person() -> None:
    waiting = purging_of(RETAINED, BY_PERSON)
    assert waiting.approval is not None
    rejected = after(waiting, approvals.reject(waiting, waiting.approval.id, ADA, "not now"))

    assert planning.compare(rejected, BLUEPRINT, CELLS, NOW, BY_PERSON) == []
    (request,) = applying.make_plan(rejected, TENANT, BO, BLUEPRINT, CELLS, BY_PERSON, LATER)
    assert isinstance(request, ApprovalRequested)
    assert (request.requester, request.plan.purge) == (BO, True)


def test_a_policy_without_an_approval_starts_a_purge_that_waits_for_one() -> None:
    waiting = purging_of(RETAINED, BY_PERSON)

    events = planning.compare(waiting, BLUEPRINT, CELLS, NOW, UNATTENDED)
    assert [type(each) for each in events] == [ApprovalVoid, EnvironmentPlanned]
    assert planning.compare(after(waiting, events), BLUEPRINT, CELLS, NOW, UNATTENDED) == []


def test_a_legal_hold_before_the_first_deletion_keeps_everything() -> None:
    waiting = purging_of(RETAINED, BY_PERSON)
    events = purging.on_legal_hold_placed(waiting, held("2026-17"))
    intact = after(waiting, events)

    assert [type(each) for each in events] == [ApprovalVoid, DeletionStopped]
    assert (intact.status, intact.purge, intact.built) == (Status.RETAINED, None, RETAINED.built)
    assert waiting.approval is not None
    with pytest.raises(ApprovalEndedError):
        approvals.approve(intact, waiting.approval.id, waiting.approval.plan_hash, ADA, BLUEPRINT, BY_PERSON, NOW)
    assert purging_of(intact).status is Status.PURGING


def test_a_legal_hold_during_the_deletion_stops_the_remaining_steps_until_the_last_one_ends() -> None:
    started = after(PURGING, removed(PURGING, 1))
    stopped = after(started, purging.on_legal_hold_placed(started, held("a")))
    both = after(stopped, purging.on_legal_hold_placed(stopped, held("b")))
    one = after(both, purging.on_legal_hold_released(both, released("a"), UNATTENDED, LATER))
    events = purging.on_legal_hold_released(one, released("b"), UNATTENDED, LATER)
    continued = after(one, events)
    deleted = after(continued, removed(continued))

    assert [each.is_applied for each in (started, stopped, both, one, continued)] == [True, False, False, False, True]
    assert [type(each) for each in events] == [DeletionStarted, EnvironmentPlanned]
    assert continued.remaining == started.remaining
    assert deleted.purge is not None
    assert deleted.purge.is_deleted
    assert {each.address for each in deleted.purge.removed} == {each.address for each in DELETED.purge.removed}  # type: ignore[union-attr]


def test_a_step_that_had_begun_before_the_hold_is_recorded() -> None:
    stopped = after(PURGING, purging.on_legal_hold_placed(PURGING, held("a")))
    recorded = after(stopped, removed(stopped))

    assert recorded.remaining == ()
    assert recorded.purge is not None
    assert not recorded.purge.is_deleted
    assert purging.purged(recorded, ABSENT, GONE, LATER) == []
    (started, ended) = purging.on_legal_hold_released(recorded, released("a"), UNATTENDED, LATER)
    assert (type(started), type(ended)) == (DeletionStarted, DeletionEnded)


def test_a_legal_hold_elsewhere_changes_nothing() -> None:
    for environment in (None, READY, RETAINED, PURGED):
        assert purging.on_legal_hold_placed(environment, held("a")) == []
        assert purging.on_legal_hold_released(environment, released("a"), UNATTENDED, NOW) == []


def test_a_failed_deletion_is_kept_and_retried() -> None:
    started = after(PURGING, removed(PURGING, 1))
    failed = after(started, building.build_failed(started, started.plan_hash or "", "is in use"))

    assert (failed.status, failed.failure is not None) == (Status.PURGING, True)
    assert planning.compare(failed, BLUEPRINT, CELLS, NOW, UNATTENDED) == []
    again = after(failed, planning.retry(failed, TENANT, BLUEPRINT, CELLS, LATER, UNATTENDED))
    assert (again.failure, again.remaining) == (None, started.remaining)


def test_a_failed_deletion_that_a_person_applies_again_is_not_shown_as_failed() -> None:
    started = after(PURGING, removed(PURGING, 1))
    failed = after(started, building.build_failed(started, started.plan_hash or "", "is in use"))
    plan_hash = applying.propose(failed, BLUEPRINT, CELLS, UNATTENDED).plan_hash
    again = after(failed, applying.apply(failed, TENANT, plan_hash, BLUEPRINT, CELLS, UNATTENDED, LATER))

    assert (again.failure, again.remaining) == (None, started.remaining)
    with pytest.raises(EnvironmentNotPlannableError, match="a plan is being applied"):
        applying.apply(again, TENANT, plan_hash, BLUEPRINT, CELLS, UNATTENDED, LATER)


@pytest.mark.parametrize("inputs", [UNATTENDED, BY_PERSON])
def test_no_plan_of_a_purge_is_shown_or_applied_under_a_legal_hold(inputs: PlanInputs) -> None:
    started = after(PURGING, removed(PURGING, 1))
    failed = after(started, building.build_failed(started, started.plan_hash or "", "is in use"))
    plan_hash = applying.propose(failed, BLUEPRINT, CELLS, inputs).plan_hash
    stopped = after(failed, purging.on_legal_hold_placed(failed, held("C1")))

    for call in (applying.propose, applying.current):
        with pytest.raises(EnvironmentNotPlannableError, match="legal holds stop the purge: C1"):
            call(stopped, BLUEPRINT, CELLS, inputs)
    with pytest.raises(EnvironmentNotPlannableError, match="legal holds stop the purge: C1"):
        applying.apply(stopped, TENANT, plan_hash, BLUEPRINT, CELLS, inputs, LATER)
    assert purging.delete_all(stopped, inputs, LATER) == []


def test_a_resource_that_exists_after_its_deletion_fails_the_purge_and_is_verified_again() -> None:
    (event,) = purging.verification_failed(DELETED, "role t_x exists")
    failed = after(DELETED, [event])
    again = planning.retry(failed, TENANT, BLUEPRINT, CELLS, LATER, UNATTENDED)

    assert isinstance(event, EnvironmentFailed)
    assert failed.status is Status.PURGING
    assert [type(each) for each in again] == [DeletionStarted, DeletionEnded]


def test_nothing_is_planned_or_opened_for_a_purged_environment() -> None:
    assert planning.on_entitlements_set(PURGED, entitled(entitlements_hash="cd" * 32), BLUEPRINT, CELLS, NOW) != []
    assert planning.compare(PURGED, BLUEPRINT, CELLS, NOW, UNATTENDED) == []
    with pytest.raises(EnvironmentNotPlannableError, match="purged"):
        applying.propose(PURGED, BLUEPRINT, CELLS, UNATTENDED)


def test_a_new_version_of_the_blueprint_does_not_void_the_approval_of_a_purge() -> None:
    waiting = purging_of(RETAINED, BY_PERSON)
    other = replace(
        BLUEPRINT,
        in_force=tuple(replace(each, content_hash=HASH) for each in BLUEPRINT.in_force),
    )

    assert approvals.superseded(waiting, other, BY_PERSON) == []
