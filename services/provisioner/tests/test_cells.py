"""Tenants are placed in cells: the emptiest that fits, and never more than the capacity."""

import pytest
from blueprint_samples import blueprint_of, cells_of, published, tier_blueprint
from environment_samples import ENVIRONMENT_ID, NOW, REGISTERED, TENANT, after, entitled
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.blueprints import CellGroup
from paybill_contracts.cells import CellPlaceFreed, CellPlaceTaken
from paybill_contracts.environment_plans import EnvironmentPlanned, PlanRefused
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.domain import cells, planning
from paybill_provisioner.domain.cells import Cell, Cells, CellUnknownError, RegionFullError

POOL = Isolation.POOL


def groups(count: int = 2, capacity: int = 2):
    content = blueprint_of(tier_blueprint("starter", Preset.POOLED), regions=("eu-central", "us-east"))
    return content.model_copy(update={"cells": (CellGroup(isolation=POOL, count=count, capacity=capacity),)})


def pool(count: int = 2, capacity: int = 2) -> Cells:
    found = cells_of(groups(count, capacity))[POOL]
    assert found is not None
    return found


def placed(state: Cells, region: str = "eu-central") -> Cells:
    return cells.evolve(state, cells.place_taken(state, POOL, region, TENANT, ENVIRONMENT_ID))


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
    for event in cells.reopen(after_two, POOL, "eu-central", 1):
        after_two = cells.evolve(after_two, event)
    assert tenants(placed(after_two)) == [1, 2]
    with pytest.raises(CellUnknownError, match="known are eu-central 1, eu-central 2"):
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


def test_a_plan_names_the_cell_and_takes_its_place_in_the_same_decision() -> None:
    state = placed(pool())
    events = planning.on_entitlements_set(REGISTERED, entitled(), published(groups()), {POOL: state}, NOW)
    planned, taken = events

    assert isinstance(planned, EnvironmentPlanned)
    assert isinstance(taken, CellPlaceTaken)
    assert taken.number == 2
    assert {step.address: step.resource.attributes.name for step in planned.plan.steps}["database.main"] == (
        "pool_eu_central_2"
    )
    again = after(REGISTERED, events)
    assert again.cell_of(POOL) == 2
    assert not [
        each
        for each in planning.on_entitlements_set(again, entitled(), published(groups()), {POOL: state}, NOW)
        if isinstance(each, CellPlaceTaken | CellPlaceFreed)
    ]


def test_a_full_region_is_a_refused_plan() -> None:
    full = Cells(id=POOL, cells=(Cell("eu-central", 1, 1, 1), Cell("us-east", 1, 1, 0)))
    events = planning.on_entitlements_set(REGISTERED, entitled(), published(groups()), {POOL: full}, NOW)

    assert isinstance(events[-1], PlanRefused)
    assert (events[-1].code, "us-east (1)" in events[-1].reason) == ("region_full", True)
