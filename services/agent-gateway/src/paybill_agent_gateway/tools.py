"""Tools of a role, derived from the workflows of a bundle: names, JSON Schemas, annotations and descriptions."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from paybill_contracts.agent_bundles import (
    AgentResource,
    Argument,
    Bound,
    Bundle,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    FixedValue,
    InputValue,
    ReadStep,
    RunValue,
    Slot,
    SlotType,
    Step,
    TemplateValue,
    UpdateStep,
    Workflow,
)

Schema: TypeAlias = dict[str, Any]

END = "end"
SEPARATOR = "__"
"""Between the workflow and the step in the name of a step's tool."""

CHOICE = "choice"
"""Argument that names the option of a choice."""

MAX_TEXT = 10_000
"""Characters of a text from a caller."""

MAX_CALL_BYTES = 256 * 1024
"""Maximum of the body of a call, at both endpoints."""

MAX_CACHED = 64
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INT32 = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_INT64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_COLUMNS: Mapping[str, Schema] = {
    "text": {"type": "string"},
    "uuid": {"type": "string", "format": "uuid"},
    "integer": _INT32,
    "bigint": _INT64,
    "boolean": {"type": "boolean"},
    "timestamptz": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "numeric": {"type": "string", "description": "A decimal number."},
    "jsonb": {"type": "string", "description": "JSON."},
    "bytea": {"type": "string", "description": "Base64."},
}
_SLOTS: Mapping[SlotType, Schema] = {
    SlotType.TEXT: {"type": "string", "maxLength": MAX_TEXT},
    SlotType.INTEGER: _INT64,
    SlotType.BOOLEAN: {"type": "boolean"},
    SlotType.CHOICE: {"type": "string"},
    SlotType.DATE: {"type": "string", "format": "date"},
    SlotType.TIME: {"type": "string", "format": "date-time"},
}
_RUN: Schema = {"type": "string", "pattern": "^run_[0-9a-f]{32}$", "description": "Id of the run, of an answer."}
_SEQ: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": 2**31 - 1,
    "description": "Number of this call: `seq` of the run's last answer. Repeat a call with the same number.",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of an agent: it starts a workflow, or executes one of its steps.

    step: None for the start. document: as in the answer to `tools/list`.
    """

    name: str
    workflow: str
    step: str | None
    document: Mapping[str, Any]


class ToolCache:
    """The tools of the bundles and roles that were used last; they are derived once."""

    def __init__(self) -> None:
        self._tools: OrderedDict[tuple[str, str], Mapping[str, Tool]] = OrderedDict()

    def tools(self, bundle_hash: str, bundle: Bundle, role: str) -> Mapping[str, Tool]:
        """Returns the tools of a role by their names, sorted. bundle_hash: of `bundle`."""
        key = (bundle_hash, role)
        found = self._tools.get(key)
        if found is None:
            found = self._tools[key] = tools(bundle, role)
            while len(self._tools) > MAX_CACHED:
                self._tools.popitem(last=False)
        self._tools.move_to_end(key)
        return found


def tools(bundle: Bundle, role: str) -> dict[str, Tool]:
    """Returns the tools of a role by their names, sorted."""
    resources = {each.name: each for each in bundle.resources}
    found = [
        tool
        for workflow in bundle.workflows
        if workflow.role == role
        for tool in (_start(workflow, resources), *_steps(workflow, resources))
    ]
    return {tool.name: tool for tool in sorted(found, key=lambda tool: tool.name)}


def step_tool(workflow: str, step: str) -> str:
    """Returns the name of the tool of a step."""
    return f"{workflow}{SEPARATOR}{step}"


def slots_of(step: Step) -> dict[str, Slot]:
    """Returns the slots of a step by the names of their arguments."""
    return {name: value for name, value in _arguments(step) if isinstance(value, Slot)}


def is_called(step: Step) -> bool:
    """Returns whether a step may wait for a call: it has slots, several options, or needs an approval."""
    if isinstance(step, ChooseStep):
        return len(step.options) > 1
    if isinstance(step, CreateStep | UpdateStep | DeleteStep) and step.approval is not None:
        return True
    return bool(slots_of(step))


def executed(workflow: Workflow, first: str) -> list[Step]:
    """Returns the steps that one call may execute: `first`, and those after it that need no other call."""
    by_name = {step.name: step for step in workflow.steps}
    found: dict[str, Step] = {}
    open_ = [first]
    while open_:
        name = open_.pop()
        if name == END or name in found:
            continue
        step = found[name] = by_name[name]
        targets = [option.next for option in step.options] if isinstance(step, ChooseStep) else [step.next]
        open_ += [each for each in targets if each != END and not slots_of(by_name[each])]
    return sorted(found.values(), key=workflow.steps.index)


def _arguments(step: Step) -> Iterator[tuple[str, Argument]]:
    match step:
        case ReadStep() | DeleteStep():
            yield from step.where.items()
        case CreateStep():
            yield from step.set.items()
        case UpdateStep():
            yield from step.where.items()
            yield from step.set.items()
        case ComputeStep():
            yield from step.values.items()
        case ChooseStep():
            return


def _start(workflow: Workflow, resources: Mapping[str, AgentResource]) -> Tool:
    first = workflow.steps[0]
    done = [] if slots_of(first) else executed(workflow, first.name)
    properties = {each.name: _input(_column(resources, each.resource, each.column).schema) for each in workflow.inputs}
    return Tool(
        name=workflow.name,
        workflow=workflow.name,
        step=None,
        document={
            "name": workflow.name,
            "description": workflow.description or _derived(workflow, done),
            "inputSchema": _object(properties),
            "outputSchema": _answer(workflow, resources),
            "annotations": _annotations(done),
        },
    )


def _steps(workflow: Workflow, resources: Mapping[str, AgentResource]) -> Iterator[Tool]:
    for step in workflow.steps:
        if not is_called(step):
            continue
        name, done = step_tool(workflow.name, step.name), executed(workflow, step.name)
        properties: dict[str, Schema] = {"run": _RUN, "seq": _SEQ}
        if isinstance(step, ChooseStep):
            properties[CHOICE] = {"type": "string", "enum": [option.name for option in step.options]}
        else:
            properties |= {slot_name: _slot(slot) for slot_name, slot in slots_of(step).items()}
        yield Tool(
            name=name,
            workflow=workflow.name,
            step=step.name,
            document={
                "name": name,
                "description": _description(workflow, step),
                "inputSchema": _object(properties),
                "outputSchema": _answer(workflow, resources),
                "annotations": _annotations(done),
            },
        )


def _derived(workflow: Workflow, done: Sequence[Step]) -> str:
    """Returns the sentences about the start of a workflow without a description. done: what the start may execute."""
    return " ".join([f"Starts the workflow {workflow.name}.", *dict.fromkeys(map(_effect, done))])


def _description(workflow: Workflow, step: Step) -> str:
    """Returns the sentences about a step, which are made of its definition alone."""
    about = f"Step {step.name} of {workflow.name}"
    parts = [f"{about}: {workflow.description}" if workflow.description else f"{about}.", _effect(step)]
    if isinstance(step, CreateStep | UpdateStep | DeleteStep):
        if step.irreversible:
            parts.append("It cannot be undone.")
        if step.approval is not None:
            parts.append("A person may have to approve it; then repeat the call with the same arguments.")
    return " ".join(parts)


def _effect(step: Step) -> str:
    match step:
        case ReadStep():
            return f"Reads {'one row' if step.one else f'up to {step.limit} rows'} of {step.resource}."
        case CreateStep():
            return f"Creates one row of {step.resource}."
        case UpdateStep():
            return f"Updates up to {step.limit} rows of {step.resource}."
        case DeleteStep():
            return f"Deletes up to {step.limit} rows of {step.resource}."
        case ComputeStep():
            return "Computes values."
        case ChooseStep():
            return "Chooses the next step."


@dataclass(frozen=True, slots=True)
class _Typed:
    """The JSON Schema of a column, and whether it may be NULL."""

    schema: Schema
    nullable: bool = False

    @property
    def value(self) -> Schema:
        """The schema of a value in an answer."""
        return {"anyOf": [self.schema, {"type": "null"}]} if self.nullable else self.schema


def _column(resources: Mapping[str, AgentResource], resource: str, column: str) -> _Typed:
    found = next(each for each in resources[resource].columns if each.name == column)
    return _Typed(_COLUMNS.get(found.type, {"type": "string"}), found.nullable)


def _object(properties: Mapping[str, Schema], required: Sequence[str] | None = None) -> Schema:
    return {
        "$schema": _DIALECT,
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _nested(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {key: value for key, value in _object(properties, required).items() if key != "$schema"}


def _input(column: Schema) -> Schema:
    return {**column, "maxLength": MAX_TEXT} if column["type"] == "string" else column


def _slot(slot: Slot) -> Schema:
    schema = dict(_SLOTS[slot.type])
    words: list[str] = []
    if slot.type is SlotType.TEXT and slot.max_length is not None:
        schema["maxLength"] = slot.max_length
    if slot.type is SlotType.CHOICE:
        schema["enum"] = list(slot.choices)
    for bound, keyword, word in ((slot.minimum, "minimum", "at least"), (slot.maximum, "maximum", "at most")):
        if bound is None:
            continue
        if slot.type is SlotType.INTEGER and isinstance(bound, FixedValue):
            schema[keyword] = bound.value
        else:
            words.append(f"{word} {_bound(bound)}")
    if words:
        schema["description"] = ", ".join(words)
    return schema


def _bound(bound: Bound) -> str:
    return f"{bound.step}.{bound.field}" if isinstance(bound, FieldValue) else str(bound.value)


def _annotations(done: Sequence[Step]) -> Schema:
    """Returns the hints of a call that may execute these steps. Repeating a call is safe: it has a number."""
    return {
        "readOnlyHint": not any(isinstance(step, CreateStep | UpdateStep | DeleteStep) for step in done),
        "destructiveHint": any(isinstance(step, UpdateStep | DeleteStep) for step in done),
        "idempotentHint": True,
        "openWorldHint": False,
    }


def _answer(workflow: Workflow, resources: Mapping[str, AgentResource]) -> Schema:
    """Returns the schema of the answers of a workflow.

    It has no bounds and no required fields: an answer of a run that began under an earlier bundle follows it, too.
    """
    values: dict[str, Schema] = {}
    rows: dict[str, Schema] = {}
    for step in workflow.steps:
        row = _nested({name: each.value for name, each in _fields(step, workflow, resources).items()})
        if not isinstance(step, ReadStep) or step.one:
            values[step.name] = row
        if isinstance(step, UpdateStep | DeleteStep) or (isinstance(step, ReadStep) and not step.one):
            rows[step.name] = {"type": "array", "items": row}
    allowed = _nested(
        {
            "tool": {"type": "string"},
            "step": {"type": "string"},
            "slots": {"type": "array", "items": {"type": "string"}},
            "choices": {"type": "array", "items": {"type": "string"}},
        },
        ("tool", "step", "slots", "choices"),
    )
    return _object(
        {
            "run": _RUN,
            "seq": _SEQ,
            "state": {"enum": ["waiting", "ended"]},
            "step": {"type": ["string", "null"]},
            "values": _nested(values),
            "rows": _nested(rows),
            "next": {"type": "array", "items": allowed},
            "ended": {"type": ["string", "null"]},
        }
    )


def _fields(step: Step, workflow: Workflow, resources: Mapping[str, AgentResource]) -> dict[str, _Typed]:
    """Returns the fields of a step's row."""
    match step:
        case ReadStep() | CreateStep() | UpdateStep() | DeleteStep():
            visible = [each.name for each in resources[step.resource].columns if not each.hidden]
            return {name: _column(resources, step.resource, name) for name in visible}
        case ComputeStep():
            computed = {name: _argument(value, workflow, resources) for name, value in step.values.items()}
            return computed | {name: _Typed({"type": "boolean"}) for name in step.conditions}
        case ChooseStep():
            return {CHOICE: _Typed({"type": "string"})}


def _argument(value: Argument, workflow: Workflow, resources: Mapping[str, AgentResource]) -> _Typed:
    match value:
        case Slot():
            return _Typed(_SLOTS[value.type])
        case FixedValue(value=fixed):
            kind = "boolean" if isinstance(fixed, bool) else "integer" if isinstance(fixed, int) else "string"
            return _Typed({"type": kind}, nullable=fixed is None)
        case InputValue():
            given = next(each for each in workflow.inputs if each.name == value.name)
            return _Typed(_column(resources, given.resource, given.column).schema)
        case FieldValue():
            step = next(each for each in workflow.steps if each.name == value.step)
            return _fields(step, workflow, resources)[value.field]
        case TemplateValue():
            return _Typed({"type": "string"})
        case RunValue():
            return _Typed(_RUN)
