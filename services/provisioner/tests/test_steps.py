"""Resources of a tier, and the steps from built to desired resources."""

from dataclasses import replace

import pytest
from blueprint_samples import blueprint_of, tier_blueprint
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.environment_plans import Resource, StepAction
from paybill_contracts.kinds import Bucket, Column, Compute, Network, Role, Schema, Secret, Table
from paybill_contracts.placement import Isolation, Preset
from paybill_definitions.resources import Values, render
from paybill_provisioner.domain.steps import BrokenGraphError, ChangeRefusedError, diff, ordered

TENANT = "ten_0123456789abcdef0123456789abcdef"
ROLE = "t_0123456789abcdef0123456789abcdef"
VALUES = Values(TENANT, "acme", "eu-central")


def resource(address: str, *needs: str, name: str = "1", image: str = "app:1") -> Resource:
    return Resource(
        address=address,
        layer="compute",
        isolation=Isolation.SILO,
        attributes=Compute(name=name, image=image),
        needs=needs,
    )


def rendered(preset: Preset, limit: int = 5) -> list[Resource]:
    tier = tier_blueprint("any", preset, limit)
    return list(render(blueprint_of(tier), tier, VALUES))


@st.composite
def graphs(draw: st.DrawFn) -> list[Resource]:
    """Generates acyclic graphs of resources in any order."""
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6))
    resources = [
        resource(
            name,
            *draw(st.lists(st.sampled_from(names[:index] or [name]), unique=True, max_size=3 if index else 0)),
            name=draw(st.sampled_from("12")),
            image=draw(st.sampled_from(["app:1", "app:2"])),
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
    found = {each.address: each for each in rendered(preset, 7)}
    names = {address: each.attributes.name for address, each in found.items()}
    role, tables = found["role.main"].attributes, found["schema.main"].attributes

    assert isinstance(role, Role)
    assert isinstance(tables, Schema)
    assert names == {
        "database.main": database,
        "schema.main": schema,
        "role.main": ROLE,
        "bucket.data": f"eu-central/{isolation}/{ROLE}",
        "secret.database": f"environments/{TENANT.removeprefix('ten_')}/database",
    }
    assert role.connection_limit == 7
    assert [(table.name, len(table.columns)) for table in tables.tables] == [("documents", 2)]
    assert found["role.main"].needs == ("schema.main", "secret.database")
    assert found["schema.main"].isolation is found["bucket.data"].isolation is isolation
    assert found["secret.database"].isolation is found["role.main"].isolation is Isolation.SILO


@given(graphs(), graphs())
def test_the_steps_transform_built_into_desired_resources(target: list[Resource], built: list[Resource]) -> None:
    result = {(each.address, each.attributes.name): each for each in built}
    for step in diff(target, built):
        if step.after is None:
            assert step.before is not None
            del result[step.address, step.before.attributes.name]
            continue
        if step.action is StepAction.UPDATE and step.before is not None:
            del result[step.address, step.before.attributes.name]
        assert (step.address, step.after.attributes.name) not in result
        result[step.address, step.after.attributes.name] = step.after

    assert result == {(each.address, each.attributes.name): each for each in target}


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
    steps = diff([resource("a"), resource("b", image="app:2")], [resource("a"), resource("b")])

    assert [(step.action, step.address) for step in steps] == [(StepAction.UPDATE, "b")]


def test_another_name_is_a_replacement_and_the_old_resource_is_deleted() -> None:
    old, new = resource("a"), resource("a", name="2")
    steps = diff([new], [old])

    assert [(step.action, step.before, step.after) for step in steps] == [
        (StepAction.REPLACE, old, new),
        (StepAction.DELETE, old, None),
    ]
    assert steps[0].reason == "name changed"


def test_what_needs_a_replaced_resource_is_replaced_too() -> None:
    network = Resource(
        address="network.main",
        layer="network",
        isolation=Isolation.SILO,
        attributes=Network(name="n", cidr="10.0.0.0/16"),
        needs=(),
    )
    app = resource("compute.app", "network.main")
    app = app.model_copy(update={"attributes": app.attributes.model_copy(update={"in_network": "network.main"})})
    other = network.model_copy(update={"attributes": Network(name="n", cidr="10.1.0.0/16")})

    assert [(step.action, step.address) for step in diff([other, app], [network, app])] == [
        (StepAction.REPLACE, "network.main"),
        (StepAction.REPLACE, "compute.app"),
        (StepAction.DELETE, "compute.app"),
        (StepAction.DELETE, "network.main"),
    ]


def test_a_change_from_a_pool_to_a_silo_deletes_nothing_that_others_use() -> None:
    steps = diff(rendered(Preset.SILO, 50), rendered(Preset.POOLED))
    found = {(step.action, step.address): step for step in steps}

    assert set(found) == {
        (StepAction.REPLACE, "bucket.data"),
        (StepAction.CREATE, "database.main"),
        (StepAction.REPLACE, "schema.main"),
        (StepAction.UPDATE, "role.main"),
        (StepAction.DELETE, "schema.main"),
        (StepAction.DELETE, "bucket.data"),
    }
    assert found[StepAction.REPLACE, "schema.main"].reason == "placement of layer data changed from pool to silo"


def test_a_change_from_a_silo_to_a_pool_deletes_the_silo() -> None:
    steps = diff(rendered(Preset.POOLED), rendered(Preset.SILO))

    assert [step.address for step in steps if step.action is StepAction.DELETE] == [
        "schema.main",
        "database.main",
        "bucket.data",
    ]


DOCUMENTS = Table(name="documents", columns=(Column(name="id", type="text"), Column(name="size", type="integer")))


def schema(*tables: Table) -> Resource:
    attributes = Schema(name="product", in_database="database.main", database="silo_1", tables=tables)
    return Resource(address="schema.main", layer="data", isolation=Isolation.SILO, attributes=attributes, needs=())


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ((), "the table documents is built and is not removed"),
        (
            (Table(name="documents", columns=(Column(name="key", type="text"), Column(name="size", type="integer"))),),
            "the key of documents is id",
        ),
        (
            (Table(name="documents", columns=(Column(name="id", type="text"), Column(name="size", type="bigint"))),),
            "documents.size is integer",
        ),
        ((Table(name="documents", columns=(Column(name="id", type="text"),)),), "documents.size is integer"),
    ],
)
def test_a_table_with_data_keeps_its_columns_types_and_key(tables: tuple[Table, ...], reason: str) -> None:
    with pytest.raises(ChangeRefusedError, match=reason):
        diff([schema(*tables)], [schema(DOCUMENTS)])


def test_a_column_of_a_built_table_cannot_become_required_and_can_become_optional_in_place() -> None:
    key, size = DOCUMENTS.columns
    required = DOCUMENTS.model_copy(update={"columns": (key, size.model_copy(update={"required": True}))})

    with pytest.raises(ChangeRefusedError, match=r"documents\.\w+ cannot become required"):
        diff([schema(required)], [schema(DOCUMENTS)])
    (step,) = diff([schema(DOCUMENTS)], [schema(required)])
    assert step.action is StepAction.UPDATE


def test_a_table_and_a_column_can_be_added_in_place() -> None:
    wider = DOCUMENTS.model_copy(update={"columns": (*DOCUMENTS.columns, Column(name="note", type="text"))})
    notes = DOCUMENTS.model_copy(update={"name": "notes"})

    (step,) = diff([schema(wider, notes)], [schema(DOCUMENTS)])

    assert step.action is StepAction.UPDATE


def test_a_kind_cannot_become_another_in_place() -> None:
    def at(attributes: Bucket | Secret) -> Resource:
        return Resource(address="x", layer="storage", isolation=Isolation.SILO, attributes=attributes, needs=())

    steps = diff([at(Secret(name="b"))], [at(Bucket(name="a"))])

    assert [step.action for step in steps] == [StepAction.REPLACE, StepAction.DELETE]


def test_limits_and_slug_are_values_of_expressions() -> None:
    tier = tier_blueprint("any", Preset.POOLED, "${limits.connections}")
    found = render(blueprint_of(tier), tier, replace(VALUES, limits={"connections": 12}))
    role = next(each.attributes for each in found if isinstance(each.attributes, Role))

    assert role.connection_limit == 12


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
