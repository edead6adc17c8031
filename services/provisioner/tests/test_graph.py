"""From a blueprint to resources, and from what is wanted and what is there to the steps between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.placement import Isolation, Preset
from paybill_contracts.provisioner import Blueprint, Column, Resource, StepAction, Table, TierBlueprint
from paybill_provisioner.domain.graph import BrokenGraphError, desired, diff, ordered

TENANT = "ten_0123456789abcdef0123456789abcdef"
ROLE = "t_0123456789abcdef0123456789abcdef"
BLUEPRINT = Blueprint(
    name="standard",
    regions=("eu-central",),
    tiers=(),
    tables=(Table(name="documents", columns=(Column(name="id", type="text"), Column(name="body", type="jsonb"))),),
)


def resource(address: str, *needs: str, size: str = "1") -> Resource:
    return Resource(
        address=address,
        kind="thing",
        layer="data",
        isolation=Isolation.POOL,
        properties={"size": size},
        needs=needs,
    )


@st.composite
def graphs(draw: st.DrawFn) -> list[Resource]:
    """Resources that need only those before them, in any order."""
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6))
    resources = [
        resource(
            name, *draw(st.lists(st.sampled_from(names[:index] or [name]), unique=True, max_size=3 if index else 0))
        )
        for index, name in enumerate(names)
    ]
    return draw(st.permutations(resources))


@pytest.mark.parametrize(
    ("preset", "isolation", "database", "schema"),
    [
        (Preset.POOLED, Isolation.POOL, "pool_eu_central", "product"),
        (Preset.BRIDGE, Isolation.BRIDGE, "bridge_eu_central", ROLE),
        (Preset.SILO, Isolation.SILO, "silo_0123456789abcdef0123456789abcdef", "product"),
    ],
)
def test_a_placement_decides_which_database_and_schema_a_tenant_gets(
    preset: Preset, isolation: Isolation, database: str, schema: str
) -> None:
    tier = TierBlueprint(tier="any", placement=preset, cloud="local", connection_limit=7)

    found = {each.address: each for each in desired(BLUEPRINT, tier, TENANT, "eu-central")}

    assert found["postgres.database"].properties == {"name": database}
    assert found["postgres.schema"].properties == {
        "database": database,
        "name": schema,
        "table-documents": "id text, body jsonb",
    }
    assert found["postgres.role"].properties == {"name": ROLE, "connection-limit": "7"}
    assert found["folder.data"].properties == {"path": f"eu-central/{isolation}/{ROLE}"}
    assert found["postgres.schema"].isolation is found["folder.data"].isolation is isolation
    assert found["secret.database"].isolation is found["postgres.role"].isolation is Isolation.SILO


@given(graphs(), graphs())
def test_the_steps_lead_from_what_is_there_to_what_is_wanted(wanted: list[Resource], observed: list[Resource]) -> None:
    result = {each.address: each for each in observed}
    for step in diff(wanted, observed):
        if step.action is StepAction.DELETE:
            del result[step.resource.address]
        else:
            assert (step.action is StepAction.UPDATE) == (step.resource.address in result)
            result[step.resource.address] = step.resource

    assert result == {each.address: each for each in wanted}


@given(graphs())
def test_the_order_is_canonical_and_what_is_needed_comes_first(graph: list[Resource]) -> None:
    result = ordered(graph)

    assert ordered(graph[::-1]) == result
    for index, each in enumerate(result):
        assert set(each.needs) <= {before.address for before in result[:index]}


@given(graphs())
def test_what_goes_goes_before_what_it_needed(graph: list[Resource]) -> None:
    steps = diff([], graph)

    assert [step.resource for step in steps] == list(reversed(ordered(graph)))


def test_a_changed_resource_is_updated_and_an_unchanged_one_left_alone() -> None:
    steps = diff([resource("a"), resource("b", size="2")], [resource("a"), resource("b")])

    assert [(step.action, step.resource.address) for step in steps] == [(StepAction.UPDATE, "b")]


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        ([resource("a", "b")], "a needs b, which is not there"),
        ([resource("a", "b"), resource("b", "a")], "need each other"),
        ([resource("a"), resource("a")], "a is there twice"),
    ],
)
def test_a_graph_that_cannot_be_built_is_refused(graph: list[Resource], complaint: str) -> None:
    with pytest.raises(BrokenGraphError, match=complaint):
        diff(graph, [])
