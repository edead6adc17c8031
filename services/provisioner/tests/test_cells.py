"""Tenants are placed in cells: the emptiest that fits, and never more than the capacity."""

from dataclasses import replace

import pytest
from blueprint_samples import blueprint_of, cells_of, published, tier_blueprint
from environment_samples import ENVIRONMENT_ID, NOW, REGISTERED, TENANT, after, entitled
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.blueprints import CellGroup
from paybill_contracts.cells import CellPlaceFreed, CellPlaceTaken
from paybill_contracts.environment_plans import PlanRefused, ResourceRemoved, Step, StepAction
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.domain import cells, planning
from paybill_provisioner.domain.cells import Cell, Cells, CellUnknownError, RegionFullError
from paybill_provisioner.domain.environment_parts import BuiltResource
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import evolve

POOL = Isolation.POOL
REGIONS = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True)


def groups(count: int = 2, capacity: int = 2):
    content = blueprint_of(tier_blueprint("starter", Preset.POOLED), regions=("eu-central", "us-east"))
    return content.model_copy(update={"cells": (CellGroup(isolation=POOL, count=count, capacity=capacity),)})


def pool(count: int = 2, capacity: int = 2) -> Cells:
    found = cells_of(groups(count, capacity))[POOL]
    assert found is not None
    return found


def placed(state: Cells, region: str = "eu-central") -> Cells:
    number = cells.emptiest(state, POOL, region)
    taken = CellPlaceTaken(
        isolation=POOL, region=region, number=number, tenant_id=TENANT, environment_id=ENVIRONMENT_ID
    )
    return cells.evolve(state, taken)


def tenants(state: Cells, region: str = "eu-central") -> list[int]:
    return [cell.tenants for cell in state.of(region)]


def test_a_tenant_gets_a_place_in_the_emptiest_cell() -> None:
    state = pool()
    counts = [tenants(state)]
    for _ in range(4):
        state = placed(state)
        counts.append(tenants(state))

    assert counts == [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2]]
    assert tenants(state, "us-east") == [0, 0]


def test_a_full_region_is_refused_and_the_free_ones_are_named() -> None:
    state = placed(placed(pool(1, 2)))

    with pytest.raises(RegionFullError, match=r"every pool cell of eu-central is full .* in: us-east \(2\)"):
        placed(state)


def test_a_drained_cell_takes_no_new_tenant_until_it_is_reopened() -> None:
    state = pool()
    for event in cells.drain(state, POOL, "eu-central", 1, "maintenance"):
        state = cells.evolve(state, event)
    after_two = placed(placed(state))

    assert tenants(after_two) == [0, 2]
    with pytest.raises(RegionFullError):
        placed(after_two)
    assert cells.drain(state, POOL, "eu-central", 1, "again") == []
    assert cells.existing(state, POOL, "eu-central", 1).drained == "maintenance"
    for event in cells.reopen(after_two, POOL, "eu-central", 1, "it is over"):
        after_two = cells.evolve(after_two, event)
    assert tenants(placed(after_two)) == [1, 2]
    assert cells.reopen(after_two, POOL, "eu-central", 1, "again") == []
    with pytest.raises(CellUnknownError, match="known are pool-eu-central-1, pool-eu-central-2"):
        cells.drain(state, POOL, "eu-central", 3, "maintenance")


def test_more_cells_and_another_capacity_are_opened_and_none_is_closed() -> None:
    state = placed(pool(1, 2))
    for event in cells.opened(state, POOL, [groups(2, 5)], {}):
        state = cells.evolve(state, event)

    assert [(cell.capacity, cell.tenants) for cell in state.of("eu-central")] == [(5, 1), (5, 0)]
    assert cells.opened(state, POOL, [groups(1, 5)], {}) == []


def test_tenants_of_an_installation_without_cells_are_counted_in_the_first_cell() -> None:
    state: Cells | None = None
    for event in cells.opened(None, POOL, [groups()], {(POOL, "eu-central"): 7}):
        state = cells.evolve(state, event)

    assert state is not None
    assert (tenants(state), tenants(state, "us-east")) == ([7, 0], [0, 0])


@given(st.lists(st.sampled_from(["eu-central", "us-east"]), max_size=30))
def test_no_cell_has_more_tenants_than_its_capacity(regions: list[str]) -> None:
    state, placed_in = pool(2, 3), 0
    for region in regions:
        try:
            state = placed(state, region)
        except RegionFullError:
            assert all(cell.free == 0 for cell in state.of(region))
        else:
            placed_in += 1

    assert sum(cell.tenants for cell in state.cells) == placed_in
    assert all(cell.tenants <= cell.capacity for cell in state.cells)


def test_blueprints_of_one_region_share_its_cells_and_the_largest_capacity_applies() -> None:
    both = [groups(1, 5), groups(2, 3)]
    state: Cells | None = None
    for event in cells.opened(None, POOL, both, {}):
        state = cells.evolve(state, event)

    assert state is not None
    assert [(cell.number, cell.capacity) for cell in state.of("eu-central")] == [(1, 5), (2, 3)]
    assert cells.opened(state, POOL, both, {}) == []


def test_a_region_that_is_in_no_blueprint_any_more_keeps_its_tenants() -> None:
    state: Cells | None = None
    for event in cells.opened(None, POOL, [groups()], {(POOL, "ap-south"): 3}):
        state = cells.evolve(state, event)

    assert state is not None
    assert [(cell.tenants, cell.free) for cell in state.of("ap-south")] == [(3, 0)]


@given(level=st.sampled_from(cells.SHARED), region=REGIONS, number=st.integers(1, 100))
def test_the_id_of_a_cell_names_it(level: Isolation, region: str, number: int) -> None:
    assert cells.parse_id(cells.id_of(level, region, number)) == (level, region, number)


@pytest.mark.parametrize("text", ["", "pool", "silo-eu-central-1", "pool-eu-central-0", "pool-eu-central", "pool--1"])
def test_another_text_is_no_id_of_a_cell(text: str) -> None:
    with pytest.raises(CellUnknownError):
        cells.parse_id(text)


def planned(environment: Environment, fact: EntitlementsSet, state: Cells) -> Environment:
    events = planning.on_entitlements_set(environment, fact, published(groups()), {POOL: state}, NOW)
    return after(environment, events)


def test_a_plan_names_the_cell_in_which_the_tenant_gets_a_place() -> None:
    state = placed(pool())
    building = planned(REGISTERED, entitled(), state)
    assert building.plan is not None
    database = next(step.resource for step in building.plan.steps if step.address == "database.main")
    (taken,) = cells.place_changes(REGISTERED, building)

    assert isinstance(taken, CellPlaceTaken)
    assert (taken.number, building.cell_of(POOL)) == (2, 2)
    assert database.attributes.name == "pool_eu_central_2"
    again = planned(building, entitled(), cells.evolve(state, taken))
    assert cells.place_changes(building, again) == []


def test_a_place_is_freed_when_nothing_of_the_tenant_is_built_or_planned_in_the_cell() -> None:
    building = planned(REGISTERED, entitled(), pool())
    assert building.plan is not None
    schema = next(step.resource for step in building.plan.steps if step.address == "schema.main")
    purging = replace(
        building,
        plan=building.plan.model_copy(update={"steps": (Step(action=StepAction.DELETE, before=schema, after=None),)}),
    )
    built = replace(purging, built=(BuiltResource(resource=schema, outputs={}),))
    removed = ResourceRemoved(
        tenant_id=TENANT,
        environment_id=ENVIRONMENT_ID,
        plan_hash="ab" * 32,
        address=schema.address,
        name=schema.identity,
    )

    assert [type(each) for each in cells.place_changes(building, purging)] == [CellPlaceFreed]
    assert cells.place_changes(building, built) == []
    assert [type(each) for each in cells.place_changes(built, evolve(built, removed))] == [CellPlaceFreed]


def test_a_full_region_is_a_refused_plan() -> None:
    full = Cells(id=POOL, cells=(Cell("eu-central", 1, 1, 1), Cell("us-east", 1, 1, 0)))
    events = planning.on_entitlements_set(REGISTERED, entitled(), published(groups()), {POOL: full}, NOW)

    assert isinstance(events[-1], PlanRefused)
    assert (events[-1].code, "us-east (1)" in events[-1].reason) == ("region_full", True)
