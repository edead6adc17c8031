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
