"""Resources that a plan replaced exist until they are deleted, also when the plan fails and another one follows."""

from dataclasses import replace

from environment_samples import BLUEPRINT, CELLS, EVERYTHING, NOW, REGISTERED, TENANT, after, built, completed, entitled
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.environment_plans import StepAction
from paybill_contracts.placement import Preset
from paybill_provisioner.domain import building, planning, steps
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_state import Environment, Status

SILO = entitled(tier="business", placement=Preset.SILO)


def entitle(environment: Environment, fact: EntitlementsSet) -> Environment:
    return after(environment, planning.on_entitlements_set(environment, fact, BLUEPRINT, CELLS, NOW))


def silo_replaced_by_an_incomplete_pool() -> Environment:
    """Returns a failed environment whose pool is built except its login, while the silo before it still exists."""
    silo = entitle(REGISTERED, SILO)
    outputs = {"host": "127.0.0.1", "port": "5432", "database": "silo"}
    found = [("database.main", outputs), ("schema.main", {"schema_name": "product"})]
    halfway = after(silo, building.progress_recorded(silo, silo.plan_hash or "", built(found)))
    pool = entitle(after(halfway, building.build_failed(halfway, silo.plan_hash or "", "disk full")), entitled())
    started = after(pool, building.progress_recorded(pool, pool.plan_hash or "", built(EVERYTHING[:-1])))
    return after(started, building.build_failed(started, pool.plan_hash or "", "disk full"))


def test_what_an_earlier_plan_replaced_is_deleted_by_the_next_one() -> None:
    failed = silo_replaced_by_an_incomplete_pool()
    again = after(failed, planning.retry(failed, TENANT, BLUEPRINT, CELLS, NOW))
    deleted = [step.before for step in again.remaining if step.action is StepAction.DELETE]
    keys = [step.key for step in again.remaining]

    number = TENANT.removeprefix("ten_")
    assert {each.attributes.name for each in deleted if each} == {
        f"silo_{number}",
        "product",
        f"eu-central/silo/t_{number}",
    }
    # The login of the pool, which is planned again, has the same name as that of the silo.
    assert deleted == [each for each in reversed(failed.replaced) if each.kind != "role"]
    assert len({*keys}) == len(keys)


def test_what_an_earlier_plan_replaced_is_kept_when_it_is_desired_again() -> None:
    failed = silo_replaced_by_an_incomplete_pool()
    again = entitle(failed, SILO)
    done = after(again, completed(again))
    left = [step.before for step in done.remaining if step.before is not None]
    events = completed(done, (), left)

    assert {(each.address, each.isolation) for each in left} == {("schema.main", "pool"), ("bucket.data", "pool")}
    assert after(done, events).status is Status.READY
    assert {each.resource.isolation for each in after(done, events).built if each.resource.layer == "data"} == {"silo"}


def test_two_replaced_schemas_of_one_name_are_two_resources() -> None:
    failed = silo_replaced_by_an_incomplete_pool()
    schemas = [each.resource for each in failed.built if each.resource.address == "schema.main"]
    schemas += [each for each in failed.replaced if each.address == "schema.main"]
    replaced = replace(failed, built=(), replaced=tuple(schemas))
    assert failed.plan is not None
    plan = failed.plan.model_copy(update={"steps": steps.diff((), (), schemas)})
    changing = replace(replaced, status=Status.CHANGING, plan=plan)
    events = building.progress_recorded(changing, failed.plan_hash or "", Progress(removed=schemas[:1]))

    assert [each.attributes.name for each in schemas] == ["product", "product"]
    assert after(changing, events).replaced == (schemas[1],)
