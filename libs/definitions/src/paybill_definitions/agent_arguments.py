"""Reads the arguments of a workflow's steps: constants, references, templates and slots."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from paybill_contracts.agent_bundles import (
    Argument,
    Bound,
    FieldValue,
    FixedValue,
    InputValue,
    LineOfText,
    RunValue,
    Scalar,
    Slot,
    SlotType,
    TemplateValue,
)
from pydantic import TypeAdapter, ValidationError

from paybill_definitions.definition_file import StrictInput
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, Path, line_of, validated

_REFERENCE = re.compile(r"[a-z][a-z0-9_-]{0,62}\.[a-z][a-z0-9_-]{0,62}")
_EXPRESSION = re.compile(r"\$\{([^}]*)\}")
_SCALAR: TypeAdapter[Scalar] = TypeAdapter(Scalar)
_RANGES = frozenset({SlotType.INTEGER, SlotType.DATE, SlotType.TIME})
_Reference = InputValue | FieldValue | RunValue


class _Slot(StrictInput):
    slot: SlotType
    min: Any = None
    max: Any = None
    of: tuple[LineOfText, ...] = ()


class _Fixed(StrictInput):
    value: Any


class _Template(StrictInput):
    text: str


def arguments(values: Mapping[str, Any], lines: Lines, path: Path) -> dict[str, Argument]:
    """Returns the arguments by name. Raises InvalidDocumentError with every error."""
    found: dict[str, Argument] = {}
    faults: list[Diagnostic] = []
    for name, value in values.items():
        try:
            found[name] = argument(value, lines, (*path, name))
        except InvalidDocumentError as error:
            faults += error.diagnostics
    if faults:
        raise InvalidDocumentError(*faults)
    return found


def argument(value: Any, lines: Lines, path: Path) -> Argument:
    """Returns one argument. Raises InvalidDocumentError."""
    if not isinstance(value, dict):
        return reference(value, lines, path) if is_reference(value) else _fixed(value, lines, path)
    if "slot" in value:
        return _slot(validated(_Slot, value, lines, path), lines, path)
    if "text" in value:
        return _template(validated(_Template, value, lines, path).text, lines, path)
    if "value" in value:
        return _fixed(validated(_Fixed, value, lines, path).value, lines, (*path, "value"))
    raise fault(lines, path, "write a value, `step.field`, {slot: …}, {text: …} or {value: …}")


def fault(lines: Lines, path: Path, reason: str) -> InvalidDocumentError:
    """Returns the error at the nearest known line of `path`."""
    return InvalidDocumentError(Diagnostic(line_of(lines, path), f"{'.'.join(str(each) for each in path)}: {reason}"))


def is_reference(value: object) -> bool:
    """Returns whether the value is a text of the form `step.field`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def reference(text: str, lines: Lines, path: Path) -> _Reference:
    """Returns the input, the run's id or the field of a step that `text` names. Raises InvalidDocumentError."""
    owner, _, name = text.partition(".")
    if owner == "input":
        return InputValue(name=name)
    if owner != "run":
        return FieldValue(step=owner, field=name)
    if name != "id":
        raise fault(lines, path, f"a run has the id alone: run.id, not {text}")
    return RunValue()


def _fixed(value: Any, lines: Lines, path: Path) -> FixedValue:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise fault(lines, path, "a time needs its zone, such as 2026-01-31T08:00:00Z")
        value = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    elif isinstance(value, date):
        value = value.isoformat()
    try:
        return FixedValue(value=None if value is None else _SCALAR.validate_python(value, strict=True))
    except ValidationError:
        reason = "write a text of 100,000 characters at most, a whole number, true, false or null"
        raise fault(lines, path, f"{reason}; numbers with a fraction are texts") from None


def _template(text: str, lines: Lines, path: Path) -> TemplateValue:
    parts: list[FixedValue | InputValue | FieldValue | RunValue] = []
    position = 0
    for match in _EXPRESSION.finditer(text):
        if not is_reference(match[1]):
            raise fault(lines, path, f"{match[0]:.80} is no reference such as ${{ticket.id}}")
        if match.start() > position:
            parts.append(FixedValue(value=text[position : match.start()]))
        parts.append(reference(match[1], lines, path))
        position = match.end()
    if position < len(text):
        parts.append(FixedValue(value=text[position:]))
    return TemplateValue(parts=tuple(parts))


def _slot(slot: _Slot, lines: Lines, path: Path) -> Slot:
    is_range = slot.slot in _RANGES
    if slot.of and slot.slot is not SlotType.CHOICE:
        raise fault(lines, (*path, "of"), f"`of` belongs to a choice, not to {slot.slot}")
    if slot.slot is SlotType.TEXT and slot.min is None:
        if not isinstance(slot.max, int) or isinstance(slot.max, bool) or slot.max < 1:
            raise fault(lines, (*path, "max"), "a text needs `max`: its greatest number of characters")
        return Slot(type=slot.slot, max_length=slot.max)
    if not is_range and (slot.min is not None or slot.max is not None):
        raise fault(lines, path, f"a {slot.slot} has no such limit")
    return Slot(
        type=slot.slot,
        minimum=_bound(slot.min, lines, (*path, "min")),
        maximum=_bound(slot.max, lines, (*path, "max")),
        choices=slot.of,
    )


def _bound(value: Any, lines: Lines, path: Path) -> Bound | None:
    if value is None:
        return None
    found = argument(value, lines, path)
    if not isinstance(found, FixedValue | FieldValue):
        raise fault(lines, path, "a limit is a constant or a field of an earlier step")
    return found
