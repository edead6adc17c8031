"""Desired resources of a blueprint, and the steps from observed to desired resources."""

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
    """Generates acyclic graphs of resources in any order."""
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
def test_the_placement_determines_database_and_schema(
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
def test_the_steps_transform_observed_into_desired_resources(target: list[Resource], observed: list[Resource]) -> None:
    result = {each.address: each for each in observed}
    for step in diff(target, observed):
        if step.action is StepAction.DELETE:
            del result[step.resource.address]
        else:
            assert (step.action is StepAction.UPDATE) == (step.resource.address in result)
            result[step.resource.address] = step.resource

    assert result == {each.address: each for each in target}


@given(graphs())
def test_the_order_is_canonical_and_topological(graph: list[Resource]) -> None:
    result = ordered(graph)

    assert ordered(graph[::-1]) == result
    for index, each in enumerate(result):
        assert set(each.needs) <= {before.address for before in result[:index]}


@given(graphs())
def test_deletions_are_in_reverse_order(graph: list[Resource]) -> None:
    steps = diff([], graph)

    assert [step.resource for step in steps] == list(reversed(ordered(graph)))


def test_only_a_changed_resource_is_updated() -> None:
    steps = diff([resource("a"), resource("b", size="2")], [resource("a"), resource("b")])

    assert [(step.action, step.resource.address) for step in steps] == [(StepAction.UPDATE, "b")]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([resource("a", "b")], "a needs b, which does not exist"),
        ([resource("a", "b"), resource("b", "a")], "need each other"),
        ([resource("a"), resource("a")], "a is defined twice"),
    ],
)
def test_a_graph_that_cannot_be_built_is_refused(graph: list[Resource], message: str) -> None:
    with pytest.raises(BrokenGraphError, match=message):
        diff(graph, [])
