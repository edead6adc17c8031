"""Tests of environments that are as desired, and of which no plan is computed."""

from dataclasses import replace

from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import BLUEPRINT, BUILDING, CELLS, NOW, READY, REGISTERED, after, entitled
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.domain import planning
from paybill_provisioner.domain.plans import is_current, plan_of


def test_only_an_environment_without_any_difference_is_current() -> None:
    desired = READY.desired
    assert desired is not None
    pending = after(
        READY,
        planning.on_entitlements_set(READY, entitled(tier="business", placement=Preset.SILO), BLUEPRINT, CELLS, NOW),
    )
    other = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 7), version=2))
    without = published(blueprint_of(tier_blueprint("business", Preset.SILO)))

    assert is_current(READY, BLUEPRINT)
    assert plan_of(READY, desired, BLUEPRINT, READY.cell_of(Isolation.POOL)).steps == ()
    assert [is_current(each, BLUEPRINT) for each in (REGISTERED, BUILDING, pending)] == [False] * 3
    assert not is_current(replace(READY, desired=replace(desired, limits={"seats": 3})), BLUEPRINT)
    assert not is_current(replace(READY, built=READY.built[1:]), BLUEPRINT)
    assert not is_current(READY, other)
    assert not is_current(READY, without)
