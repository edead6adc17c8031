"""Text of conditions, grants, arguments and steps, in the words of their files, for people. Pure."""

import json
from collections.abc import Mapping

from paybill_contracts.agent_bundles import (
    Argument,
    ChooseStep,
    Compensation,
    ComputeStep,
    FieldValue,
    FixedValue,
    Grant,
    InputValue,
    ReadStep,
    Slot,
    SlotType,
    Step,
    TemplateValue,
)
from paybill_contracts.agent_expressions import (
    And,
    ColumnValue,
    Comparison,
    Condition,
    Constant,
    HasValue,
    Not,
    OneOf,
    Operand,
    Or,
    StartsWith,
)

from paybill_definitions.agent_arguments import is_reference

COLUMN = "resource."
"""Before the name of a column in a grant; a workflow names columns alone."""


def condition_text(condition: Condition, column: str = "") -> str:
    """Returns the expression of a condition. column: what its file writes before the name of a column."""
    match condition:
        case And():
            return " && ".join(_part(each, column) for each in _chain(condition, And))
        case Or():
            return " || ".join(_part(each, column) for each in _chain(condition, Or))
        case Not():
            return f"!({condition_text(condition.operand, column)})"
        case HasValue():
            owner, _, name = condition.name.rpartition(".")
            return f"{owner or 'resource'} has {name}"
        case Comparison():
            left, right = _operand(condition.left, column), _operand(condition.right, column)
            return f"{left} {condition.operator} {right}"
        case OneOf():
            values = ", ".join(_operand(each, column) for each in condition.values)
            return f"[{values}].contains({_operand(condition.item, column)})"
        case StartsWith():
            pattern = _quoted(condition.prefix.replace("*", "\x00"))[1:-1].replace("\\u0000", "\\*")
            return f'{_operand(condition.item, column)} like "{pattern}*"'
        case _:
            return _operand(condition, column)


def _chain(condition: Condition, join: type[And] | type[Or]) -> list[Condition]:
    """Returns the parts of `a && b && c` in order."""
    parts: list[Condition] = []
    rest = [condition]
    while rest:
        node = rest.pop()
        if isinstance(node, And | Or) and isinstance(node, join):
            rest += [node.right, node.left]
        else:
            parts.append(node)
    return parts


def _part(condition: Condition, column: str) -> str:
    text = condition_text(condition, column)
    return f"({text})" if isinstance(condition, And | Or) else text


def _operand(operand: Operand, column: str) -> str:
    match operand:
        case ColumnValue():
            return operand.name if "." in operand.name else f"{column}{operand.name}"
        case Constant():
            return _quoted(operand.value)
        case _:
            return f'datetime("{operand.at.isoformat().replace("+00:00", "Z")}")'


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def grant_text(grant: Grant) -> str:
    """Returns a grant on one line: effect, role, actions, resources with their columns, and condition."""
    role = f"role {grant.role}" if grant.role else "every role"
    resources = [
        f"{name} ({', '.join(grant.columns[name])})" if name in grant.columns else name for name in grant.resources
    ]
    when = f" when {condition_text(grant.condition, COLUMN)}" if grant.condition is not None else ""
    return f"{grant.effect} {role} to {', '.join(grant.verbs)}: {', '.join(resources)}{when}"


def argument_text(argument: Argument) -> str:
    """Returns an argument as a workflow file has it."""
    match argument:
        case FixedValue():
            return f"{{value: {argument.value}}}" if is_reference(argument.value) else _quoted(argument.value)
        case InputValue():
            return f"input.{argument.name}"
        case FieldValue():
            return f"{argument.step}.{argument.field}"
        case TemplateValue():
            parts = (str(p.value) if isinstance(p, FixedValue) else f"${{{argument_text(p)}}}" for p in argument.parts)
            return f"{{text: {_quoted(''.join(parts))}}}"
        case Slot():
            return _slot(argument)
        case _:
            return "run.id"


def _slot(slot: Slot) -> str:
    limits = {"min": slot.minimum, "max": slot.maximum}
    parts = {name: argument_text(each) for name, each in limits.items() if each is not None}
    if slot.type is SlotType.TEXT:
        parts["max"] = str(slot.max_length)
    if slot.choices:
        parts["of"] = f"[{', '.join(slot.choices)}]"
    return f"{{{', '.join([f'slot: {slot.type}', *(f'{name}: {text}' for name, text in parts.items())])}}}"


def step_parts(step: Step) -> dict[str, str]:
    """Returns the text of each part of a step, by its path in the file below the step."""
    parts: dict[str, str] = {"next": step.next, "repeat": str(step.repeat)}
    match step:
        case ComputeStep():
            parts |= _arguments("compute", step.values)
            parts |= {f"compute.{name}": f"{{when: {condition_text(each)}}}" for name, each in step.conditions.items()}
        case ChooseStep():
            for option in step.options:
                when = f"when: {condition_text(option.when)}, " if option.when is not None else ""
                parts[f"choose.{option.name}"] = f"{{{when}next: {option.next}}}"
            del parts["next"]
        case _:
            parts[step.kind] = step.resource
            for part in ("where", "set"):
                parts |= _arguments(part, getattr(step, part, {}))
            if "limit" in type(step).model_fields:
                parts["limit"] = str(getattr(step, "limit", ""))
            parts |= _read_parts(step) if isinstance(step, ReadStep) else {}
            parts |= {} if isinstance(step, ReadStep) else _write_parts(step)
    return {name: text for name, text in parts.items() if (name, text) != ("repeat", "1")}


def _arguments(part: str, arguments: Mapping[str, Argument]) -> dict[str, str]:
    return {f"{part}.{name}": argument_text(each) for name, each in arguments.items()}


def _read_parts(step: ReadStep) -> dict[str, str]:
    order = [f"{'-' if each.descending else ''}{each.column}" for each in step.order]
    parts = {"columns": ", ".join(step.columns), "one": "true" if step.one else "false"}
    return parts | ({"order": ", ".join(order)} if order else {})


def _write_parts(step: Step) -> dict[str, str]:
    approval, undo = getattr(step, "approval", None), getattr(step, "compensation", None)
    parts = {"irreversible": "true"} if getattr(step, "irreversible", False) else {}
    if approval is not None:
        when = f"when: {condition_text(approval.when)}, " if approval.when is not None else ""
        parts["approval"] = f"{{{when}within_minutes: {approval.within_minutes}}}"
    if isinstance(undo, Compensation):
        parts[f"compensation.{undo.verb}"] = undo.resource
        parts |= _arguments("compensation.where", undo.where) | _arguments("compensation.set", undo.set)
    return parts
