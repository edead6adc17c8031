"""Every error of all files of a bundle is reported at once, without those that follow from another error."""

from agent_samples import TASK, bundle, errors, errors_of, files
from paybill_definitions.agent_rules import errors as rule_errors


def test_errors_of_one_file_hide_none_of_another() -> None:
    steps = (
        "task: {read: tasks, where: {idd: input.task}, one: true}\n"
        "add: {create: notes, set: {id: run.id, task: input.task}}"
    )
    texts = files(steps, resources="tasks: {hidden: [secrett]}\n")
    texts["grants.cedar"] = '@id("all") @columns("idd") permit(principal, action, resource is tasks);\n'
    texts["v.yaml"] = "workflow: [\n"
    texts["x.yml"] = ""
    del texts["w.yaml"]
    texts["w.yaml"] = files(steps)["w.yaml"]

    found = errors_of(texts)

    assert [each.partition(": ")[0] for each in found] == [
        "grants.cedar:1",
        "resources.yaml:1",
        "v.yaml:2",
        "w.yaml:7",
        "w.yaml:8",
        "x.yml:1",
    ]
    assert found[3] == (
        "w.yaml:7: tasks has no column idd, only id, owner, title, points, cost, is_open, due, at, ref, price, extra, "
        "raw, secret"
    )
    assert "irreversible or compensation" in found[4]
    assert found[5] == "x.yml:1: the suffix is .yaml; rename it to x.yaml"


def test_missing_grants_hide_no_error_and_cause_none() -> None:
    texts = files(f"{TASK}\na: {{read: notes, where: {{id: task.z}}, limit: 1}}")
    del texts["grants.cedar"]

    found = errors_of(texts)

    assert found[0] == "grants.cedar:1: the file is missing"
    assert len(found) == 2
    assert found[1].startswith("w.yaml:8: the step task has no field z, only ")


def test_what_follows_from_a_step_with_an_error_is_left_out() -> None:
    steps = (
        "task: {read: task, where: {id: input.task}, one: true}\n"
        "note: {read: notes, where: {id: task.title}, one: true}\n"
        "b: {choose: {left: {next: c, when: task.is_open}, right: {next: end}}}\n"
        "c: {update: tasks, where: {id: note.task, ownr: note.id}, set: {points: 1}, "
        "approval: {within_minutes: 5, when: 'pints > 1 &&'}}\n"
        "d: {update: tasks, where: {id: input.task}, set: {pints: 1}, one: true, irreversible: true}\n"
    )

    found = errors(steps)

    assert [each.partition(": ")[0] for each in found] == ["w.yaml:7", "w.yaml:10", "w.yaml:10", "w.yaml:11"]
    assert "there is no resource task, only notes, tasks" in found[0]
    assert {"no Cedar" in each for each in found[1:3]} == {True, False}
    assert "it needs `one: true`, or `limit`" in found[1] + found[2]
    assert "tasks has no column pints" in found[3]


def test_nothing_follows_from_a_wrong_head() -> None:
    steps = "{a: {read: tasks, one: true, where: {id: input.a}}, b: {read: z, one: true}}"
    text = f"workflow: x\ninput: {{a: 1}}\nsteps: {steps}"

    assert errors_of(files(TASK) | {"w.yaml": text}) == [
        "w.yaml:1: role: it is required",
        "w.yaml:1: limits: it is required",
        "w.yaml:2: input.a: write a text",
        "w.yaml:3: steps.b.read: there is no resource z, only notes, tasks",
    ]


def test_a_bundle_has_a_workflow_and_hidden_files_do_not_count() -> None:
    texts = files(TASK)
    hidden = {".w.yaml.swp": "x", ".swp.yaml": "x", ".DS_Store": "x"}

    assert errors_of(texts | hidden) == []
    assert errors_of({name: text for name, text in texts.items() if name != "w.yaml"} | hidden) == [
        "resources.yaml:1: a bundle has at least one workflow: add a file such as refund.yaml"
    ]
    (found,) = rule_errors(bundle(TASK).model_copy(update={"workflows": ()}))
    assert found.reason.startswith("a bundle has at least one workflow")


def test_a_value_of_a_wrong_form_is_reported_in_plain_words() -> None:
    texts = files(TASK)

    assert errors_of(texts | {"w.yaml": texts["w.yaml"].replace("once: [input.task]", "once: input.task")}) == [
        "w.yaml:4: once: write a list, such as [a, b]"
    ]
    assert errors_of(texts | {"resources.yaml": "- tasks"}) == [
        "resources.yaml:1: the file: write an object: names with values, such as {a: b}"
    ]


def test_a_slot_without_its_limit_hides_no_other_error_of_its_step_and_workflow() -> None:
    steps = f"{TASK}\nadd: {{create: notes, set: {{id: run.id, tsk: task.id, task: {{slot: text}}}}}}"
    texts = files(steps)
    texts["w.yaml"] = texts["w.yaml"].replace("once: [input.task]", "once: [input.tsk]")

    assert errors_of(texts) == [
        "w.yaml:4: there is no input tsk",
        "w.yaml:8: steps.add.set.task.max: a text needs `max`: its greatest number of characters",
        "w.yaml:8: notes has no column tsk, only id, task",
        "w.yaml:8: irreversible or compensation: write `irreversible: true`, or how to undo it: `compensation`",
    ]


def test_a_wrong_limit_hides_no_other_limit() -> None:
    limits = "limits: {calls: 5, rows: 5, minutes: -15, sum: {tasks.pints: 5}, agent_day: {calls: 1, rows: 1}}\n"

    (minutes, total) = errors(TASK, limits=limits)

    assert minutes == "w.yaml:5: limits.minutes: write 1 or more"
    assert total.startswith("w.yaml:5: tasks.pints is no column of whole")


def test_an_error_in_the_order_of_steps_hides_no_error_of_a_step() -> None:
    assert errors("a: {read: notes, limit: 1, where: {idd: x}, next: a}") == [
        "w.yaml:7: after a no path leads to the end; add `next: end` to one",
        "w.yaml:7: notes has no column idd, only id, task",
    ]


def test_a_repeated_name_and_an_unknown_label_hide_no_error_of_the_resources() -> None:
    resources = (
        "tasks: {hidden: [secret], hiden: [a], untrusted: [titel]}\n"
        "notes: {untrusted: [x]}\n"
        "tasks: {hidden: [id]}\n"
        "nots: {}\n"
    )

    found = errors(TASK, resources=resources)

    assert [each.partition("; ")[0].partition(", only")[0] for each in found] == [
        "resources.yaml:1: tasks.hiden: there is no such field",
        "resources.yaml:1: tasks has no column titel",
        "resources.yaml:2: notes has no column x",
        "resources.yaml:3: tasks is written twice, first in line 1",
        "resources.yaml:4: the blueprint work has no table nots",
    ]
    assert found[0].endswith("only hidden, untrusted, personal, also_changes")


def test_a_repeated_name_of_a_workflow_is_reported_beside_other_errors_of_its_file() -> None:
    texts = files(TASK)
    texts["x.yaml"] = texts["w.yaml"].replace("minutes: 5", "minutes: 0")

    assert errors_of(texts) == [
        "x.yaml:1: w.yaml has a workflow w, too; rename one",
        "x.yaml:5: limits.minutes: write 1 or more",
    ]


def test_an_error_is_reported_once_for_a_line_and_a_cycle_once() -> None:
    grants = '@id("all") @columns("*") permit(principal, action, resource is tasks) when '
    grants += '{ resource has secret && resource.secret == "a" };'
    steps = "a: {read: notes, limit: 1}\nb: {read: notes, limit: 1}\nc: {read: notes, limit: 1, next: b}"

    assert len([each for each in errors(TASK, grants=grants) if "hidden" in each]) == 1
    assert errors(steps) == ["w.yaml:8: after b, c no path leads to the end; add `next: end` to one"]


def test_limits_that_no_run_can_keep_are_refused() -> None:
    steps = (
        "task: {read: tasks, where: {id: input.task}, one: true}\n"
        "way: {choose: {short: {next: add, when: task.is_open}, long: {next: more}}}\n"
        "more: {read: tasks, where: {id: input.task}, one: true}\n"
        "add: {create: notes, set: {id: run.id, task: task.id}, irreversible: true, approval: {within_minutes: 5}}"
    )

    assert errors(steps, limits="limits: {calls: 4, rows: 2, minutes: 5}\n") == []
    assert errors(steps, limits="limits: {calls: 3, rows: 1, minutes: 5}\n") == [
        "w.yaml:5: a run needs 4 calls or more, of 3: each step costs one, and so does an approval",
        "w.yaml:5: a run needs 2 rows or more, of 1",
    ]
