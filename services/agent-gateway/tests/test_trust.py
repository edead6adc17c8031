"""The rule of trust against a second form of it, over random workflows, labels, callers and values.

A value from the model, or of an untrusted origin, is accepted when it equals a trusted value of this very run or a
constant of its workflow, is bounded, or goes into an untrusted column. Everything else needs an approval, which names
exactly these arguments.
"""

import random
from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_agent_gateway.domain.answers import RefusalError
from paybill_agent_gateway.domain.calls import CallCaller, Start, Take
from paybill_agent_gateway.domain.workflows import CompiledBundle
from paybill_contracts.agent_bundles import ResourceColumn
from paybill_contracts.agent_runs import ActionDone
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.event import digest
from paybill_contracts.kinds import Column, Table
from paybill_definitions.agent_bundle import read_bundle
from workflow_walks import HELPER, PERSON, Walk

TASKS = Table(
    name="tasks",
    columns=(
        Column(name="id", type="text"),
        Column(name="owner", type="text", required=True),
        Column(name="title", type="text", required=True),
        Column(name="points", type="integer", required=True),
        Column(name="cost", type="bigint", required=True),
        Column(name="is_open", type="boolean", required=True),
        Column(name="due", type="date", required=True),
    ),
)
TYPES = {each.name: each.type for each in TASKS.columns}
BLUEPRINT = Blueprint(name="work", version=1, regions=(), cells=(), tiers=(), tables=(TASKS,))
GRANTS = '@id("all") @columns("*") permit(principal in Role::"clerk", action, resource);\n'
ORDINARY: dict[str, tuple[Any, ...]] = {
    "text": ("Zo\u00eb", "zoe", "5", "true", "2026-05-05", "a"),
    "integer": (0, 1, 5, 7),
    "bigint": (0, 1, 5, 7, 2**40),
    "boolean": (True, False),
    "date": ("2026-05-05", "2026-06-06", "2026-07-07"),
}
VARIANTS = (
    "ZO\u00cb",
    "zo\u00eb",
    "Zoe\u0308",
    "Zo\u00eb ",
    " Zo\u00eb",
    "Zo\u00eb\u200b",
    "\uff15",
    "5 ",
    "True",
    "1",
    "A",
    "\u0430",
    "a\u00a0",
)
SLOTS: dict[str, tuple[dict[str, Any], ...]] = {
    "text": ({"slot": "text", "max": 50}, {"slot": "choice", "of": ["zoe", "x"]}),
    "integer": ({"slot": "integer", "min": 0, "max": 9}, {"slot": "integer", "min": 0, "max": "first.points"}),
    "bigint": (
        {"slot": "integer"},
        {"slot": "integer", "min": 0},
        {"slot": "integer", "max": "first.cost"},
        {"slot": "integer", "min": 0, "max": "first.cost"},
    ),
    "boolean": ({"slot": "boolean"},),
    "date": ({"slot": "date"}, {"slot": "date", "min": "2026-01-01", "max": "2026-12-31"}),
}  # fmt: skip


class Sample:
    """A random workflow that reads, computes and writes, and a second form of the rule for it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.untrusted = {name for name in TYPES if rng.random() < 0.4}
        self.caller: CallCaller = rng.choice([HELPER, PERSON])
        self.computed = {f"x{number}": self.source("text", is_computed=True) for number in range(3)}
        self.kind = rng.choice(["create", "update", "delete"])
        self.where = {"id": self.source("text")} if self.kind != "create" else {}
        names = [name for name in TYPES if name != "id" and (self.kind == "create" or rng.random() < 0.5)] or ["owner"]
        self.set = {name: self.source(TYPES[name]) for name in names} if self.kind != "delete" else {}
        if self.kind == "create":
            self.set["id"] = self.source("text")

    def source(self, type_: str, *, is_computed: bool = False) -> Any:
        """Returns the argument of a value, as the file has it."""
        fields = [f"{step}.{name}" for step in ("first", "second") for name, each in TYPES.items() if each == type_]
        options: list[Any] = [*fields, self.rng.choice(ORDINARY[type_]), *SLOTS[type_], *SLOTS[type_]]
        if type_ == "text":
            options += ["input.task", "run.id", {"text": "a ${first.owner}"}, {"text": "${input.task} ${run.id}"}]
            options += [] if is_computed else ["calc.x0", "calc.x1", "calc.x2", {"text": "${calc.x0}!"}]
        if type_ == "date":
            options.append("input.day")
        return deepcopy(self.rng.choice(options))

    def walk(self) -> Walk:
        """Compiles the workflow."""
        write: dict[str, Any] = {self.kind: "tasks", "irreversible": True}
        write["approval"] = {"when": "points > 1000000", "within_minutes": 5}
        write |= {"where": self.where, "one": True} if self.where else {}
        write |= {"set": self.set} if self.set else {}
        source = {
            "workflow": "w", "role": "clerk", "input": {"task": "tasks.id", "day": "tasks.due"},
            "once": ["input.task"], "limits": {"calls": 20, "rows": 20, "minutes": 5},
            "steps": {
                "first": {"read": "tasks", "where": {"id": "input.task"}, "one": True},
                "second": {"read": "tasks", "where": {"owner": "first.owner"}, "one": True},
                "calc": {"compute": self.computed},
                "write": write,
            },
        }  # fmt: skip
        labels = yaml.safe_dump({"tasks": {"untrusted": sorted(self.untrusted)}})
        files = {"resources.yaml": labels, "grants.cedar": GRANTS, "w.yaml": yaml.safe_dump(source, sort_keys=False)}
        bundle = read_bundle(files, BLUEPRINT)
        return Walk(CompiledBundle.of(digest(bundle), bundle), self.value_of)

    def value_of(self, column: ResourceColumn) -> Any:
        """Returns a value of a row."""
        return self.rng.choice(ORDINARY[column.type])

    def given(self, sources: dict[str, Any]) -> dict[str, Any]:
        """Returns values for the slots."""
        return {name: self.slot_value(each) for name, each in sources.items() if is_slot(each)}

    def slot_value(self, slot: dict[str, Any]) -> Any:
        kind = {"choice": "text", "integer": "bigint"}.get(slot["slot"], slot["slot"])
        if slot["slot"] == "choice":
            return self.rng.choice(slot["of"])
        return self.rng.choice(ORDINARY[kind] + (VARIANTS if kind == "text" else ()))


class Known:
    """The second form of the rule."""

    def __init__(self, sample: Sample, walk: Walk) -> None:
        self.sample = sample
        self.is_person = sample.caller is PERSON
        self.rows = {each.step: each.rows[0] for each in walk.events if isinstance(each, ActionDone) and each.rows}
        self.inputs = {"task": "a", "day": "2026-05-05"}
        self.run = walk.run.id if walk.run is not None else ""
        self.trusted = {(type(value), value) for value in self.inputs.values() if self.is_person}
        for step in ("first", "second"):
            for name, value in self.rows[step].items():
                if name not in sample.untrusted and not isinstance(value, bool):
                    self.trusted.add((type(value), value))
        for source in (*sample.computed.values(), *sample.where.values(), *sample.set.values()):
            if not isinstance(source, dict | bool) and not (isinstance(source, str) and "." in source):
                self.trusted.add((type(source), source))

    def accepts(self, source: Any, value: Any) -> bool:
        """Returns whether a value with this source is as good as a trusted one."""
        return self.is_trusted(source) or (not is_template(source) and (type(value), value) in self.trusted)

    def is_trusted(self, source: Any) -> bool:
        """Returns whether the source alone makes a value trusted."""
        if is_template(source):
            return all(self.is_trusted(each.partition("}")[0]) for each in source["text"].split("${")[1:])
        if is_slot(source):
            return source["slot"] in {"boolean", "choice"} or (
                "min" in source and "max" in source and self.is_trusted(source["max"])
            )
        if not isinstance(source, str) or source == "run.id" or "." not in source:
            return True
        step, name = source.split(".")
        if step == "input":
            return self.is_person
        return self.is_trusted(self.sample.computed[name]) if step == "calc" else name not in self.sample.untrusted

    def value(self, source: Any, name: str, given: dict[str, Any]) -> Any:
        """Returns the value of an argument."""
        if is_slot(source):
            return given[name]
        if is_template(source):
            first, *parts = source["text"].split("${")
            texts = [(self.value(part.partition("}")[0], name, given), part.partition("}")[2]) for part in parts]
            return first + "".join(f"{value}{rest}" for value, rest in texts)
        if not isinstance(source, str) or "." not in source:
            return source
        step, _, field = source.partition(".")
        return self.run if step == "run" else self.inputs[field] if step == "input" else self.rows[step][field]


def is_slot(source: Any) -> bool:
    return isinstance(source, dict) and "slot" in source


def is_template(source: Any) -> bool:
    return isinstance(source, dict) and "text" in source


def judged(rng: random.Random) -> str:
    """Walks one sample, and compares both forms of the rule. Returns which case it was."""
    sample = Sample(rng)
    walk = sample.walk()
    answer = walk.call(sample.caller, Start("w", {"task": "a", "day": "2026-05-05"}, "r"))
    assert walk.run is not None
    slots = sample.given(sample.computed)
    if slots:
        answer = walk.call(sample.caller, Take(walk.run.id, walk.run.seq, "calc", slots))
    if not walk.run.ended and not isinstance(answer, RefusalError):
        slots = sample.given(sample.where | sample.set)
        answer = walk.call(sample.caller, Take(walk.run.id, walk.run.seq, "write", slots))
        if isinstance(answer, RefusalError) and answer.code == "invalid_input":
            return "outside of limits"
    known = Known(sample, walk)
    values = {name: known.value(each, name, slots) for name, each in (sample.where | sample.set).items()}
    expected = [name for name, each in sample.where.items() if not known.accepts(each, values[name])]
    expected += [
        name
        for name, each in sample.set.items()
        if name not in sample.untrusted and not known.accepts(each, values[name])
    ]
    if not isinstance(answer, RefusalError):
        assert expected == []
        assert walk.run.ended == "finished"
        return "accepted"
    assert answer.code == "approval_required"
    assert walk.run.approval is not None
    assert walk.run.approval.reason == "untrusted values: " + ", ".join(expected)
    walk.approve(walk.run.approval.id)
    walk.call(sample.caller, Take(walk.run.id, walk.run.seq, "write", slots))
    assert walk.run.ended == "finished"
    return "approved"


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_value_is_accepted_exactly_as_the_rule_requires(rng: random.Random) -> None:
    judged(rng)


def test_samples_are_accepted_and_approved_alike() -> None:
    counts = Counter(judged(random.Random(seed)) for seed in range(150))

    assert min(counts["accepted"], counts["approved"]) > 40, counts


CHANGE = """workflow: w
role: clerk
input: {task: tasks.id, day: tasks.due}
once: [input.task]
limits: {calls: 20, rows: 20, minutes: 5}
steps:
  first: {read: tasks, where: {id: input.task}, one: true}
  write:
    update: tasks
    where: {id: first.id}
    set: {owner: {slot: text, max: 50}, cost: {slot: integer}}
    one: true
    approval: {when: "points > 1000000", within_minutes: 5}
    irreversible: true
"""
ROW = {
    "id": "a", "owner": "Zo\u00eb", "title": "Title", "points": 5, "cost": 7, "is_open": True, "due": "2026-05-05",
}  # fmt: skip


def reason_of(
    given: dict[str, Any], caller: CallCaller = HELPER, row: dict[str, Any] = ROW, workflow: str = CHANGE
) -> str | None:
    """Returns the reason of the approval that the write needs; None when it needs none."""
    files = {"resources.yaml": "tasks: {untrusted: [title]}\n", "grants.cedar": GRANTS, "w.yaml": workflow}
    files["other.yaml"] = CHANGE.replace("workflow: w", "workflow: other").replace("first.id}", "constant}")
    bundle = read_bundle(files, BLUEPRINT)
    walk = Walk(CompiledBundle.of(digest(bundle), bundle), lambda column: row[column.name])
    walk.call(caller, Start("w", {"task": "a", "day": "2026-07-07"}, "r"))
    assert walk.run is not None
    walk.call(caller, Take(walk.run.id, walk.run.seq, "write", given))
    return walk.run.approval.reason if walk.run.approval is not None else None


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_of_a_trusted_text_is_another_value(variant: str) -> None:
    assert reason_of({"owner": "Zo\u00eb", "cost": 7}) is None
    assert reason_of({"owner": variant, "cost": 7}) == "untrusted values: owner"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"owner": "a", "cost": 5}, None),
        ({"owner": "2026-05-05", "cost": 7}, None),
        ({"owner": "5", "cost": 7}, "untrusted values: owner"),
        ({"owner": "7", "cost": 7}, "untrusted values: owner"),
        ({"owner": "True", "cost": 7}, "untrusted values: owner"),
        ({"owner": "Title", "cost": 7}, "untrusted values: owner"),
        ({"owner": "2026-07-07", "cost": 7}, "untrusted values: owner"),
        ({"owner": "a", "cost": 1}, "untrusted values: cost"),
        ({"owner": "b", "cost": 0}, "untrusted values: owner, cost"),
    ],
)
def test_values_of_another_type_or_of_an_untrusted_origin_are_not_equal(
    given: dict[str, Any], reason: str | None
) -> None:
    assert reason_of(given) == reason


def test_inputs_of_a_person_are_trusted_and_those_of_an_agent_are_not() -> None:
    given = {"owner": "2026-07-07", "cost": 7}

    assert reason_of(given, PERSON) is None
    assert reason_of(given, HELPER) == "untrusted values: owner"


def test_a_trusted_value_of_another_run_does_not_count() -> None:
    assert reason_of({"owner": "Ann", "cost": 8}, row=ROW | {"owner": "Ann", "cost": 8}) is None
    assert reason_of({"owner": "Ann", "cost": 8}) == "untrusted values: owner, cost"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"owner": "Ann", "cost": 900}, None),
        ({"owner": "closed", "cost": 7}, None),
        ({"owner": "ann", "cost": 7}, "untrusted values: owner"),
        ({"owner": "900", "cost": 7}, "untrusted values: owner"),
        ({"owner": "of Ann", "cost": 7}, "untrusted values: owner"),
        ({"owner": "constant", "cost": 7}, "untrusted values: owner"),
        ({"owner": "a", "cost": 1_000_000}, "untrusted values: cost"),
        ({"owner": "a", "cost": 40}, "untrusted values: cost"),
        ({"owner": "a", "cost": 1}, "untrusted values: cost"),
    ],
)
def test_a_constant_of_this_workflow_is_trusted_and_parts_limits_and_other_workflows_are_not(
    given: dict[str, Any], reason: str | None
) -> None:
    constants = "calc: {compute: {name: Ann, most: 900, is_sure: true, text: {text: 'of ${first.owner}'}}}"
    workflow = CHANGE.replace("  write:", f"  {constants}\n  write:").replace(
        "cost: {slot: integer}", "cost: {slot: integer}, title: closed, points: {slot: integer, min: 40, max: 40}"
    )

    assert reason_of(given | {"points": 40}, workflow=workflow) == reason
