"""Statements of a bundle need exactly the rights that are granted for it, and what the rules accept compiles."""

import time
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_agent_gateway.domain.workflows import CompiledBundle, named
from paybill_agent_gateway.statements import Statement, compile_read, compile_write
from paybill_contracts.agent_bundles import Bundle, CreateStep, ReadStep, TableRights, UpdateStep, Verb
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.event import digest
from paybill_contracts.kinds import Column, Table
from paybill_definitions.agent_bundle import BundleFileError, read_bundle
from paybill_definitions.agent_conditions import names
from paybill_definitions.agent_rights import rights

TASKS = Table(
    name="tasks",
    columns=(
        Column(name="id", type="text"),
        Column(name="owner", type="text", required=True),
        Column(name="title", type="text"),
        Column(name="points", type="integer", required=True),
        Column(name="is_open", type="boolean", required=True),
        Column(name="due", type="date"),
        Column(name="at", type="timestamptz"),
        Column(name="ref", type="uuid"),
    ),
)
BLUEPRINT = Blueprint(name="work", version=1, regions=(), cells=(), tiers=(), tables=(TASKS,))
GRANTS = """\
@id("reads") @columns("id, owner, title, points, is_open, at")
permit(principal in Role::"clerk", action == Action::"read", resource) when { resource.is_open };
@id("writes") @columns("id, owner, points") permit(principal in Role::"clerk", action, resource)
when { resource has due };
@id("creates") @columns("*") permit(principal, action == Action::"create", resource);
@id("old") forbid(principal, action == Action::"delete", resource) when { resource.points > 5 && resource has at };
@id("other") @columns("*") permit(principal in Role::"boss", action, resource) when { resource has ref };
"""
WORKFLOW = """\
workflow: w
role: clerk
input: {task: tasks.id}
once: [input.task]
limits: {calls: 9, rows: 50, minutes: 5}
steps:
  task: {read: tasks, where: {id: input.task}, columns: [id, owner], order: [-points], one: true}
  add: {create: tasks, set: {id: run.id, owner: task.owner, points: 1, is_open: true}, irreversible: true}
  change:
    update: tasks
    where: {owner: task.owner}
    set: {points: {slot: integer, min: 1, max: 9}}
    limit: 5
    approval: {when: 'resource has title && title like "a*"', within_minutes: 5}
    irreversible: true
  remove: {delete: tasks, where: {id: task.id}, one: true, irreversible: true}
"""


def bundle(grants: str = GRANTS, workflow: str = WORKFLOW, resources: str = "tasks: {}\n") -> Bundle:
    """Returns the bundle of these files."""
    files = {"resources.yaml": resources, "grants.cedar": grants, "w.yaml": workflow}
    return read_bundle(files, BLUEPRINT)


def used(content: Bundle) -> TableRights:
    """Returns what the compiled statements of all steps read, insert, update and delete."""
    compiled = CompiledBundle.of(digest(content), content)
    resource = compiled.resources["tasks"]
    columns: dict[Verb, set[str]] = defaultdict(set)
    for step in content.workflows[0].steps:
        assert hasattr(step, "resource")
        verb = Verb(step.kind)
        condition = compiled.grants.row_condition("clerk", verb, "tasks", named(step))
        statement: Statement
        if isinstance(step, ReadStep):
            statement = compile_read(step, resource, condition, "product")
            columns[Verb.READ] |= {*named(step), *condition.names}
        else:
            rule = step.approval.when if step.approval else None
            shown = {name for name in (names(rule) if rule is not None else ()) if "." not in name}
            shown |= compiled.grants.readable("clerk", "tasks") if step.approval else set()
            statement = compile_write(step, resource, condition, "product", shown)
        columns[Verb.READ] |= {each.name for each in statement.columns}
        columns[verb] |= set(step.set) if isinstance(step, CreateStep | UpdateStep) else set()
    return TableRights(
        table="tasks",
        select=tuple(sorted(columns[Verb.READ])),
        insert=tuple(sorted(columns[Verb.CREATE])),
        update=tuple(sorted(columns[Verb.UPDATE])),
        delete=True,
    )


def test_the_rights_are_exactly_what_the_statements_use() -> None:
    content = bundle()

    assert rights(content) == (used(content),)
    assert "ref" not in rights(content)[0].select


def test_rights_of_many_steps_and_long_grants_take_little_time() -> None:
    condition = " && ".join(["resource.points > 5"] * 60)
    grants = GRANTS + "".join(
        f'@id("r{index}") @columns("*") permit(principal, action, resource) when {{ {condition} }};\n'
        for index in range(50)
    )
    content = bundle(grants)
    many = content.model_copy(update={"workflows": content.workflows * 500})
    begun = time.process_time()

    found = rights(many)

    assert time.process_time() - begun < 1
    assert found == rights(content)


def test_what_a_role_may_read_is_selected_for_approvers_of_its_writes() -> None:
    unapproved = WORKFLOW.replace(
        "    approval: {when: 'resource has title && title like \"a*\"', within_minutes: 5}\n", ""
    )
    forbidden = GRANTS + '@id("never") forbid(principal in Role::"boss", action == Action::"read", resource);\n'
    boss = GRANTS + '@id("all") @columns("*") permit(principal in Role::"boss", action, resource);\n'

    selected = [set(rights(each)[0].select) for each in (bundle(), bundle(workflow=unapproved), bundle(forbidden))]

    assert selected[0] - selected[1] == {"title"}
    assert selected[2] == selected[0]
    assert "ref" in rights(bundle(boss, WORKFLOW.replace("role: clerk", "role: boss")))[0].select


def test_computed_values_that_follow_from_personal_ones_are_personal() -> None:
    computed = """\
  a:
    compute:
      copied: task.owner
      text: {text: "for ${task.owner}"}
      same: {when: 'task.owner == "x"'}
      limited: {slot: integer, min: 1, max: task.points}
      twice: {when: 'b.same'}
      plain: {text: "${task.id}"}
      open: {when: task.is_open}
"""
    steps = WORKFLOW[: WORKFLOW.index("  add:")].replace(
        "columns: [id, owner]", "columns: [id, owner, points, is_open]"
    )
    first = computed.replace("  a:", "  b:").replace("      twice: {when: 'b.same'}\n", "")
    content = bundle(workflow=steps + first + computed, resources="tasks: {personal: [owner, points]}\n")

    fields = CompiledBundle.of(digest(content), content).workflows["w"].fields

    found = {name.removeprefix("a.") for name, each in fields.items() if name.startswith("a.") and each.personal}
    assert found == {"copied", "text", "same", "limited", "twice"}


COLUMNS = st.sampled_from([each.name for each in TASKS.columns])
CONSTANTS = st.sampled_from(
    ['"a"', "5", "true", 'datetime("2026-01-31")', '"01234567-89ab-cdef-0123-456789abcdef"', "resource.owner"]
)
ATOMS = st.one_of(
    COLUMNS.map("resource has {}".format),
    COLUMNS.map('(resource has {0} && resource.{0} like "a*")'.format),
    COLUMNS.map('(resource has {0} && ["a"].contains(resource.{0}))'.format),
    st.tuples(COLUMNS, st.sampled_from(["==", "!=", "<", ">="]), CONSTANTS).map(
        "(resource has {0[0]} && resource.{0[0]} {0[1]} {0[2]})".format
    ),
    st.just("resource.is_open"),
)


@settings(max_examples=200)
@given(st.recursive(ATOMS, lambda part: st.tuples(part, part).map("!({0[0]} && !({0[1]}))".format), max_leaves=4))
def test_whatever_the_rules_accept_compiles(text: str) -> None:
    grants = f'@id("x") @columns("*") permit(principal, action, resource) when {{ {text} || true }};'
    try:
        content = bundle(grants)
    except BundleFileError:
        return

    compiled = CompiledBundle.of(digest(content), content)

    condition = compiled.grants.row_condition("clerk", Verb.READ, "tasks", frozenset({"id"}))
    step = next(each for each in content.workflows[0].steps if isinstance(each, ReadStep))
    assert compile_read(step, compiled.resources["tasks"], condition, "product").sql
