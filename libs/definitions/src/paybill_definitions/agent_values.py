"""Types of arguments: each fits its column, names what exists and has run before, and is bound. Pure."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime

from paybill_contracts.agent_bundles import (
    Argument,
    Bound,
    FieldValue,
    FixedValue,
    InputValue,
    ResourceColumn,
    Scalar,
    Slot,
    SlotType,
    TemplateValue,
)

from paybill_definitions.agent_conditions import GROUPS, UUID
from paybill_definitions.agent_fields import INTEGER_MAX, Fields

MAX_TEXT = 100_000
"""Characters of a text from a model."""
MAX_CHOICES = 100
_NUMERIC = re.compile(r"-?[0-9]{1,1000}(\.[0-9]{1,1000})?")
_WIDENED = {("integer", "bigint")}
_RANGES = {SlotType.INTEGER: "integer", SlotType.DATE: "date", SlotType.TIME: "timestamptz"}


def errors(argument: Argument, column: ResourceColumn, fields: Fields, before: frozenset[str]) -> Iterator[str]:
    """Yields why an argument cannot be the value of `column`. before: steps that have run on every path."""
    found = [*references(argument, fields, before)]
    if isinstance(argument, Slot):
        found += _slot(argument, fields)
    yield from found or _fits(argument, column, fields)


def references(argument: Argument, fields: Fields, before: frozenset[str]) -> Iterator[str]:
    """Yields the references of an argument that name nothing, or nothing that has run."""
    match argument:
        case InputValue():
            if argument.name not in fields.inputs:
                yield f"there is no input {argument.name}, only {', '.join(sorted(fields.inputs)) or 'none'}"
        case FieldValue():
            yield from _field(argument, fields, before)
        case TemplateValue():
            for part in argument.parts:
                yield from references(part, fields, before)
                column = fields.type_of(part)
                if isinstance(part, FixedValue) or column is None:
                    continue
                if column.nullable:
                    yield f"{_named(part)} may be NULL and cannot be part of a text"
                if column.type not in {*GROUPS, "numeric"}:
                    yield f"{_named(part)} is {column.type} and cannot be part of a text"
        case Slot():
            for bound in (argument.minimum, argument.maximum):
                if bound is not None:
                    yield from references(bound, fields, before)
        case _:
            pass


def _field(argument: FieldValue, fields: Fields, before: frozenset[str]) -> Iterator[str]:
    known = fields.fields(argument.step)
    if not known:
        steps = ", ".join(sorted({*fields.reads, *fields.computed})) or "none"
        yield (
            f"there is no step {argument.step} with one row or with values, only {steps}; "
            f"for a constant write {{value: {argument.step}.{argument.field}}}"
        )
    elif argument.field not in known:
        yield f"the step {argument.step} has no field {argument.field}, only {', '.join(sorted(known))}"
    elif argument.step not in before:
        yield f"the step {argument.step} has not run on every path to this step"


def _named(argument: Argument) -> str:
    match argument:
        case InputValue():
            return f"input.{argument.name}"
        case FieldValue():
            return f"{argument.step}.{argument.field}"
        case TemplateValue():
            return "a text"
        case Slot():
            return f"a slot of {argument.type}"
        case _:
            return "the value"


def _slot(slot: Slot, fields: Fields) -> Iterator[str]:
    if slot.type is SlotType.TEXT:
        if slot.max_length is None or not 1 <= slot.max_length <= MAX_TEXT:
            yield f"a text needs `max`: 1 to {MAX_TEXT} characters"
    elif slot.max_length is not None:
        yield f"a slot of {slot.type} has no number of characters"
    if slot.type is SlotType.CHOICE:
        if not 1 <= len(set(slot.choices)) == len(slot.choices) <= MAX_CHOICES:
            yield f"a choice needs `of`: 1 to {MAX_CHOICES} different texts"
    elif slot.choices:
        yield f"a slot of {slot.type} has no `of`"
    bounds = [each for each in (slot.minimum, slot.maximum) if each is not None]
    if slot.type not in _RANGES:
        if bounds:
            yield f"a slot of {slot.type} has no limits"
        return
    faults = [reason for bound in bounds for reason in _bound(slot, bound, fields)]
    yield from faults
    low, high = slot.minimum, slot.maximum
    if not faults and isinstance(low, FixedValue) and isinstance(high, FixedValue) and _is_above(low.value, high.value):
        yield f"the smallest value {low.value} is above the greatest {high.value}"


def _is_above(low: object, high: object) -> bool:
    return low > high if isinstance(low, int) and isinstance(high, int) else str(low) > str(high)


def _bound(slot: Slot, bound: Bound, fields: Fields) -> Iterator[str]:
    type_ = _RANGES[slot.type]
    if isinstance(bound, FixedValue):
        wide = ResourceColumn(name="limit", type="bigint" if type_ == "integer" else type_, nullable=False)
        yield from _constant(bound, wide)
        return
    column = fields.type_of(bound)
    if column is not None and GROUPS.get(column.type) != GROUPS[type_]:
        yield f"{_named(bound)} is {column.type} and no limit of a slot of {slot.type}"
    if column is not None and column.nullable:
        yield f"{_named(bound)} may be NULL and cannot be a limit; make the column `required` in the blueprint"


def _fits(argument: Argument, column: ResourceColumn, fields: Fields) -> Iterator[str]:
    if isinstance(argument, FixedValue):
        yield from _constant(argument, column)
        return
    found = fields.type_of(argument)
    if found is None:
        return
    if found.type != column.type and (found.type, column.type) not in _WIDENED:
        yield f"{_named(argument)} is {found.type}, and {column.name} is {column.type}"
    elif found.nullable and not column.nullable:
        yield f"{_named(argument)} may be NULL, and {column.name} may not"


def _constant(argument: FixedValue, column: ResourceColumn) -> Iterator[str]:
    value = argument.value
    if value is None:
        if not column.nullable:
            yield f"{column.name} cannot be NULL"
    elif not _is_value(value, column.type):
        yield f"{value!r:.80} is no value of {column.name}: write {_FORMS.get(column.type, 'no constant')}"


_FORMS = {
    "text": "a text without NUL",
    "uuid": "a uuid in lower case with dashes",
    "integer": "a whole number of 32 bits",
    "bigint": "a whole number of 64 bits",
    "boolean": "true or false",
    "date": "a date such as 2026-01-31",
    "timestamptz": "a time in UTC such as 2026-01-31T08:00:00Z",
    "numeric": 'a number as text, such as "12.50"',
    "jsonb": "JSON as text",
    "bytea": "no constant: it is a column of bytes",
}


def _is_value(value: Scalar, type_: str) -> bool:
    """Returns whether a constant is a value of the type, in its one canonical form."""
    if isinstance(value, bool):
        return type_ == "boolean"
    if isinstance(value, int):
        return type_ == "bigint" or (type_ == "integer" and -INTEGER_MAX - 1 <= value <= INTEGER_MAX)
    match type_:
        case "text":
            return "\x00" not in value
        case "uuid":
            return UUID.fullmatch(value) is not None
        case "numeric":
            return _NUMERIC.fullmatch(value) is not None
        case "date" | "timestamptz":
            return _is_moment(value, type_)
        case "jsonb":
            return _is_json(value)
        case _:
            return False


def _is_moment(value: str, type_: str) -> bool:
    try:
        if type_ == "date":
            return date.fromisoformat(value).isoformat() == value
        at = datetime.fromisoformat(value)
        return at.tzinfo is not None and at.astimezone(UTC).isoformat().replace("+00:00", "Z") == value
    except (ValueError, OverflowError):
        return False


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return "\\u0000" not in value
