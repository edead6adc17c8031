"""Steps of workflows: arguments are typed and bound, columns permitted, and untrusted values need an approval."""

import re

import pytest
from agent_samples import GRANTS, TASK, errors

NEW = "new: {create: tasks, irreversible: true, set: {id: run.id, owner: input.task, points: 1, is_open: true"
WHEN = f"{TASK}\na: {{compute: {{x: {{when: "
DELETE = "a: {delete: tasks, where: {id: a}, one: true, "
CHANGE = "change: {update: tasks, one: true, irreversible: true, where: {id: task.id}, set: "


@pytest.mark.parametrize(
    "value",
    [
        "title: text",
        "title: {text: 'for ${task.id} ${input.task} ${run.id}'}",
        "title: {value: task.id}",
        "title: null",
        "title: {slot: text, max: 10}",
        "title: {slot: choice, of: [a, b]}",
        "cost: 9007199254740991",
        "cost: task.points",
        "cost: {slot: integer, min: 1, max: task.points}",
        "cost: {slot: integer, min: 1, max: 5}",
        "points: {slot: integer, min: 1, max: 5}",
        "points: {slot: integer, min: 1, max: task.points}",
        "is_open: {slot: boolean}",
        "due: 2026-01-31",
        "due: input.day",
        "due: {slot: date, min: 2026-01-01, max: 2026-12-31}",
        "at: 2026-01-31T08:00:00Z",
        "at: {slot: time, min: 2026-01-01T00:00:00Z, max: 2026-12-31T00:00:00+01:00}",
        "ref: 01234567-89ab-cdef-0123-456789abcdef",
        "price: '12.50'",
        "extra: '{\"a\": 1}'",
        "raw: task.raw",
    ],
)
def test_an_argument_that_fits_its_column_is_accepted(value: str) -> None:
    assert (
        errors(f"{TASK}\nchange: {{approval: {{within_minutes: 5}}, {CHANGE.removeprefix('change: {')}{{{value}}}}}")
        == []
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("title: 5", "5 is no value of title: write a text without NUL"),
        ("title: true", "True is no value of title"),
        ("title: 1.5", "numbers with a fraction are texts"),
        ("title: [a]", "write a text of 100,000 characters at most, a whole number, true, false or null"),
        ("title: {other: a}", "write a value, `step.field`, {slot: …}, {text: …} or {value: …}"),
        ("title: {value: a, other: b}", "other: there is no such field"),
        ("title: {slot: text, max: 5, mx: 1}", "mx: there is no such field"),
        ("title: {slot: words}", "slot: write 'text', 'integer', 'boolean', 'choice', 'date' or 'time'"),
        ("title: {slot: text}", "a text needs `max`"),
        ("title: {slot: text, max: 0}", "a text needs `max`"),
        ("title: {slot: text, max: 100001}", "a text needs `max`: 1 to 100000 characters"),
        ("title: {slot: text, min: 1, max: 5}", "a text has no such limit"),
        ("title: {slot: choice}", "a choice needs `of`: 1 to 100 different texts"),
        ("title: {slot: choice, of: [a, a]}", "a choice needs `of`"),
        ("title: {slot: boolean, of: [a]}", "`of` belongs to a choice"),
        ("is_open: {slot: boolean, min: 1}", "a boolean has no such limit"),
        ("title: acme.com", "there is no step acme with one row or with values, only task; for a constant"),
        ("title: task.secret", "the step task has no field secret"),
        ("title: task.missing", "the step task has no field missing"),
        ("title: input.missing", "there is no input missing, only day, task"),
        ("title: run.name", "a run has the id alone"),
        ("title: task.points", "task.points is integer, and title is text"),
        ("title: {text: 'a ${task}'}", r"\$\{task\} is no reference"),
        ("title: {text: 'a ${task.title}'}", "task.title may be NULL and cannot be part of a text"),
        ("title: {text: 'a ${task.raw}'}", "task.raw is bytea and cannot be part of a text"),
        ("owner: task.title", "task.title may be NULL, and owner may not"),
        ("owner: null", "owner cannot be NULL"),
        ("points: 2147483648", "2147483648 is no value of points: write a whole number of 32 bits"),
        ("points: task.cost", "task.cost is bigint, and points is integer"),
        ("points: {slot: integer, min: 1, max: 2147483648}", "a slot of integer is bigint, and points is integer"),
        ("points: {slot: integer}", "a slot of integer is bigint, and points is integer"),
        ("cost: {slot: integer, min: 5, max: 1}", "the smallest value 5 is above the greatest 1"),
        ("cost: {slot: integer, min: a, max: 1}", "'a' is no value of limit"),
        ("cost: {slot: integer, min: 1, max: task.cost}", "task.cost may be NULL and cannot be a limit"),
        ("cost: {slot: integer, min: 1, max: task.owner}", "task.owner is text and no limit of a slot of integer"),
        ("cost: {slot: integer, min: 1, max: input.task}", "a limit is a constant or a field of an earlier step"),
        ("due: 2026-1-31", "'2026-1-31' is no value of due: write a date such as 2026-01-31"),
        ("due: {slot: date, min: 2026-12-31, max: 2026-01-01}", "the smallest value 2026-12-31 is above"),
        ("at: 2026-01-31 08:00:00", "a time needs its zone"),
        ("at: '2026-01-31T08:00:00+01:00'", "is no value of at: write a time in UTC"),
        ("ref: ABC", "'ABC' is no value of ref: write a uuid in lower case with dashes"),
        ("ref: {slot: text, max: 36}", "a slot of text is text, and ref is uuid"),
        ("price: {slot: integer, min: 1, max: 5}", "a slot of integer is integer, and price is numeric"),
        ("price: '1e5'", "'1e5' is no value of price"),
        ("extra: '{'", "is no value of extra: write JSON as text"),
        ("raw: text", "'text' is no value of raw"),
        ("id: a", "id is the key of tasks and never changes"),
        ("secret: a", "tasks.secret is hidden; no step may name it"),
        ("missing: a", "tasks has no column missing, only id, owner"),
    ],
)
def test_any_other_argument_is_refused_with_its_line(value: str, reason: str) -> None:
    step = CHANGE.replace("irreversible", "approval: {within_minutes: 5}, irreversible")

    found = errors(f"{TASK}\n{step}\n  {{{value}}}}}")

    assert all(each.startswith("w.yaml:9: ") for each in found)
    assert any(re.search(reason, each) for each in found), found


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            "task: {read: tasks, where: {id: input.task}}",
            "w.yaml:7: steps.task: it needs `one: true`, or `limit`",
        ),
        ("task: {read: tasks, one: true, limit: 2}", "w.yaml:7: steps.task.limit: `one` is a limit of 1 already"),
        ("task: {read: tasks, limit: 1001}", "w.yaml:7: steps.task.limit: write 1000 or less"),
        ("task: {read: people, one: true}", "w.yaml:7: steps.task.read: there is no resource people, only"),
        ("task: {read: old-notes, one: true}", "w.yaml:7: steps.task.read: there is no resource old-notes"),
        ("task: {read: tasks, create: tasks}", "w.yaml:7: steps.task: a step has exactly one of read, create, update"),
        ("task: {reed: tasks}", "w.yaml:7: steps.task: a step has exactly one of"),
        (
            "task: {read: tasks, one: true, irreversible: true}",
            "w.yaml:7: steps.task.irreversible: there is no such field",
        ),
        ("task: {read: tasks, one: yes please}", "w.yaml:7: steps.task.one: write true or false"),
        (
            "task: {read: tasks, one: true, columns: [id, secret]}",
            "w.yaml:7: tasks.secret is hidden; no step may name it",
        ),
        ("task: {read: tasks, one: true, order: [-extra]}", "w.yaml:7: extra is jsonb and has no order"),
        ("task: {read: tasks, one: true, order: [x]}", "w.yaml:7: tasks has no column x"),
        (
            "task: {read: tasks, one: true, where: {price: '1'}}",
            "w.yaml:7: price is numeric; `where` compares no such column",
        ),
        ("task: {read: tasks, one: true, where: {title: null}}", "w.yaml:7: title cannot be NULL"),
        (
            "task: {read: tasks, limit: 2}\nnote: {read: notes, one: true, where: {id: task.id}}",
            "w.yaml:8: there is no step task with one row or with values, only note",
        ),
        (
            "note: {read: notes, one: true, where: {id: task.id}}\n" + TASK,
            "w.yaml:7: the step task has not run on every path",
        ),
        (
            "task: {create: tasks, set: {id: run.id}, irreversible: true}",
            "w.yaml:7: tasks needs a value of owner, points, is_open; NULL is refused there",
        ),
        (
            "task: {update: tasks, where: {}, set: {title: a}, one: true, irreversible: true}",
            "w.yaml:7: it needs a condition: all rows of a table are never changed",
        ),
        (
            "task: {update: tasks, where: {id: a}, set: {}, one: true, irreversible: true}",
            "w.yaml:7: it changes no column",
        ),
        (
            "task: {delete: tasks, where: {id: a}, one: true}",
            "w.yaml:7: irreversible or compensation: write `irreversible: true`",
        ),
        (
            DELETE + "irreversible: true, compensation: {create: notes, set: {id: run.id, task: a}}}",
            "w.yaml:7: irreversible or compensation: it has both",
        ),
        (
            DELETE + "compensation: {create: notes, delete: tasks}}",
            "w.yaml:7: steps.a.compensation: a compensation has exactly one of create, update, delete",
        ),
        (
            DELETE + "compensation: {create: notes}}",
            "w.yaml:7: a create has `set`, an update `where` and `set`, a delete `where`",
        ),
        (DELETE + "compensation: {delete: notes, where: {id: 5}}}", "w.yaml:7: 5 is no value of id"),
        (
            DELETE + "compensation: {delete: notes, where: {id: {slot: text, max: 5}}}}",
            "w.yaml:7: a compensation has no slots",
        ),
        ("a: {compute: {}}", "w.yaml:7: it computes nothing"),
        ("a: {compute: {x: null}}", "w.yaml:7: x has no type: NULL alone"),
        ("a: {compute: {x: a.x}}", "w.yaml:7: there is no step a with one row or with values"),
        ("a: {compute: {x: {when: 'task.points > 5'}}}", "w.yaml:7: task.points > 5: there is no task.points here"),
        (WHEN + "'points > 5'}}}", "w.yaml:8: points > 5: there is no points here"),
        (WHEN + "'task.points + 1 > 5'}}}", "w.yaml:8: task.points + 1 > 5: arithmetic is outside"),
        (WHEN + "'task.points > '}}}", "w.yaml:8: task.points > : no Cedar"),
        (
            WHEN + "'true }; permit(principal, action, resource) when { true'}}}",
            "a condition is an expression, without `;`",
        ),
        (WHEN + "'true } when { true'}}}", "w.yaml:8: true } when { true: no Cedar"),
        (WHEN + "'" + "(" * 40 + "'}}}", "more than 32 levels of parentheses"),
        (WHEN + "'task.title == \"a\"'}}}", "task.title may be NULL: guard it with `has title &&` first"),
        (WHEN + "'task.secret == \"a\"'}}}", "there is no task.secret here"),
        ("a: {choose: {}}", "w.yaml:7: steps.a.choose: write at least"),
        ("a: {choose: {b: {next: c}}}", "w.yaml:7: there is no step c, only a"),
        ("a: {choose: {b: {next: end, other: 1}}}", "w.yaml:7: steps.a.choose.b.other: there is no such field"),
        ("a: {compute: {run: {slot: boolean}}}", "w.yaml:7: a slot cannot be named run"),
        (
            (
                "a: {update: tasks, one: true, irreversible: true, approval: {within_minutes: 1},\n"
                "    where: {owner: {slot: text, max: 3}}, set: {owner: {slot: text, max: 3}}}"
            ),
            "w.yaml:8: a slot cannot be named owner: the tool has such an argument already",
        ),
        (
            DELETE + "irreversible: true, approval: {within_minutes: 0}}",
            "w.yaml:7: steps.a.approval.within_minutes: write 1 or more",
        ),
        (
            DELETE + "irreversible: true, approval: {within_minutes: 5, when: 'secret == \"a\"'}}",
            'w.yaml:7: secret == "a": secret is hidden; no condition may name it',
        ),
        (
            DELETE + "irreversible: true, approval: {within_minutes: 5, when: 'price > 5'}}",
            "w.yaml:7: price > 5: price is numeric; a condition compares text",
        ),
    ],
)
def test_a_step_that_breaks_a_rule_is_refused_with_its_line(steps: str, reason: str) -> None:
    found = errors(steps)

    assert any(reason in each for each in found), found


@pytest.mark.parametrize(
    ("steps", "is_refused"),
    [
        (f"{TASK}\n{CHANGE}{{owner: {{slot: text, max: 5}}}}}}", True),
        (f"{TASK}\na: {{compute: {{x: open}}}}\n{CHANGE}{{owner: {{slot: text, max: 5}}}}}}", True),
        (f"{TASK}\n{CHANGE}{{title: {{slot: text, max: 5}}}}}}", False),
        (f"{TASK}\n{CHANGE}{{owner: {{slot: choice, of: [a]}}}}}}", False),
        (f"{TASK}\n{CHANGE}{{is_open: {{slot: boolean}}}}}}", False),
        (f"{TASK}\n{CHANGE}{{cost: {{slot: integer}}}}}}", True),
        (f"{TASK}\n{CHANGE}{{cost: {{slot: integer, min: 1}}}}}}", True),
        (f"{TASK}\n{CHANGE}{{cost: {{slot: integer, min: 1, max: task.points}}}}}}", False),
        (f"{TASK}\n{CHANGE}{{due: {{slot: date, min: 2026-01-01, max: 2026-12-31}}}}}}", False),
        (f"{TASK}\n{CHANGE}{{due: input.day}}}}", True),
        (f"{TASK}\n{CHANGE}{{owner: input.task}}}}", False),
        (f"{TASK}\n{CHANGE}{{owner: {{text: 'a ${{input.task}}'}}}}}}", False),
        (f"{CHANGE.replace('task.id', 'input.task')}{{title: a}}}}", True),
        (f"{TASK}\n{CHANGE.replace('task.id', 'input.task')}{{title: a}}}}", False),
        (f"{TASK}\n{CHANGE.replace('{id: task.id}', '{title: task.title}')}{{points: 1}}}}", True),
        (f"{TASK}\n{CHANGE.replace('{id: task.id}', '{owner: {slot: text, max: 5}}')}{{title: a}}}}", True),
        (f"{TASK}\na: {{compute: {{x: task.owner, y: {{slot: text, max: 5}}}}}}\n{CHANGE}{{owner: a.x}}}}", False),
        (f"{TASK}\na: {{compute: {{x: task.owner, y: {{slot: text, max: 5}}}}}}\n{CHANGE}{{owner: a.y}}}}", True),
        (f"{TASK}\na: {{compute: {{x: {{when: 'task.points > 5'}}}}}}\n{CHANGE}{{is_open: a.x}}}}", False),
        (
            (
                f"{TASK}\na: {{compute: {{x: {{slot: integer}}}}}}\n"
                f"{CHANGE}{{cost: {{slot: integer, min: 1, max: a.x}}}}}}"
            ),
            True,
        ),
        (
            (
                f"old: {{read: tasks, where: {{title: input.task}}, one: true}}\n"
                f"{CHANGE.replace('task.id', 'old.id')}{{owner: input.task}}}}"
            ),
            True,
        ),
    ],
)
def test_an_untrusted_value_needs_an_approval_outside_of_untrusted_columns(steps: str, *, is_refused: bool) -> None:
    found = errors(steps)
    approved = errors(steps.replace("{update: tasks,", "{update: tasks, approval: {within_minutes: 5},"))

    assert [("untrusted value" in each) for each in found] == ([True] if is_refused else [])
    assert approved == []


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (f"{TASK}\n{CHANGE}{{title: task.owner}}}}", "w.yaml:8: a personal value goes into title"),
        (f"{TASK}\n{CHANGE}{{title: {{text: 'for ${{task.owner}}'}}}}}}", "w.yaml:8: a personal value goes into title"),
        (f"{TASK}\na: {{compute: {{x: task.owner}}}}\n{CHANGE}{{title: a.x}}}}", "w.yaml:9: a personal value"),
        (
            f"{TASK}\na: {{compute: {{x: {{text: '${{task.owner}}'}}}}}}\n{CHANGE}{{title: a.x}}}}",
            "w.yaml:9: a personal",
        ),
        (
            f"{TASK}\na: {{compute: {{x: {{when: 'task.owner == \"a\"'}}}}}}\n{CHANGE}{{is_open: a.x}}}}",
            "w.yaml:9: a personal value goes into is_open",
        ),
        (f"{TASK}\n{CHANGE}{{title: input.task}}}}", "w.yaml:8: a personal value goes into title"),
        (f"{TASK}\n{CHANGE}{{cost: {{slot: integer, min: 1, max: task.points}}}}}}", "a personal value goes into cost"),
        (
            f"{TASK}\nother: {{read: notes, where: {{task: task.owner}}, limit: 5}}",
            "w.yaml:8: a personal value goes into task",
        ),
        (
            f"{TASK}\na: {{compute: {{x: {{slot: text, max: 9}}}}}}\n{CHANGE}{{owner: {{text: '${{a.x}}'}}}}}}",
            "w.yaml:9: owner is personal, and the facts of the computed slot are in clear",
        ),
        (f"{TASK}\n{CHANGE}{{owner: {{slot: text, max: 9}}}}}}", None),
        (f"{TASK}\na: {{compute: {{x: task.owner}}}}\n{CHANGE}{{owner: a.x}}}}", None),
        (f"{TASK}\n{CHANGE}{{owner: {{text: '${{task.owner}} of ${{run.id}}'}}}}}}", None),
        (f"{TASK}\n{CHANGE}{{owner: task.id}}}}", None),
    ],
)
def test_a_personal_value_goes_only_into_personal_columns(steps: str, reason: str | None) -> None:
    approved = steps.replace("{update: tasks,", "{update: tasks, approval: {within_minutes: 5},")
    resources = "tasks: {untrusted: [title], hidden: [secret], personal: [owner, points, id]}\n"

    found = errors(approved, resources=resources)

    assert [reason in each for each in found] == [True] if reason else found == []


@pytest.mark.parametrize(
    ("grants", "steps", "reason"),
    [
        ("", TASK, "no grant permits the role clerk to read tasks; add one"),
        (GRANTS.replace("clerk", "boss"), TASK, "no grant permits the role clerk to read tasks"),
        (
            GRANTS.replace("action,", 'action == Action::"read",'),
            NEW + "}}",
            "no grant permits the role clerk to create tasks with id, is_open, owner, points; extend one",
        ),
        (
            (
                '@id("a") @columns("id, owner") permit(principal, action, resource is tasks);\n'
                '@id("b") @columns("id, title") permit(principal, action, resource is tasks);'
            ),
            TASK,
            "no grant permits the role clerk to read tasks with id, owner, title",
        ),
        (
            GRANTS.replace("resource)", "resource is tasks) when { resource.points > 5 }"),
            NEW + "}}",
            "no row of this step can satisfy all",
        ),
        (
            GRANTS.replace("resource)", "resource is tasks) when { resource.points > 5 }"),
            NEW.replace("points: 1", "points: {slot: integer, min: 1, max: 5}") + "}}",
            "no row of this step can satisfy all",
        ),
        (
            GRANTS.replace("resource)", 'resource is tasks) when { resource has title && resource.title like "a*" }'),
            NEW + "}}",
            "no row of this step can satisfy all",
        ),
        (
            GRANTS + '@id("never") forbid(principal, action == Action::"create", resource is tasks)\n'
            "when { resource.is_open };",
            NEW + "}}",
            "never forbids every row of this step",
        ),
        (
            GRANTS + '@id("never") forbid(principal, action == Action::"create", resource);',
            NEW + "}}",
            "never forbids every row of this step",
        ),
    ],
)
def test_a_step_outside_the_grants_is_refused(grants: str, steps: str, reason: str) -> None:
    found = errors(steps, grants=grants)

    assert any(reason in each and each.startswith("w.yaml:7: ") for each in found), found


@pytest.mark.parametrize(
    "condition",
    [
        "resource.points >= 1",
        'resource.owner == "a"',
        "resource.is_open || resource.points > 5",
        "!(resource has title)",
        "[1, 2].contains(resource.points)",
        'resource has due && resource.due > datetime("2026-01-01")',
    ],
)
def test_a_step_that_may_satisfy_a_grant_is_accepted(condition: str) -> None:
    grants = GRANTS.replace("resource)", f"resource is tasks) when {{ {condition} }}")
    step = NEW if "due" not in condition else f"{NEW}, due: input.day"

    found = errors(f"{step}}}, approval: {{within_minutes: 5}}}}", grants=grants)

    assert found == []
