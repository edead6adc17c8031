"""Changes and deletions of a plan that ended without an answer are settled by the next plan."""

from dataclasses import replace
from datetime import timedelta

from environment_samples import BUILDING, NOW, READY, after
from fake_cloud import SETTLED_AFTER_S, Cloud, CloudDriver
from paybill_contracts.environment_plans import ResourceRemoved, Step, StepAction
from paybill_provisioner.domain import building
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.steps import diff
from paybill_provisioner.domain.unfinished import changes_of, may_be_deleted
from paybill_provisioner.execution import Execution

BUCKET = READY.resources["bucket.data"]
ROLE = READY.resources["role.main"]


def running(environment, status, *steps):
    plan = environment.plan.model_copy(update={"steps": steps})
    return replace(environment, plan=plan, status=status)


def failed(environment):
    return after(environment, building.build_failed(environment, environment.plan_hash, "no answer", "role.main"))


def deletion(resource):
    return Step(action=StepAction.DELETE, before=resource, after=None)


def test_what_may_be_deleted_is_not_built_any_more_and_is_created_by_the_plan_that_needs_it() -> None:
    resources = [each.resource for each in READY.built]
    compensating = running(READY, Status.COMPENSATING, *diff((), resources))
    ended = failed(compensating)
    steps = diff(resources, [each.resource for each in ended.built], ended.replaced)
    begun = {each.address for each in ended.replaced}

    # Only the deletions of what nothing needs had begun.
    assert begun == {"bucket.data", "role.main"}
    assert all(may_be_deleted(ended, each) for each in ended.replaced)
    assert {(step.action, step.address) for step in steps} >= {(StepAction.CREATE, each) for each in begun}
    assert not any(step.action is StepAction.DELETE for step in steps)


def test_a_deletion_that_ended_is_confirmed() -> None:
    ended = failed(running(READY, Status.COMPENSATING, deletion(BUCKET)))
    removed = ResourceRemoved(
        tenant_id=READY.tenant_id,
        environment_id=READY.id,
        plan_hash=READY.plan_hash,
        address=BUCKET.address,
        name=BUCKET.identity,
    )

    assert ended.unconfirmed != ()
    assert after(ended, [removed]).unconfirmed == ()


def test_what_may_be_changed_is_set_again_although_the_record_has_it() -> None:
    other = ROLE.model_copy(update={"attributes": ROLE.attributes.model_copy(update={"connection_limit": 9})})
    changing = running(READY, Status.CHANGING, Step(action=StepAction.UPDATE, before=ROLE, after=other))
    ended = failed(changing)
    resources = [each.resource for each in ended.built]
    (step,) = diff(resources, resources, unconfirmed=changes_of(ended))
    again = running(ended, Status.CHANGING, step)
    progress = building.Progress(built={"role.main": READY.outputs["role.main"]})
    done = after(again, building.progress_recorded(again, again.plan_hash, progress))

    assert (ended.status, changes_of(ended)) == (Status.READY, {"role.main"})
    assert (step.action, step.after, step.repairs) == (StepAction.UPDATE, ROLE, False)
    assert (done.remaining, done.unconfirmed) == ((), ())


async def test_a_resource_that_may_be_deleted_is_not_searched_for_before_the_deletion_has_taken_effect() -> None:
    ended = failed(running(READY, Status.COMPENSATING, deletion(BUCKET)))
    create = Step(action=StepAction.CREATE, before=None, after=BUCKET)
    planned = replace(running(ended, Status.BUILDING, create), planned_at=NOW)
    driver = CloudDriver(Cloud())
    driver.cloud.add(driver.cloud.new(BUCKET, READY.tenant_id))

    async def found_after(seconds):
        execution = Execution(driver, planned, "job", now=lambda: NOW + timedelta(seconds=seconds))
        return [dict(each.built) async for each in execution.run()], execution.check_after_s

    early, check_after_s = await found_after(SETTLED_AFTER_S / 4)
    late, _ = await found_after(SETTLED_AFTER_S)

    assert early == []
    assert check_after_s == SETTLED_AFTER_S * 3 / 4
    assert [list(each) for each in late if each] == [["bucket.data"]]


def test_an_ordinary_failure_leaves_nothing_unconfirmed() -> None:
    assert failed(BUILDING).unconfirmed == ()
