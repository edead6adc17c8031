"""Whatever the rules of bundles accept compiles, and every path of it can be walked; the rest is refused by line."""

import random
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from paybill_agent_gateway.domain.answers import RefusalError
from paybill_agent_gateway.domain.calls import CallCaller, Start, Take
from paybill_agent_gateway.domain.values import slots_of
from paybill_agent_gateway.domain.workflows import CompiledBundle
from paybill_contracts.agent_bundles import Bundle, SlotType
from paybill_contracts.agent_expressions import Constant
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.event import canonical, digest
from paybill_contracts.kinds import Column, Table
from paybill_definitions.agent_bundle import BundleFileError, read_bundle
from paybill_definitions.agent_rules import errors
from workflow_walks import HELPER, PERSON, Walk, random_values

TASKS = Table(
    name="tasks",
    columns=(
        Column(name="id", type="text"),
        Column(name="owner", type="text", required=True),
        Column(name="title", type="text"),
        Column(name="points", type="integer", required=True),
        Column(name="cost", type="bigint"),
        Column(name="is_open", type="boolean", required=True),
        Column(name="due", type="date"),
        Column(name="price", type="numeric"),
    ),
)
BLUEPRINT = Blueprint(name="work", version=1, regions=(), cells=(), tiers=(), tables=(TASKS,))
GRANTS = '@id("all") @columns("*") permit(principal in Role::"clerk", action, resource);\n'
HEAD = """workflow: w
role: clerk
input: {task: tasks.id}
once: [input.task]
limits: {calls: 100, rows: 500, minutes: 5}
"""
ERROR = re.compile(r"w\.yaml:(\d+): .+")
MORE = re.compile(r"w\.yaml: and \d+ more")
ATTEMPTS = 20
"""Values that a walk tries for the slots of one step: the limits of a slot may leave none."""
CONSTANTS = {
    "text": ("a", "b"),
    "integer": (0, 1, 5),
    "bigint": (1, 2**40),
    "boolean": (True, False),
    "date": ("2026-05-05",),
    "numeric": ("1.50",),
}
SLOTS: dict[str, tuple[dict[str, Any], ...]] = {
    "text": ({"slot": "text", "max": 5}, {"slot": "choice", "of": ["a", "b"]}),
    "integer": ({"slot": "integer", "min": 0, "max": 9},),
    "boolean": ({"slot": "boolean"},),
    "date": ({"slot": "date", "min": "2026-01-01", "max": "2026-12-31"},),
}
GIVEN = {SlotType.TEXT: ("a", "x"), SlotType.INTEGER: (0, 1, 2, 5), SlotType.BOOLEAN: (True, False)}
KINDS = ("read", "read", "read", "compute", "compute", "update", "create", "delete", "choose", "choose")


def read(steps: str, resources: str = "tasks: {untrusted: [title]}\n") -> Bundle:
    return read_bundle({"resources.yaml": resources, "grants.cedar": GRANTS, "w.yaml": HEAD + steps}, BLUEPRINT)


class Generator:
    """Makes one workflow: mostly right, with steps in any order in the file and references to any of them."""

    def __init__(self, rng: random.Random, share_of_cycles: float = 0.3) -> None:
        self.rng = rng
        count = rng.randint(1, 7)
        self.has_cycles = self.chance(share_of_cycles)
        self.repeat = rng.randint(2, 3)
        self.flow = [f"s{number}" for number in range(count)]
        self.kinds = {name: rng.choice(KINDS) for name in self.flow}
        self.kinds["s0"] = "read" if rng.random() < 0.8 else self.kinds["s0"]
        self.fields: dict[str, dict[str, str]] = {
            name: {each.name: each.type for each in TASKS.columns} if kind == "read" else {}
            for name, kind in self.kinds.items()
        }
        self.steps = {name: self.step(number, name) for number, name in enumerate(self.flow)}

    def text(self) -> str:
        """Returns the steps as YAML, the first one first."""
        first, *others = self.flow
        self.rng.shuffle(others)
        return yaml.safe_dump({"steps": {name: self.steps[name] for name in (first, *others)}}, sort_keys=False)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def reference(self, number: int, type_: str) -> str | None:
        """Returns a field of the type: of an earlier step mostly."""
        steps = self.flow[:number] if self.chance(0.93) else self.flow
        found = [
            f"{name}.{field}"
            for name in steps
            for field, each in self.fields[name].items()
            if each == type_ or self.chance(0.02)
        ]
        return self.rng.choice(found) if found else None

    def value(self, number: int, type_: str) -> Any:
        kind = self.rng.random()
        found = self.reference(number, type_)
        if kind < 0.5 and found is not None:
            return found
        if kind < 0.6 and type_ == "text":
            return {"text": f"a ${{{self.reference(number, 'text') or 'input.task'}}} b"}
        if kind < 0.65 and type_ == "text":
            return self.rng.choice(["input.task", "run.id"])
        if kind < 0.8 and type_ in SLOTS:
            slot = dict(self.rng.choice(SLOTS[type_]))
            if "min" in slot and found is not None and self.chance(0.4):
                slot["max"] = found
            return slot
        return self.rng.choice(CONSTANTS[type_])

    def condition(self, number: int, depth: int = 2) -> str:
        shape = self.rng.random()
        if depth and shape < 0.4:
            operator = self.rng.choice(["&&", "||"])
            return f"({self.condition(number, depth - 1)}) {operator} ({self.condition(number, depth - 1)})"
        if depth and shape < 0.5:
            return f"!({self.condition(number, depth - 1)})"
        type_ = self.rng.choice(["text", "integer", "boolean"])
        found = self.reference(number, type_)
        if found is None:
            return self.rng.choice(["true", "false"])
        compared = {"text": f'{found} == "a"', "integer": f"{found} > 1", "boolean": found}[type_]
        step, _, field = found.partition(".")
        return f"({step} has {field} && {compared})" if self.chance(0.5) else compared

    def step(self, number: int, name: str) -> dict[str, Any]:
        kind = self.kinds[name]
        if kind == "choose":
            return {"choose": self.options(number)} | ({"repeat": self.repeat} if self.has_cycles else {})
        after = (*self.flow, "end")[number + 1]
        step: dict[str, Any] = {"next": self.rng.choice(self.flow) if self.chance(0.03) else after}
        if self.has_cycles:
            step["repeat"] = self.repeat if self.chance(0.95) else self.rng.randint(2, 3)
        match kind:
            case "read":
                rows = {"one": True} if self.chance(0.9) else {"limit": 3}
                return step | {"read": "tasks", "where": {"id": self.value(number, "text")}} | rows
            case "compute":
                return step | {"compute": self.computed(number, name)}
        step |= {"irreversible": True}
        if self.chance(0.6):
            step["approval"] = {"within_minutes": 5} | ({"when": "points > 1"} if self.chance(0.5) else {})
        if kind != "create":
            step |= {"where": {"id": self.value(number, "text")}, "one": True}
        columns = [each for each in TASKS.columns if each.name != "id" and (each.required or self.chance(0.3))]
        if kind == "create":
            step["set"] = {"id": "run.id"} | {each.name: self.value(number, each.type) for each in columns}
        if kind == "update":
            step["set"] = {each.name: self.value(number, each.type) for each in columns[-2:]}
        return step | {kind: "tasks"}

    def computed(self, number: int, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index in range(self.rng.randint(1, 2)):
            if self.chance(0.4):
                found[f"x{index}"], type_ = {"when": self.condition(number)}, "boolean"
            else:
                type_ = self.rng.choice(["text", "integer", "bigint", "boolean"])
                found[f"x{index}"] = self.value(number, type_)
            self.fields[name][f"x{index}"] = type_
        return found

    def options(self, number: int) -> dict[str, Any]:
        later = [*self.flow[number + 1 :], "end"]
        condition = self.condition(number)
        whens: list[str | None] = [condition, f"!({condition})"] if self.chance(0.4) else [None, self.condition(number)]
        if self.chance(0.1):
            whens = [self.condition(number), self.condition(number), condition]
        found: dict[str, Any] = {}
        for index, when in enumerate(whens):
            target = (
                later[0]
                if index == 0
                else self.rng.choice(self.flow if self.has_cycles or self.chance(0.05) else later)
            )
            found[f"o{index}"] = {"next": target} | ({"when": when} if when is not None else {})
        return found


class AlwaysFirst(random.Random):
    """Takes the first of all possibilities."""

    def choice(self, seq: Any) -> Any:
        """Returns the first item."""
        return seq[0]


def given(walk: Walk, step: str, rng: random.Random) -> dict[str, Any]:
    """Returns values for the slots of a step."""
    slots = slots_of(walk.bundle.workflows["w"].steps[step])
    return {
        name: rng.choice(slot.choices or GIVEN.get(slot.type, ("2026-05-05", "2026-06-06")))
        for name, slot in slots.items()
    }


def walked(bundle: Bundle, caller: CallCaller, rng: random.Random) -> Walk:
    """Walks one path of a workflow to its end, or to a step whose values nobody can give."""
    stored = Bundle.model_validate_json(canonical(bundle.model_dump(mode="json")))
    walk = Walk(CompiledBundle.of(digest(stored), stored), random_values(rng))
    answer = walk.call(caller, Start("w", {"task": "a"}, "r"))
    refused = 0
    while walk.run is not None and walk.run.ended is None and refused < ATTEMPTS:
        if isinstance(answer, RefusalError):
            assert answer.code in {"invalid_input", "row_missing", "approval_required"}, str(answer)
            refused += 1
            if answer.approval is not None:
                walk.approve(answer.approval.id)
        (expected,) = answer.next
        if not isinstance(answer, RefusalError) or answer.approval is None:
            values = given(walk, expected.step, rng)
            if len(expected.choices) > 1:
                values = {"choice": rng.choice(expected.choices)}
            request = Take(walk.run.id, walk.run.seq, expected.step, values)
        answer = walk.call(caller, request)
    return walk


@pytest.mark.parametrize("seed", range(8))
def test_what_is_accepted_can_be_walked_and_what_is_refused_has_a_line(seed: int) -> None:
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(60):
        steps = Generator(rng).text()
        try:
            bundle = read(steps)
        except BundleFileError as error:
            counts["refused"] += 1
            for line in str(error).splitlines():
                found = ERROR.fullmatch(line)
                assert found is not None or MORE.fullmatch(line), line
                assert found is None or int(found[1]) <= len((HEAD + steps).splitlines()), line
            continue
        for number in range(4):
            walk = walked(bundle, (PERSON, HELPER)[number % 2], rng)
            counts["open" if walk.run is None or walk.run.ended is None else str(walk.run.ended)] += 1
    assert counts["refused"] > 15, counts
    assert counts["finished"] > 60, counts
    assert counts.keys() <= {"refused", "finished", "open"}, counts


def test_the_order_of_the_file_is_not_that_of_the_run() -> None:
    steps = """steps:
  a: {read: tasks, where: {id: input.task}, one: true, next: c}
  b: {compute: {x: c.y, z: {when: "c.y > 1 && c.w"}}, next: end}
  c: {compute: {y: a.points, w: {when: "a.is_open"}}, next: b}
"""
    bundle = read(steps, "tasks: {untrusted: [title], personal: [points, is_open]}\n")

    compiled = CompiledBundle.of(digest(bundle), bundle).workflows["w"]

    assert {name: compiled.fields[name].personal for name in ("b.x", "b.z", "c.y", "c.w")} == dict.fromkeys(
        ("b.x", "b.z", "c.y", "c.w"), True
    )
    assert compiled.fields["b.x"].type == "integer"


@pytest.mark.parametrize("seed", range(4))
def test_a_cycle_that_is_accepted_always_has_a_next_step(seed: int) -> None:
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(150):
        try:
            bundle = read(Generator(rng, share_of_cycles=1).text())
        except BundleFileError:
            continue
        repeat = {each.name: each.repeat for each in bundle.workflows[0].steps}
        for _ in range(4):
            walk = walked(bundle, PERSON, rng)
            if walk.run is None or walk.run.ended is None:
                continue
            taken = Counter(each.step for each in walk.run.done)
            counts[str(walk.run.ended)] += 1
            counts["used up"] += any(taken[name] == most > 1 for name, most in repeat.items())
    assert counts["used up"] > 0, counts
    assert counts.keys() == {"finished", "used up"}, counts


CYCLE = """steps:
  a: {read: tasks, limit: 1, repeat: 3}
  b: {read: tasks, limit: 1, repeat: 3}
  c: {choose: {again: {next: a}, stop: {next: end}}, repeat: 3}
"""


def test_a_cycle_ends_when_it_is_used_up() -> None:
    walk = walked(read(CYCLE.replace("{next: a}", "{next: a, when: 'true'}")), PERSON, AlwaysFirst(1))

    assert walk.run is not None
    assert (walk.run.ended, [each.step for each in walk.run.done]) == ("finished", ["a", "b", "c"] * 3)


@pytest.mark.parametrize("repeats", [(3, 2, 9), (2, 9, 9), (9, 9, 2)])
def test_a_run_of_an_earlier_bundle_that_has_no_next_step_fails(repeats: tuple[int, ...]) -> None:
    """The rules of bundles refuse such cycles now, and runs keep their bundles."""
    bundle = read(CYCLE)
    (workflow,) = bundle.workflows
    changed = [each.model_copy(update={"repeat": count}) for each, count in zip(workflow.steps, repeats, strict=True)]
    again, stop = workflow.steps[-1].options
    options = (again, stop.model_copy(update={"when": Constant(value=False)}))
    changed[-1] = changed[-1].model_copy(update={"options": options})
    bundle = bundle.model_copy(update={"workflows": (workflow.model_copy(update={"steps": tuple(changed)}),)})
    assert [*errors(bundle)]

    walk = walked(bundle, PERSON, random.Random(1))

    assert walk.run is not None
    assert walk.run.ended == "failed"
