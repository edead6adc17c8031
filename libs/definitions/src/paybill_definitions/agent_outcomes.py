"""Possible outcomes of a condition when only constants and limits of a row are known. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import Argument, FixedValue, Slot, SlotType
from paybill_contracts.agent_expressions import (
    And,
    ColumnValue,
    Comparator,
    Comparison,
    Condition,
    Constant,
    HasValue,
    Not,
    OneOf,
    Operand,
    Or,
    StartsWith,
    Time,
)

Outcomes = frozenset[bool | None]
"""Of true, false and None: an error."""
_TRUE = Constant(value=True)
_ANY: Outcomes = frozenset({True, False})
_ANY_OR_NULL: Outcomes = frozenset({True, False, None})


@dataclass(frozen=True, slots=True)
class Known:
    """Knowledge about a value: a constant, limits of a whole number, or only that it is not NULL.

    is_null: the constant is NULL. has_constant: `constant` counts.
    """

    constant: object = None
    has_constant: bool = False
    lowest: int | None = None
    greatest: int | None = None

    @property
    def is_null(self) -> bool:
        """True when the value is NULL in any case."""
        return self.has_constant and self.constant is None


NULL = Known(has_constant=True)


def known(argument: Argument) -> Known | None:
    """Returns what is known of an argument; None for nothing."""
    match argument:
        case FixedValue():
            value = argument.value
            is_number = isinstance(value, int) and not isinstance(value, bool)
            number = int(value) if is_number and value is not None else None
            return Known(constant=value, has_constant=True, lowest=number, greatest=number)
        case Slot(type=SlotType.INTEGER):
            return Known(lowest=_number(argument.minimum), greatest=_number(argument.maximum))
        case Slot():
            return Known()
        case _:
            return None


def _number(bound: object) -> int | None:
    return bound.value if isinstance(bound, FixedValue) and isinstance(bound.value, int) else None


def outcomes(condition: Condition | None, row: Mapping[str, Known]) -> Outcomes:
    """Returns the outcomes that the condition may have. row: what is known of columns."""
    match condition:
        case None:
            return frozenset({True})
        case Constant():
            return frozenset({bool(condition.value)})
        case And():
            left = outcomes(condition.left, row)
            return left - {True} | (outcomes(condition.right, row) if True in left else frozenset())
        case Or():
            left = outcomes(condition.left, row)
            return left - {False} | (outcomes(condition.right, row) if False in left else frozenset())
        case Not():
            return frozenset(None if each is None else not each for each in outcomes(condition.operand, row))
        case HasValue():
            found = row.get(condition.name)
            return _ANY if found is None else frozenset({not found.is_null})
        case ColumnValue():
            return _comparison(condition, Comparator.EQUAL, _TRUE, row)
        case Comparison():
            return _comparison(condition.left, condition.operator, condition.right, row)
        case OneOf():
            each = [_comparison(condition.item, Comparator.EQUAL, value, row) for value in condition.values]
            if all(found == {False} for found in each):
                return frozenset({False})
            return frozenset({True}) if frozenset({True}) in each else frozenset().union(*each)
        case StartsWith():
            found = row.get(condition.item.name)
            if found is None or (found.has_constant and found.constant is None):
                return _ANY_OR_NULL if found is None else frozenset({None})
            is_text = isinstance(found.constant, str)
            return frozenset({str(found.constant).startswith(condition.prefix)}) if is_text else _ANY


def _operand(operand: Operand, row: Mapping[str, Known]) -> Known | None:
    match operand:
        case ColumnValue():
            return row.get(operand.name)
        case Constant():
            return known(FixedValue(value=operand.value))
        case Time():
            return Known()


def _comparison(left: Operand, operator: Comparator, right: Operand, row: Mapping[str, Known]) -> Outcomes:
    first, second = _operand(left, row), _operand(right, row)
    if (first is not None and first.is_null) or (second is not None and second.is_null):
        return frozenset({None})
    if first is None or second is None:
        return _ANY_OR_NULL
    if operator in {Comparator.EQUAL, Comparator.NOT_EQUAL}:
        return _equal(first, second, is_equal=operator is Comparator.EQUAL)
    if operator in {Comparator.GREATER, Comparator.GREATER_OR_EQUAL}:
        first, second = second, first
    is_strict = operator in {Comparator.LESS, Comparator.GREATER}
    low, high = (first.lowest, second.greatest), (first.greatest, second.lowest)
    can_be_true = None in low or _less(*low, is_strict=is_strict)
    can_be_false = None in high or not _less(*high, is_strict=is_strict)
    return frozenset({*([True] if can_be_true else []), *([False] if can_be_false else [])})


def _less(left: int | None, right: int | None, *, is_strict: bool) -> bool:
    """Returns whether every value is less; an unknown limit is not."""
    if left is None or right is None:
        return False
    return left < right if is_strict else left <= right


def _equal(first: Known, second: Known, *, is_equal: bool) -> Outcomes:
    if first.has_constant and second.has_constant:
        return frozenset({(first.constant == second.constant) == is_equal})
    for low, high in ((first, second), (second, first)):
        if low.greatest is not None and high.lowest is not None and low.greatest < high.lowest:
            return frozenset({not is_equal})
    return _ANY
