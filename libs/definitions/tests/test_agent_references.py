"""A step names only fields of steps that have one row or values, and that have certainly run before it."""

import pytest
from agent_samples import TASK, bundle, errors
from paybill_contracts.agent_bundles import ChooseStep
from paybill_definitions.agent_rules import errors as rule_errors

OTHER = "other: {read: tasks, where: {id: input.task}, one: true}"
WRITE = "w: {update: tasks, one: true, approval: {within_minutes: 5}, irreversible: true, "
NOT_RUN = "the step other has not run on every path to this step"
UNKNOWN = "there is no other."
USES = {
    "compute": ("w: {compute: {x: other.points}}", NOT_RUN),
    "template": ("w: {compute: {x: {text: 'a ${other.owner}'}}}", NOT_RUN),
    "condition": ("w: {compute: {x: {when: 'other.points > 1'}}}", UNKNOWN),
    "choose": ("w: {choose: {a: {when: 'other.is_open', next: other}, b: {next: other}}}", UNKNOWN),
    "min": ("w: {compute: {x: {slot: integer, min: other.points, max: 5}}}", NOT_RUN),
    "max": ("w: {compute: {x: {slot: integer, min: 1, max: other.points}}}", NOT_RUN),
    "where of a read": ("w: {read: tasks, limit: 5, where: {owner: other.owner}}", NOT_RUN),
    "where": (WRITE + "where: {id: other.id}, set: {title: a}}", NOT_RUN),
    "set": (WRITE + "where: {id: task.id}, set: {owner: other.owner}}", NOT_RUN),
    "template in set": (WRITE + "where: {id: task.id}, set: {owner: {text: '${other.owner}'}}}", NOT_RUN),
    "limit in set": (
        WRITE + "where: {id: task.id}, set: {points: {slot: integer, min: 1, max: other.points}}}",
        NOT_RUN,
    ),
    "approval": (
        WRITE.replace("minutes: 5", "minutes: 5, when: 'points > other.points'")
        + "where: {id: task.id}, set: {points: 1}}",
        UNKNOWN,
    ),
    "compensation": (
        WRITE.replace(
            "irreversible: true", "compensation: {update: tasks, where: {id: task.id}, set: {title: other.id}}"
        )
        + "where: {id: task.id}, set: {title: a}}",
        NOT_RUN,
    ),
}
BRANCHES = "b: {choose: {left: {next: other}, right: {next: w}}}"


@pytest.mark.parametrize("use", USES)
def test_a_step_that_runs_later_is_refused_by_line(use: str) -> None:
    step, reason = USES[use]

    (found,) = errors(f"{TASK}\n{step}\n{OTHER}")

    assert found.startswith("w.yaml:8: ")
    assert reason in found


@pytest.mark.parametrize("use", USES)
def test_a_step_of_another_branch_is_refused_by_line(use: str) -> None:
    step, reason = USES[use]

    found = errors(f"{TASK}\n{BRANCHES}\n{OTHER}\n{step.replace('next: other', 'next: end')}")

    assert [each.partition(": ")[0] for each in found] == ["w.yaml:10"]
    assert reason in found[0]


@pytest.mark.parametrize("use", USES)
def test_a_step_without_one_row_is_refused_by_line(use: str) -> None:
    step, _ = USES[use]

    found = errors(f"{TASK}\n{OTHER.replace('one: true', 'limit: 5')}\n{step.replace('next: other', 'next: end')}")

    assert [each.partition(": ")[0] for each in found] == ["w.yaml:9"]
    assert "there is no step other with one row" in found[0] or UNKNOWN in found[0]


@pytest.mark.parametrize("use", USES)
def test_a_step_that_has_run_is_accepted_in_any_order_of_the_file(use: str) -> None:
    step, _ = USES[use]
    step = step.replace("next: other", "next: end")
    last = step if "choose" in step else f"{step[:-1]}, next: end}}"
    late = f"{TASK[:-1]}, next: other}}\n{last}\n{OTHER[:-1]}, next: w}}"

    assert errors(f"{TASK}\n{OTHER}\n{step}") == []
    assert errors(late) == []
    assert [each.name for each in bundle(late).workflows[0].steps] == ["task", "w", "other"]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("w: {compute: {x: {when: 'task.cost > 1'}}}", "task.cost may be NULL: guard it with `has cost &&` first"),
        ("w: {compute: {x: {when: 'task.points > task.cost'}}}", "task.cost may be NULL"),
        ("w: {compute: {x: {when: 'task has cost || task.cost > 1'}}}", "task.cost may be NULL"),
        ("w: {compute: {x: {when: '!(task has cost) && task.cost > 1'}}}", "task.cost may be NULL"),
        ("w: {choose: {a: {when: 'task.cost > 1', next: end}, b: {next: end}}}", "task.cost may be NULL"),
        ("w: {compute: {x: {slot: integer, min: task.cost, max: 5}}}", "task.cost may be NULL and cannot be a limit"),
        ("w: {compute: {x: {text: '${task.title}'}}}", "task.title may be NULL and cannot be part of a text"),
        ("w: {compute: {y: task.cost, x: {when: 'task.points > 1'}}}", None),
        ("w: {compute: {y: {when: 'task has cost && task.cost > 1'}}}", None),
        (
            WRITE.replace("minutes: 5", "minutes: 5, when: 'cost > 1'") + "where: {id: task.id}, set: {points: 1}}",
            "cost may be NULL",
        ),
    ],
)
def test_a_field_that_may_be_null_is_guarded(step: str, reason: str | None) -> None:
    found = errors(f"{TASK}\n{step}")

    assert [each.startswith("w.yaml:8: ") and str(reason) in each for each in found] == ([True] if reason else [])


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [
        ("a: {next: end}", False),
        ("a: {when: 'task.is_open', next: end}", True),
        ("a: {when: 'task.is_open', next: end}, otherwise: {next: end}", False),
        ("a: {when: 'task.is_open', next: end}, b: {when: '!task.is_open', next: end}", False),
        ("a: {when: 'task.is_open', next: end}, b: {when: 'task.points > 1', next: end}", True),
        ("a: {when: 'task.points > 1', next: end}, b: {when: 'task.points <= 1', next: end}", False),
        ("a: {when: 'task.points > 1', next: end}, b: {when: '1 >= task.points', next: end}", False),
        ("a: {when: 'task.points > 1', next: end}, b: {when: 'task.points < 1', next: end}", True),
        ("a: {when: 'task.owner == \"a\"', next: end}, b: {when: 'task.owner != \"a\"', next: end}", False),
        ("a: {when: 'task.owner == \"a\"', next: end}, b: {when: 'task.owner != \"b\"', next: end}", True),
        ("a: {when: 'task has cost && task.cost > 1', next: end}, b: {when: '!(task has cost)', next: end}", True),
        (
            (
                "a: {when: 'task has cost && task.cost > 1', next: end}, b: {when: '!(task has cost)', next: end}, "
                "c: {when: 'task has cost && task.cost <= 1', next: end}"
            ),
            False,
        ),
        (
            (
                "a: {when: 'task.is_open && task.points > 1', next: end}, "
                "b: {when: '!(task.is_open && task.points > 1)', next: end}"
            ),
            False,
        ),
        ("a: {when: 'true', next: end}", False),
        ("a: {when: 'false', next: end}", True),
        (
            (
                f"a: {{when: '{' || '.join(f'task.points == {number}' for number in range(11))}', next: end}}, "
                "b: {when: '!task.is_open', next: end}, c: {when: 'task.is_open', next: end}"
            ),
            True,
        ),
    ],
)
def test_an_option_of_a_choice_applies_to_every_row(options: str, *, is_refused: bool) -> None:
    found = errors(f"{TASK}\nw: {{choose: {{{options}}}}}")

    assert [each.startswith("w.yaml:8: it could happen that no option applies") for each in found] == (
        [True] if is_refused else []
    )


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        # every step is reachable and can end
        ("a: {choose: {x: {next: end}}}\nb: {read: notes, limit: 1}", "w.yaml:8: no step leads to b"),
        (
            "a: {read: notes, limit: 1, repeat: 2, next: b}\nb: {read: notes, limit: 1, repeat: 2, next: a}",
            "w.yaml:7: after a, b no path leads to the end",
        ),
        # cycles are bounded
        ("a: {choose: {x: {next: end}, y: {next: a}}}", "w.yaml:7: a is in a cycle: write with `repeat`"),
        ("a: {read: notes, limit: 1, repeat: 0}", "w.yaml:7: steps.a.repeat: write 1 or more"),
        # every argument is typed and bound
        ("a: {read: notes, limit: 1, where: {task: input.x}}", "w.yaml:7: there is no input x"),
        ("a: {read: tasks, limit: 1, where: {points: text}}", "w.yaml:7: 'text' is no value of points"),
        ("a: {compute: {x: b.y}}", "w.yaml:7: there is no step b"),
        # every step is inside the grants
        (
            "a: {read: tasks, one: true, columns: [id, price]}",
            "w.yaml:7: no grant permits the role clerk to read tasks",
        ),
        (
            f"{TASK}\na: {{delete: notes, one: true, where: {{id: a}}, irreversible: true}}",
            "w.yaml:8: no grant permits",
        ),
        # `one` and row caps are set
        ("a: {read: notes}", "w.yaml:7: steps.a: it needs `one: true`, or `limit`"),
        (
            f"{TASK}\n{WRITE.replace('one: true, ', '')}where: {{id: a}}, set: {{title: a}}}}",
            "w.yaml:8: steps.w: it needs",
        ),
        (
            "a: {delete: tasks, where: {id: a}, irreversible: true}",
            "w.yaml:7: steps.a: it needs `one: true`, or `limit`",
        ),
        (
            "a: {delete: tasks, where: {id: a}, limit: 0, irreversible: true}",
            "w.yaml:7: steps.a.limit: write 1 or more",
        ),
        (
            "a: {delete: tasks, where: {id: a}, limit: 51, irreversible: true}",
            "w.yaml:5: a alone may need 51 rows, of 50",
        ),
        # each write has a compensation or is declared irreversible
        ("a: {create: tasks, set: {id: run.id, owner: a, points: 1, is_open: true}}", "w.yaml:7: irreversible or"),
        ("a: {update: tasks, one: true, where: {id: a}, set: {title: a}}", "w.yaml:7: irreversible or compensation"),
        ("a: {delete: tasks, one: true, where: {id: a}}", "w.yaml:7: irreversible or compensation"),
    ],
)
def test_each_rule_of_the_checks_at_publish_names_the_line(steps: str, reason: str) -> None:
    columns = "id, owner, title, points, is_open"
    grants = (
        f'@id("tasks") @columns("{columns}") permit(principal in Role::"clerk", action, resource is tasks);\n'
        '@id("notes") @columns("*") permit(principal in Role::"clerk", action == Action::"read", resource is notes);\n'
    )

    found = errors(steps, grants=grants)

    assert found
    assert found[0].startswith(reason), found


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ("", "w.yaml:1: limits: it is required"),
        ("limits: {calls: 5, minutes: 5}\n", "w.yaml:5: limits.rows: it is required"),
        ("limits: {calls: 5, rows: -1, minutes: 5}\n", "w.yaml:5: limits.rows: write 0 or more"),
        ("limits: {calls: 5, rows: 50, minutes: 10081}\n", "w.yaml:5: limits.minutes: write 10080 or less"),
        ("limits: {calls: 5, rows: 50, minutes: 5, agent_day: {calls: 5}}\n", "w.yaml:5: limits.agent_day.rows: it is"),
    ],
)
def test_limits_are_present(limits: str, reason: str) -> None:
    assert errors(TASK, limits=limits)[0].startswith(reason)


def test_options_of_one_name_are_refused() -> None:
    known = bundle(f"{TASK}\nw: {{choose: {{a: {{when: task.is_open, next: end}}, b: {{next: end}}}}}}")
    (workflow,) = known.workflows
    task, choose = workflow.steps
    assert isinstance(choose, ChooseStep)
    twice = choose.model_copy(update={"options": (*choose.options, choose.options[0])})

    found = list(
        rule_errors(known.model_copy(update={"workflows": (workflow.model_copy(update={"steps": (task, twice)}),)}))
    )

    assert [(each.path, each.reason) for each in found] == [
        (("workflows", "w", "steps", "w", "choose"), "the option a is defined 2 times")
    ]
