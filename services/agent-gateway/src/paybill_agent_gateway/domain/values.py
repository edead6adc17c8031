"""Values of calls: inputs, slots and choices are checked, and arguments resolved. All of them are in canonical form."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

from paybill_contracts.agent_bundles import (
    Argument,
    Bound,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    FixedValue,
    InputValue,
    ReadStep,
    ResourceColumn,
    RunValue,
    Scalar,
    Slot,
    SlotType,
    Step,
    TemplateValue,
    UpdateStep,
    Workflow,
)

from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.columns import ValueRefusedError, canonical, native
from paybill_agent_gateway.domain.conditions import moment
from paybill_agent_gateway.domain.refusals import InvalidFieldError, InvalidInputError

MAX_INPUT = 10_000
"""Maximum length of a text input."""

_SLOT_TYPES = {
    SlotType.TEXT: "text",
    SlotType.CHOICE: "text",
    SlotType.INTEGER: "bigint",
    SlotType.BOOLEAN: "boolean",
    SlotType.DATE: "date",
    SlotType.TIME: "timestamptz",
}


@dataclass(frozen=True, slots=True)
class Known:
    """Values of a run so far. rows: the last row of each step that reads or writes one, or that computes."""

    run: str
    inputs: PlainFields
    rows: Mapping[str, PlainFields]


def inputs_of(
    workflow: Workflow, columns: Mapping[str, Mapping[str, ResourceColumn]], given: Mapping[str, object]
) -> PlainFields:
    """Returns the inputs of a run in canonical form. Raises InvalidInputError."""
    _require_names({each.name for each in workflow.inputs}, given, f"the workflow {workflow.name}", "input")
    found: PlainFields = {}
    for each in workflow.inputs:
        type_ = columns[each.resource][each.column].type
        found[each.name] = checked(type_, given[each.name], f"the input {each.name}")
    return found


def require_plain(given: Mapping[str, object]) -> None:
    """Raises InvalidInputError for a value that is no text, integer of 64 bits or boolean, or that cannot be stored."""
    for value in given.values():
        if isinstance(value, str):
            _require_text(value, "an argument")
        elif not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise InvalidInputError("an argument is neither a text nor an integer of 64 bits nor a boolean")


def slots_of(step: Step) -> dict[str, Slot]:
    """Returns the slots of a step by the name of their argument, which has to be unique in the step."""
    match step:
        case ReadStep() | DeleteStep():
            arguments = step.where.items()
        case CreateStep():
            arguments = step.set.items()
        case UpdateStep():
            arguments = (step.where | step.set).items()
        case ComputeStep():
            arguments = step.values.items()
        case _:
            return {}
    return {name: value for name, value in arguments if isinstance(value, Slot)}


def slot_values(step: Step, known: Known, given: Mapping[str, object]) -> PlainFields:
    """Returns the values of all slots of a step, inside their bounds. Raises InvalidInputError, InvalidFieldError."""
    slots = slots_of(step)
    _require_names(slots.keys(), given, f"the step {step.name}", "slot")
    return {name: _slot(name, slot, known, given[name]) for name, slot in slots.items()}


def constant_slots(step: Step, given: Mapping[str, object]) -> None:
    """Checks the slots of a step outside a run: by their types and constant bounds. Raises InvalidInputError."""
    slots = slots_of(step)
    _require_names(slots.keys(), given, f"the step {step.name}", "slot")
    for name, slot in slots.items():
        bounds = {key: None for key in ("minimum", "maximum") if isinstance(getattr(slot, key), FieldValue)}
        _slot(name, slot.model_copy(update=bounds), Known("", {}, {}), given[name])


def resolve(name: str, argument: Argument, known: Known, slots: Mapping[str, Scalar | None]) -> Scalar | None:
    """Returns the value of an argument. Raises InvalidFieldError for a field that does not exist in this run."""
    match argument:
        case FixedValue():
            return argument.value
        case InputValue():
            return known.inputs[argument.name]
        case FieldValue():
            return field_of(argument, known)
        case RunValue():
            return known.run
        case TemplateValue():
            return "".join(_text_of(resolve(name, part, known, slots)) for part in argument.parts)
        case Slot():
            return slots[name]
        case _:
            assert_never(argument)


def field_of(field: FieldValue, known: Known) -> Scalar | None:
    """Returns a field of an earlier step. Raises InvalidFieldError when that step has no row in this run."""
    row = known.rows.get(field.step)
    if row is None or field.field not in row:
        raise InvalidFieldError(
            f"{field.step}.{field.field} has no value in this run; the workflow needs another order"
        )
    return row[field.field]


def bound_of(bound: Bound | None, known: Known) -> Scalar | None:
    """Returns the value of a bound of a slot; None for no bound. Raises InvalidFieldError when it is NULL."""
    if bound is None:
        return None
    value = bound.value if isinstance(bound, FixedValue) else field_of(bound, known)
    if value is None:
        raise InvalidFieldError("a field that bounds a slot is NULL; the row has to be completed first")
    return value


def _slot(name: str, slot: Slot, known: Known, given: object) -> Scalar:
    what = f"the slot {name}"
    value = checked(_SLOT_TYPES[slot.type], given, what)
    if slot.type is SlotType.CHOICE and value not in slot.choices:
        raise InvalidInputError(f"{what} is one of: {', '.join(slot.choices)}")
    if slot.max_length is not None and isinstance(value, str) and len(value) > slot.max_length:
        raise InvalidInputError(f"{what} has {len(value)} characters; {slot.max_length} are allowed")
    minimum, maximum = bound_of(slot.minimum, known), bound_of(slot.maximum, known)
    if minimum is not None and _is_less(value, minimum):
        raise InvalidInputError(f"{what} is less than its minimum, {_name(slot.minimum)}")
    if maximum is not None and _is_less(maximum, value):
        raise InvalidInputError(f"{what} is more than its maximum, {_name(slot.maximum)}")
    return value


def _name(bound: Bound | None) -> str:
    """Returns a bound as in refusals, whose facts are in clear: a field by its name, as its value may be personal."""
    return f"{bound.step}.{bound.field}" if isinstance(bound, FieldValue) else str(bound.value if bound else None)


def _is_less(left: Scalar, right: Scalar) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    first, second = moment(left), moment(right)
    if first is None or second is None:
        raise InvalidFieldError("a slot has a bound that is not a finite time; the row has to be corrected first")
    return first < second


def checked(type_: str, value: object, what: str) -> Scalar:
    """Returns a value from a caller in canonical form. Raises InvalidInputError."""
    if value is None:
        raise InvalidInputError(f"{what} is null; give a value of the type {type_}")
    if isinstance(value, str):
        _require_text(value, what)
    if not isinstance(value, str | int) or (isinstance(value, bool) and type_ != "boolean"):
        raise InvalidInputError(f"{what} is not a value of the type {type_}")
    try:
        found = canonical(type_, native(type_, value))
    except (ValueRefusedError, OverflowError) as error:
        raise InvalidInputError(f"{what} is not a value of the type {type_}") from error
    if found is None:
        raise InvalidInputError(f"{what} is not a value of the type {type_}")
    return found


def _require_text(value: str, what: str) -> None:
    if len(value) > MAX_INPUT:
        raise InvalidInputError(f"{what} has {len(value)} characters; {MAX_INPUT} are allowed")
    if "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        raise InvalidInputError(f"{what} contains NUL or half of a surrogate pair, which no text of PostgreSQL may")


def _require_names(expected: Collection[str], given: Mapping[str, object], of: str, what: str) -> None:
    missing, unknown = sorted(set(expected) - set(given)), set(given) - set(expected)
    if missing:
        raise InvalidInputError(f"{of} needs the {what} {missing[0]}")
    if unknown:
        raise InvalidInputError(f"{of} has no {what} with this name; it has: {', '.join(sorted(expected)) or 'none'}")


def _text_of(value: Scalar | None) -> str:
    if value is None:
        raise InvalidFieldError("a template contains a field that is NULL; the row has to be completed first")
    return str(value).lower() if isinstance(value, bool) else str(value)
