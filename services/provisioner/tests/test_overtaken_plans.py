"""Plans that another desired state has overtaken: they are replaced when they wait, and not repeated when they fail."""

from environment_samples import BLUEPRINT, BUILDING, CELLS, NOW, PLAN_HASH, after, entitled
from paybill_contracts.environment_plans import EnvironmentPlanned
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import EnvironmentFailed
from paybill_provisioner.domain import applying, building, planning
from paybill_provisioner.domain.environment_state import Status
from paybill_provisioner.domain.sizes import Size

SILO = entitled(tier="business", placement=Preset.SILO)
OVERTAKEN = after(BUILDING, planning.on_entitlements_set(BUILDING, SILO, BLUEPRINT, CELLS, NOW))


def test_what_is_desired_by_now_is_planned_when_the_plan_fails_and_the_same_is_not_repeated() -> None:
    failed = after(OVERTAKEN, building.build_failed(OVERTAKEN, PLAN_HASH, "disk full"))
    same = after(BUILDING, building.build_failed(BUILDING, PLAN_HASH, "disk full"))
    again = after(failed, planning.compare(failed, BLUEPRINT, CELLS, NOW))

    assert (again.status, again.planned_size) == (Status.BUILDING, Size("business", Preset.SILO))
    assert planning.compare(same, BLUEPRINT, CELLS, NOW) == []


def test_a_retry_replaces_a_plan_that_waits_and_is_overtaken_and_no_other() -> None:
    events = applying.retry(OVERTAKEN, OVERTAKEN.id, BLUEPRINT, CELLS, NOW, is_waiting=True)
    after_it = after(OVERTAKEN, events)

    assert [type(each) for each in events] == [EnvironmentFailed, EnvironmentPlanned]
    assert (after_it.status, after_it.planned_size) == (Status.BUILDING, Size("business", Preset.SILO))
    assert applying.retry(OVERTAKEN, OVERTAKEN.id, BLUEPRINT, CELLS, NOW) == []
    assert applying.retry(BUILDING, BUILDING.id, BLUEPRINT, CELLS, NOW, is_waiting=True) == []
