"""Meaning of conditions, twice and side by side: a Python predicate, and parametrised SQL (docs/grants.md).

Both have three values, as Cedar has: true, false, and an error, which is None in Python and NULL in SQL. A column that
is NULL is an error, and so is a time that Python cannot represent: infinity, and other years than 1 to 9999.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeAlias

from paybill_contracts.agent_bundles import ResourceColumn
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
from paybill_contracts.errors import DomainError

from paybill_agent_gateway.domain import closures

Predicate: TypeAlias = closures.Predicate
Row: TypeAlias = closures.Row
Columns: TypeAlias = Mapping[str, ResourceColumn]

FAMILIES: Final = {
    "text": "text",
    "uuid": "text",
    "integer": "bigint",
    "bigint": "bigint",
    "boolean": "boolean",
    "timestamptz": "timestamptz",
    "date": "timestamptz",
}
"""Type in which the values of a column are compared, by the column's type. Other types compare differently in Python
and in PostgreSQL, and are refused."""

_COMPARE: Final[dict[Comparator, Callable[[Any, Any], bool]]] = {
    Comparator.EQUAL: operator.eq,
    Comparator.NOT_EQUAL: operator.ne,
    Comparator.LESS: operator.lt,
    Comparator.LESS_OR_EQUAL: operator.le,
    Comparator.GREATER: operator.gt,
    Comparator.GREATER_OR_EQUAL: operator.ge,
}
_OPERATORS: Final = {
    Comparator.EQUAL: "=",
    Comparator.NOT_EQUAL: "<>",
    Comparator.LESS: "<",
    Comparator.LESS_OR_EQUAL: "<=",
    Comparator.GREATER: ">",
    Comparator.GREATER_OR_EQUAL: ">=",
}
_PLAIN: Final = {"text", "integer", "bigint", "boolean"}
"""Types of columns whose values are compared as they are."""
_EQUALITY: Final = {Comparator.EQUAL, Comparator.NOT_EQUAL}
FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
LAST: Final = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)
"""Limits of times in conditions. The driver returns infinite times as the first and the last moment that it has."""
_YEARS: Final = {
    "timestamptz": f"timestamptz '{FIRST.isoformat()}' AND timestamptz '{LAST.isoformat()}'",
    "date": f"date '{FIRST.date()}' AND date '{LAST.date()}'",
}


class ConditionError(DomainError):
    """A condition names an unknown column, or compares values of different or unsupported types."""

    code = "condition_invalid"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value of a statement, `$1` and so on. type: of PostgreSQL; name: of the caller's value, None for a constant."""

    type: str
    name: str | None = None
    value: Any = None


@dataclass(slots=True)
class Parameters:
    """Parameters of one statement, in order."""

    items: list[Parameter] = field(default_factory=list)

    def fixed(self, type_: str, value: Any) -> str:
        """Adds a constant, and returns its place with a cast."""
        return self._add(Parameter(type_, value=value))

    def named(self, type_: str, name: str) -> str:
        """Returns the place of the caller's value `name`, with a cast."""
        for number, each in enumerate(self.items, 1):
            if each.name == name:
                return f"${number}::{type_}"
        return self._add(Parameter(type_, name))

    def _add(self, parameter: Parameter) -> str:
        self.items.append(parameter)
        return f"${len(self.items)}::{parameter.type}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Columns that a condition may name. at: SQL of a column."""

    columns: Columns
    at: Callable[[str], str]
    parameters: Parameters


def predicate(condition: Condition, columns: Columns) -> Predicate:
    """Compiles a condition to Python. Raises ConditionError."""
    of = partial(predicate, columns=columns)
    match condition:
        case Constant():
            return closures.constant(_require_boolean(condition.value))
        case ColumnValue():
            _require_family(columns, condition, "boolean")
            return operator.itemgetter(condition.name)
        case HasValue():
            _column(columns, condition.name)
            return closures.has(condition.name)
        case Comparison():
            _require_comparable(condition, columns)
            match condition.left, condition.right:
                case ColumnValue(name=name), Constant(value=value) if columns[name].type in _PLAIN:
                    return closures.column_compared(_COMPARE[condition.operator], name, value)
            left, right = (_value(each, columns) for each in (condition.left, condition.right))
            return closures.compared(_COMPARE[condition.operator], left, right)
        case OneOf():
            family = _family(condition.item, columns)
            return closures.one_of(_value(condition.item, columns), frozenset(_set_of(condition, family)))
        case StartsWith():
            _require_family(columns, condition.item, "text")
            return closures.starts_with(_value(condition.item, columns), condition.prefix)
        case And():
            return closures.both(of(condition.left), of(condition.right))
        case Or():
            return closures.either(of(condition.left), of(condition.right))
        case Not():
            return closures.negated(of(condition.operand))


def sql(condition: Condition, scope: Scope) -> str:
    """Compiles a condition to SQL, in parentheses. Raises ConditionError.

    AND and OR of SQL do not stop at an error on the left; CASE does. It is left out where the left cannot be an error,
    because it blocks indexes.
    """
    match condition:
        case Constant():
            return "TRUE" if _require_boolean(condition.value) else "FALSE"
        case ColumnValue():
            _require_family(scope.columns, condition, "boolean")
            return scope.at(condition.name)
        case HasValue():
            _column(scope.columns, condition.name)
            return f"({scope.at(condition.name)} IS NOT NULL)"
        case Comparison():
            _require_comparable(condition, scope.columns)
            left, right = (_operand(each, scope) for each in (condition.left, condition.right))
            return f"({left} {_OPERATORS[condition.operator]} {right})"
        case OneOf():
            family, item = _family(condition.item, scope.columns), _operand(condition.item, scope)
            values = _set_of(condition, family)
            if not values:
                return f"(CASE WHEN {item} IS NOT NULL THEN FALSE END)"
            return f"({item} = ANY({scope.parameters.fixed(f'{family}[]', values)}))"
        case StartsWith():
            _require_family(scope.columns, condition.item, "text")
            item, prefix = _operand(condition.item, scope), scope.parameters.fixed("text", condition.prefix)
            return f"starts_with({item}, {prefix})"
        case And():
            left, right = sql(condition.left, scope), sql(condition.right, scope)
            if is_total(condition.left, scope.columns):
                return f"({left} AND {right})"
            return f"(CASE WHEN {left} THEN {right} WHEN NOT {left} THEN FALSE END)"
        case Or():
            left, right = sql(condition.left, scope), sql(condition.right, scope)
            if is_total(condition.left, scope.columns):
                return f"({left} OR {right})"
            return f"(CASE WHEN {left} THEN TRUE WHEN NOT {left} THEN {right} END)"
        case Not():
            return f"(NOT {sql(condition.operand, scope)})"


def is_total(condition: Condition, columns: Columns) -> bool:
    """Returns whether the condition is never an error."""
    match condition:
        case Constant() | HasValue():
            return True
        case ColumnValue():
            return _has_always(condition, columns)
        case Comparison():
            return _has_always(condition.left, columns) and _has_always(condition.right, columns)
        case OneOf() | StartsWith():
            return _has_always(condition.item, columns)
        case And() | Or():
            return is_total(condition.left, columns) and is_total(condition.right, columns)
        case Not():
            return is_total(condition.operand, columns)


def conjuncts(condition: Condition) -> list[Condition]:
    """Returns the conditions that must all be true: for `IS TRUE` their order and errors make no difference."""
    if isinstance(condition, And):
        return [*conjuncts(condition.left), *conjuncts(condition.right)]
    return [condition]


def moment(value: Any) -> datetime | None:
    """Returns a date (its midnight in UTC) or a time; None for NULL and times that Python cannot represent."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        if value is None:
            return None
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    known = value if value.tzinfo else value.replace(tzinfo=UTC)
    return known if FIRST <= known <= LAST else None


def _column(columns: Columns, name: str) -> ResourceColumn:
    found = columns.get(name)
    if found is None:
        raise ConditionError(
            f"a condition names {name}, which does not exist; name one of {', '.join(sorted(columns))}"
        )
    return found


def _family(operand: Operand, columns: Columns) -> str:
    match operand:
        case Constant(value=bool()):
            return "boolean"
        case Constant(value=int()):
            return "bigint"
        case Constant():
            return "text"
        case Time():
            return "timestamptz"
        case ColumnValue():
            column = _column(columns, operand.name)
            family = FAMILIES.get(column.type)
            if family is None:
                raise ConditionError(f"{operand.name} has the type {column.type}, which no condition may compare")
            return family


def _require_family(columns: Columns, operand: Operand, family: str) -> None:
    if (found := _family(operand, columns)) != family:
        raise ConditionError(f"a condition needs a {family} where it has a {found}")


def _require_comparable(comparison: Comparison, columns: Columns) -> None:
    families = {_family(comparison.left, columns), _family(comparison.right, columns)}
    if len(families) > 1:
        raise ConditionError(f"a condition compares different types: {' and '.join(sorted(families))}")
    if comparison.operator not in _EQUALITY and not families & {"bigint", "timestamptz"}:
        raise ConditionError(f"{comparison.operator} compares integers and times alone, not a {families.pop()}")


def _require_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConditionError("a condition is a boolean, not a number or a text")
    return value


def _has_always(operand: Operand, columns: Columns) -> bool:
    """Returns whether an operand is never NULL in SQL. A time may be one that Python cannot represent."""
    if not isinstance(operand, ColumnValue):
        return True
    column = _column(columns, operand.name)
    return not column.nullable and column.type not in _YEARS


def _set_of(one_of: OneOf, family: str) -> list[Any]:
    families = {_family(each, {}) for each in one_of.values} or {family}
    if families != {family}:
        raise ConditionError(f"`in` compares a {family} with {' and '.join(sorted(families))}")
    return [each.value for each in one_of.values]


# Operands: in Python, and in SQL.


def _value(operand: Operand, columns: Columns) -> Callable[[Row], Any]:
    match operand:
        case Constant():
            return closures.constant(operand.value)
        case Time():
            return closures.constant(operand.at)
        case ColumnValue(name=name):
            type_ = _column(columns, name).type
            if type_ in _YEARS:
                return lambda row: moment(row[name])
            if type_ == "uuid":
                return lambda row: None if (value := row[name]) is None else str(value)
            return operator.itemgetter(name)


def _operand(operand: Operand, scope: Scope) -> str:
    match operand:
        case Constant():
            place = scope.parameters.fixed(_family(operand, scope.columns), operand.value)
            return f'{place} COLLATE "C"' if isinstance(operand.value, str) else place
        case Time():
            return scope.parameters.fixed("timestamptz", operand.at)
        case ColumnValue(name=name):
            type_, place = _column(scope.columns, name).type, scope.at(name)
            if type_ in _YEARS:
                moment_ = f"{place}::timestamp AT TIME ZONE 'UTC'" if type_ == "date" else place
                return f"(CASE WHEN {place} BETWEEN {_YEARS[type_]} THEN {moment_} END)"
            if type_ == "uuid":
                return f'{place}::text COLLATE "C"'
            return f'{place} COLLATE "C"' if type_ == "text" else place
