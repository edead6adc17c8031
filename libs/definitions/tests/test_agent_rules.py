"""Rules of bundles: order of steps, limits, business keys, sizes, rights and drift; and the one canonical form."""

import random
from typing import Any

import pytest
import yaml
from agent_samples import BLUEPRINT, GRANTS, TASK, TASKS, bundle, errors, errors_of, files
from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_contracts.agent_bundles import Bundle, TableRights
from paybill_contracts.event import canonical, digest
from paybill_contracts.kinds import Column
from paybill_definitions.agent_bundle import BundleFileError, read_bundle
from paybill_definitions.agent_differences import differences
from paybill_definitions.agent_drift import drift
from paybill_definitions.agent_rights import rights
from paybill_definitions.agent_rules import errors as rule_errors
from paybill_definitions.agent_rules import normalised

FIVE = "limits: {calls: 5, rows: 50, minutes: 5, "
WRITE = "add: {create: notes, set: {id: run.id, task: task.id}, irreversible: true}"
CHANGE = (
    "change: {update: tasks, limit: 10, irreversible: true, where: {owner: task.owner}, "
    "set: {points: {slot: integer, min: 1, max: 9}}}"
)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            "task: {read: tasks, one: true, next: b}\na: {read: notes, limit: 1}\nb: {read: notes, limit: 1}",
            "w.yaml:8: no step leads to a; remove it, or name it in `next`",
        ),
        ("a: {read: notes, limit: 1, next: a}", "w.yaml:7: after a no path leads to the end; add `next: end` to one"),
        ("a: {read: notes, limit: 1, next: z}", "w.yaml:7: there is no step z, only a"),
        (
            "a: {read: notes, limit: 1}\nb: {choose: {again: {next: a}, stop: {next: end}}}",
            "w.yaml:7: a is in a cycle: write with `repeat` how often it may be executed",
        ),
        (
            "a: {read: notes, limit: 1, repeat: 2}\nb: {choose: {again: {next: a}, stop: {next: end}}}",
            "w.yaml:8: b is in a cycle",
        ),
        (
            (
                "a: {read: notes, limit: 1, repeat: 3}\nb: {read: notes, limit: 1, repeat: 2}\n"
                "c: {choose: {again: {next: a}, stop: {next: end}}, repeat: 3}"
            ),
            "w.yaml:8: b is in the cycle of a: both need the same `repeat`, such as 3",
        ),
        (
            (
                "a: {read: notes, limit: 1, repeat: 3}\nb: {choose: {on: {next: c}, stop: {next: end}}, repeat: 3}\n"
                "c: {read: notes, limit: 1, repeat: 3, next: a}"
            ),
            "w.yaml:9: c leads back to a, which may be used up; only an option of a `choose` leads back",
        ),
        (
            (
                "a: {read: notes, limit: 1, repeat: 3}\nb: {read: notes, limit: 1, repeat: 3}\n"
                "c: {choose: {in: {next: b}, out: {next: a}, stop: {next: end}}, repeat: 3}"
            ),
            "w.yaml:8: b is in a cycle within the cycle of a; lead back to a alone",
        ),
        (
            (
                "a: {choose: {left: {next: b}, right: {next: c}}}\nb: {read: notes, limit: 1, repeat: 3}\n"
                "c: {choose: {again: {next: b}, stop: {next: end}}, repeat: 3}"
            ),
            "w.yaml:9: steps outside of the cycle lead to b and to c in it; lead to one of them",
        ),
        (
            (
                "a: {compute: {x: {slot: boolean}}, repeat: 3}\n"
                "b: {choose: {again: {next: a}, stop: {next: end, when: 'a.x'}}, repeat: 3}"
            ),
            "w.yaml:8: it could happen that no option applies when a is used up, as its `repeat` says; add one",
        ),
        (
            "a: {choose: {again: {next: a}}, repeat: 3}",
            "w.yaml:7: after a no path leads to the end",
        ),
        ("a: {read: notes, limit: 1, repeat: 101}", "w.yaml:7: steps.a.repeat: write 100 or less"),
        ("input: {read: notes, limit: 1}", "w.yaml:7: a step cannot have the name input"),
        ("end: {read: notes, limit: 1}", "w.yaml:7: a step cannot have the name end"),
        ("a__b: {read: notes, limit: 1}", "w.yaml:7: a step cannot have the name a__b"),
        (
            (
                "a: {choose: {left: {next: b}, right: {next: c}}}\nb: {read: tasks, one: true, next: c}\n"
                "c: {read: notes, limit: 1, where: {id: b.id}}"
            ),
            "w.yaml:9: the step b has not run on every path to this step",
        ),
    ],
)
def test_steps_are_reachable_end_and_use_what_has_run(steps: str, reason: str) -> None:
    assert reason in errors(steps)[0]


def test_a_step_uses_what_has_run_on_every_path() -> None:
    steps = (
        "a: {choose: {left: {next: b}, right: {next: c}}}\n"
        "b: {read: tasks, one: true, next: d}\n"
        "c: {read: tasks, one: true}\n"
        "d: {compute: {x: {when: 'true'}}, repeat: 3}\n"
        "e: {choose: {again: {next: d, when: 'd.x'}, stop: {next: f}}, repeat: 3}\n"
        "f: {read: notes, limit: 1}"
    )

    assert errors(steps) == []


@pytest.mark.parametrize(
    "steps",
    [
        "a: {choose: {again: {next: a}, stop: {next: end}}, repeat: 3}",
        "a: {choose: {in: {next: b}, stop: {next: end}}}\nb: {choose: {more: {next: b}, stop: {next: end}}, repeat: 3}",
        (
            "a: {compute: {x: {slot: boolean}}, repeat: 3}\n"
            "b: {choose: {again: {next: a}, on: {next: end, when: 'a.x'}, off: {next: end, when: '!a.x'}}, repeat: 3}"
        ),
        (
            "a: {choose: {left: {next: b}, right: {next: c}}, repeat: 3}\n"
            "b: {read: notes, limit: 1, repeat: 3, next: d}\nc: {read: notes, limit: 1, repeat: 3}\n"
            "d: {choose: {again: {next: a}, stop: {next: end}}, repeat: 3}"
        ),
    ],
)
def test_a_cycle_that_begins_again_at_one_step_is_accepted(steps: str) -> None:
    assert errors(steps) == []


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ("limits: {rows: 5, minutes: 5}", "w.yaml:5: limits.calls: it is required"),
        ("limits: {calls: 5, rows: 5}", "w.yaml:5: limits.minutes: it is required"),
        ("limits: {calls: 0, rows: 50, minutes: 5}", "w.yaml:5: a run needs at least one call"),
        ("limits: {calls: 5, rows: 9, minutes: 5}", "w.yaml:5: change alone may need 10 rows, of 9"),
        (FIVE + "sum: {tasks.points: 89}}", "w.yaml:5: change alone may add 90 to the sum of tasks.points, of 89"),
        (FIVE + "sum: {tasks.owner: 1}}", "w.yaml:5: tasks.owner is no column of whole"),
        (FIVE + "sum: {tasks.cost: 1}}", "w.yaml:5: no step writes tasks.cost"),
        (FIVE + "sum: {tasks: 1}}", "w.yaml:5: limits.sum.tasks: write"),
        (FIVE + "agent_day: {calls: 4, rows: 50}}", "w.yaml:5: a day covers at least one"),
        (
            FIVE + "sum: {tasks.points: 90}, tenant_day: {calls: 5, rows: 50}}",
            "w.yaml:5: a day covers at least one run",
        ),
        ("limits: {calls: 5, rows: 50, minutes: 0}", "w.yaml:5: limits.minutes: write 1 or more"),
        (FIVE + "runs: 5}", "w.yaml:5: limits.runs: there is no such field"),
        ("limits: {calls: '5', rows: 50, minutes: 5}", "w.yaml:5: limits.calls: write a whole number"),
    ],
)
def test_limits_cover_one_execution(limits: str, reason: str) -> None:
    found = errors(f"{TASK}\n{CHANGE}", limits=f"{limits}\n")

    assert reason in found[0]


def test_a_sum_of_a_personal_column_is_no_limit() -> None:
    resources = "tasks: {untrusted: [title], hidden: [secret], personal: [points]}\n"

    found = errors(f"{TASK}\n{CHANGE}", limits=f"{FIVE}sum: {{tasks.points: 90}}}}\n", resources=resources)

    assert ["tasks.points is personal" in each for each in found] == [True]


def test_a_table_that_cedar_cannot_name_is_no_resource() -> None:
    known = bundle(TASK, resources="tasks: {}\nnotes: {}\nold-notes: {}\n")

    assert [each.name for each in known.resources] == ["notes", "tasks"]


def test_limits_that_cover_one_execution_are_accepted() -> None:
    day = "{calls: 5, rows: 50, sum: {tasks.points: 90}}"
    limits = f"{FIVE}sum: {{tasks.points: 90}}, agent_day: {day}, tenant_day: {day}}}\n"

    assert errors(f"{TASK}\n{CHANGE}", limits=limits) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("once: [input.task]\n", "", "w.yaml:1: add writes: name the inputs of the business key"),
        ("once: [input.task]", "once: [input.x]", "w.yaml:4: there is no input x"),
        ("once: [input.task]", "once: [task.id]", "w.yaml:4: once.0: the business key is made of inputs"),
        ("task: tasks.id,", "task: tasks.x,", "w.yaml:3: there is no column tasks.x"),
        ("task: tasks.id,", "task: tasks.secret,", "w.yaml:3: tasks.secret is hidden; no input has its type"),
        ("task: tasks.id,", "task: tasks.price,", "w.yaml:3: tasks.price is numeric; an input is text"),
        ("task: tasks.id,", "task: text,", "w.yaml:3: input.task: write `table.column`"),
        ("workflow: w", "workflow: a__b", "w.yaml:1: a__b: names of tools use __; choose another name"),
        ("workflow: w", "workflow: W", "w.yaml:1: workflow: write"),
        ("role: clerk", "role: clerk\nrole: boss", "w.yaml:3: role is written twice, first in line 2"),
        ("role: clerk", "role: clerk\nroles: boss", "w.yaml:3: roles: there is no such field"),
        ("role: clerk", 'role: clerk\ndescription: "a\\nb"', "w.yaml:3: description: remove character 2, U+000A"),
        ("input: {task: tasks.id", "input: {task: &x tasks.id, other: *x", "w.yaml:3: an alias is refused"),
        ("limits: ", "<<: {role: x}\nlimits: ", "w.yaml:5: <<: there is no such field"),
    ],
)
def test_the_head_of_a_workflow_is_checked(old: str, new: str, reason: str) -> None:
    texts = files(f"{TASK}\n{WRITE}")
    assert old in texts["w.yaml"]

    found = errors_of(texts | {"w.yaml": texts["w.yaml"].replace(old, new, 1)})

    assert found
    assert reason in found[0]


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ("people: {}", "resources.yaml:1: the blueprint work has no table people, only notes, old-notes, tasks"),
        ("old-notes: {hidden: [id]}", "resources.yaml:1: Cedar cannot name the table old-notes"),
        ("tasks:\n  hidden: [secret]\n  untrusted:\n  - title\n  - x", "resources.yaml:5: tasks has no column x"),
        ("tasks: {hidden: [id]}", "resources.yaml:1: id is the key of tasks and cannot be hidden"),
        ("tasks: {secret: [id]}", "resources.yaml:1: tasks.secret: there is no such field"),
        ("tasks: {also_changes: [people]}", "resources.yaml:1: the blueprint has no table people"),
        ("tasks: {}\ntasks: {}", "resources.yaml:2: tasks is written twice, first in line 1"),
        ("tasks: &x {}\nnotes: *x", "resources.yaml:2: an alias is refused; write the value again"),
        ("- tasks", "resources.yaml:1: the file: "),
        ("", "resources.yaml:1: the file is empty"),
        (
            "tasks: {untrusted: " + "[" * 200 + "]" * 200 + "}",
            "resources.yaml:1: no YAML: nested too deeply, in more than 100 levels",
        ),
        ("tasks: {}\n" + "#" * 1024 * 1024, "resources.yaml:1: the files have more than 1048576 characters together"),
        ("tasks: {}\n" + "#" * 600 * 1024, "resources.yaml:1: the file is larger than 524288 bytes"),
        ("tasks: {", "resources.yaml:1: no YAML: "),
        (
            "tasks: !!python/object:os.system {}",
            "resources.yaml:1: the tag tag:yaml.org,2002:python/object:os.system is",
        ),
    ],
)
def test_labels_are_checked(resources: str, reason: str) -> None:
    assert errors(TASK, resources=resources)[0].startswith(reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"grants.cedar": None}, "grants.cedar:1: the file is missing"),
        ({"notes.txt": "a"}, "notes.txt:1: a bundle has resources.yaml, grants.cedar and workflows named *.yaml"),
        ({"../x.yaml": "a"}, "../x.yaml:1: a bundle has resources.yaml"),
        ({"v.yaml": files(TASK)["w.yaml"]}, "w.yaml:1: v.yaml has a workflow w, too; rename one"),
        ({f"w{number}.yaml": "a" for number in range(101)}, "resources.yaml:1: a bundle has 100 workflows at most"),
    ],
)
def test_the_files_of_a_bundle_are_checked(changes: dict[str, str | None], reason: str) -> None:
    texts = {name: text for name, text in (files(TASK) | changes).items() if text is not None}

    assert errors_of(texts)[0].startswith(reason)


def test_all_errors_of_all_files_are_reported_at_once() -> None:
    texts = files("a: {read: x, one: true}\nb: {read: y, one: true}")
    texts |= {"v.yaml": texts["w.yaml"].replace("workflow: w", "workflow: v").replace("limits", "limit")}

    assert [each.partition(": ")[0] for each in errors_of(texts)] == [
        "v.yaml:1",
        "v.yaml:5",
        "v.yaml:7",
        "v.yaml:8",
        "w.yaml:7",
        "w.yaml:8",
    ]


def test_rights_are_exactly_what_workflows_use() -> None:
    grants = (
        '@id("a") @columns("id, owner, points") permit(principal in Role::"clerk", action, resource is tasks)\n'
        "when { resource.is_open };\n"
        '@id("b") @columns("*") permit(principal, action, resource is notes);\n'
        '@id("c") forbid(principal, action == Action::"delete", resource is tasks) when { resource has due };\n'
        '@id("d") @columns("*") permit(principal in Role::"boss", action, resource is tasks)\n'
        "when { resource has ref };\n"
    )
    change = CHANGE.replace("irreversible", 'approval: {when: "has_title(0)", within_minutes: 5}, irreversible')
    change = change.replace("has_title(0)", 'resource has title && title like \\"a*\\"')

    one = rights(bundle(f"{TASK}\n{CHANGE}", grants=grants))
    deletion = "new: {delete: tasks, one: true, where: {id: task.id}, irreversible: true}"
    two = rights(bundle(f"{TASK}\n{change}\n{deletion}", grants=grants))

    assert one == (TableRights(table="tasks", select=("id", "is_open", "owner", "points"), update=("points",)),)
    assert two == (
        TableRights(
            table="tasks", select=("due", "id", "is_open", "owner", "points", "title"), update=("points",), delete=True
        ),
    )


def test_drift_names_what_the_blueprint_does_not_have_any_more() -> None:
    known = bundle(TASK)
    key, owner, title, *others = TASKS.columns
    changed = TASKS.model_copy(
        update={
            "columns": (
                key,
                owner.model_copy(update={"required": False}),
                title.model_copy(update={"type": "jsonb"}),
                *others[1:],
                Column(name="added", type="text"),
            )
        }
    )

    assert list(drift(known, BLUEPRINT)) == []
    assert [each.reason for each in drift(known, BLUEPRINT.model_copy(update={"tables": (changed,)}))] == [
        "work has no table notes",
        "tasks.owner may be NULL in the blueprint in force",
        "tasks.title is jsonb in the blueprint in force, not text",
        "the blueprint in force has no column tasks.points",
    ]
    assert [each.reason for each in drift(known, BLUEPRINT.model_copy(update={"name": "other"}))] == [
        "the bundle is for the blueprint work, not for other"
    ]


def test_differences_name_the_part_and_its_path() -> None:
    before, after = bundle(f"{TASK}\n{CHANGE}"), bundle(f"{TASK}\n{CHANGE.replace('max: 9', 'max: 8')}\n{WRITE}")

    found = {(each.of, each.change): (each.before, each.after) for each in differences(before, after)}

    assert found["workflow w", "steps.change.set.points"] == (
        "{slot: integer, min: 1, max: 9}",
        "{slot: integer, min: 1, max: 8}",
    )
    assert found["workflow w", "changed"] == ("role clerk, steps task, change", "role clerk, steps task, change, add")
    assert found["workflow w", "steps.add.set.task"] == (None, "task.id")
    assert list(differences(before, before)) == []


def _shuffled(value: Any, randomness: random.Random) -> Any:
    """Returns YAML's plain values with the keys of mappings in another order; the order of steps counts."""
    if not isinstance(value, dict):
        return value
    items = [(key, value[key] if key == "steps" else _shuffled(value[key], randomness)) for key in value]
    randomness.shuffle(items)
    return dict(items)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_the_order_of_keys_and_files(randomness: random.Random) -> None:
    texts = files(f"{TASK}\n{CHANGE}\n{WRITE}") | {
        "v.yaml": files(TASK)["w.yaml"].replace("workflow: w", "workflow: v")
    }
    expected = read_bundle(texts, BLUEPRINT)
    names = list(texts)
    randomness.shuffle(names)
    other = {
        name if name in {"resources.yaml", "grants.cedar"} else f"other-{name}": texts[name]
        if name == "grants.cedar"
        else yaml.safe_dump(_shuffled(yaml.safe_load(texts[name]), randomness), sort_keys=False)
        for name in names
    }

    found = read_bundle(other, BLUEPRINT)

    assert digest(found) == digest(expected)
    assert Bundle.model_validate_json(canonical(found.model_dump(mode="json"))) == expected


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_a_canonical_bundle_in_any_order_has_one_hash(randomness: random.Random) -> None:
    grants = GRANTS + '@id("b") @columns("*") permit(principal, action, resource);'
    known = bundle(f"{TASK}\n{WRITE}", grants=grants)

    def shuffled(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(randomness.sample(parts, len(parts)))

    other = known.model_copy(
        update={
            "resources": shuffled(known.resources),
            "grants": shuffled(
                tuple(
                    each.model_copy(update={"verbs": shuffled(each.verbs), "resources": shuffled(each.resources)})
                    for each in known.grants
                )
            ),
            "workflows": tuple(each.model_copy(update={"inputs": shuffled(each.inputs)}) for each in known.workflows),
        }
    )

    assert digest(normalised(other)) == digest(known)
    assert list(rule_errors(normalised(other))) == []


def test_a_bundle_that_does_not_fit_into_a_fact_is_refused() -> None:
    large = "".join(f"s{number}: {{compute: {{x: {'a' * 12_000}}}}}\n" for number in range(41))

    with pytest.raises(
        BundleFileError, match=r"resources.yaml:1: the bundle has \d+ bytes in canonical form, of 491520"
    ):
        read_bundle(files(large, limits="limits: {calls: 41, rows: 50, minutes: 5}\n"), BLUEPRINT)
