"""Types of conditions: every name exists, operands fit each other, and a column that may be NULL is guarded by `has`.

Cedar's validator finds the same in files; the service has the trees alone.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, time

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

MAX_DEPTH = 32
MAX_NODES = 1000
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

GROUPS: Mapping[str, str] = {
    "text": "text",
    "uuid": "uuid",
    "integer": "integer",
    "bigint": "integer",
    "boolean": "boolean",
    "timestamptz": "time",
    "date": "date",
}
"""Types of columns that compare equally in Cedar, Python and PostgreSQL; types of one group compare with each other."""

_ORDERED = frozenset({"integer", "time", "date"})
_ORDERS = frozenset({Comparator.LESS, Comparator.LESS_OR_EQUAL, Comparator.GREATER, Comparator.GREATER_OR_EQUAL})
Columns = Mapping[str, ResourceColumn]
Fault = tuple[str, str]
"""Name of the column (or "" for the whole condition) and the reason."""


def errors(condition: Condition, columns: Columns) -> Iterator[Fault]:
    """Yields every error of a condition. columns: by the name that the condition uses."""
    if sum(1 for _ in nodes(condition)) > MAX_NODES or _depth(condition) > MAX_DEPTH:
        yield "", f"a condition has {MAX_NODES} parts and {MAX_DEPTH} levels at most"
        return
    yield from _errors(condition, columns, frozenset())


def nodes(condition: Condition) -> Iterator[Condition]:
    """Yields the parts of a condition that are conditions, from the outside."""
    rest = [condition]
    while rest:
        node = rest.pop()
        yield node
        match node:
            case And() | Or():
                rest += [node.right, node.left]
            case Not():
                rest.append(node.operand)
            case _:
                pass


def names(condition: Condition) -> set[str]:
    """Returns the columns and fields that a condition names."""
    return {name for node in nodes(condition) for name in _names(node)}


def _names(node: Condition) -> list[str]:
    match node:
        case ColumnValue() | HasValue():
            return [node.name]
        case Comparison():
            return [each.name for each in (node.left, node.right) if isinstance(each, ColumnValue)]
        case OneOf() | StartsWith():
            return [node.item.name] if isinstance(node.item, ColumnValue) else []
        case _:
            return []


def _depth(condition: Condition) -> int:
    deepest, rest = 0, [(condition, 1)]
    while rest:
        node, depth = rest.pop()
        deepest = max(deepest, depth)
        match node:
            case And() | Or():
                rest += [(node.left, depth + 1), (node.right, depth + 1)]
            case Not():
                rest.append((node.operand, depth + 1))
            case _:
                pass
    return deepest


def _errors(node: Condition, columns: Columns, guarded: frozenset[str]) -> Iterator[Fault]:
    match node:
        case And():
            yield from _errors(node.left, columns, guarded)
            yield from _errors(node.right, columns, guarded | _guards(node.left))
        case Or():
            yield from _errors(node.left, columns, guarded)
            yield from _errors(node.right, columns, guarded)
        case Not():
            yield from _errors(node.operand, columns, guarded)
        case HasValue():
            yield from _known(node.name, columns)
        case Constant():
            if not isinstance(node.value, bool):
                yield "", f"{node.value!r:.40} is no condition: write a comparison"
        case ColumnValue():
            yield from _operand(node, columns, guarded)
            if _group(node, columns) not in {"boolean", ""}:
                yield node.name, f"{node.name} is no boolean: compare it with something"
        case Comparison():
            yield from _comparison(node, columns, guarded)
        case OneOf():
            yield from _one_of(node, columns, guarded)
        case StartsWith():
            yield from _operand(node.item, columns, guarded)
            if _group(node.item, columns) not in {"text", ""}:
                yield node.item.name, f"{node.item.name} is no text: `like` compares texts"


def _guards(node: Condition) -> frozenset[str]:
    """Returns the names that are not NULL when the condition is true, as Cedar's validator does."""
    match node:
        case HasValue():
            return frozenset({node.name})
        case And():
            return _guards(node.left) | _guards(node.right)
        case Or():
            return _guards(node.left) & _guards(node.right)
        case _:
            return frozenset()


def _known(name: str, columns: Columns) -> Iterator[Fault]:
    column = columns.get(name)
    if column is None:
        yield name, f"there is no {name} here; known: {', '.join(sorted(columns)) or 'nothing'}"
    elif column.hidden:
        yield name, f"{name} is hidden; no condition may name it"
    elif column.type not in GROUPS:
        yield name, f"{name} is {column.type}; a condition compares {', '.join(GROUPS)}"


def _operand(operand: Operand, columns: Columns, guarded: frozenset[str]) -> Iterator[Fault]:
    if isinstance(operand, ColumnValue):
        yield from _known(operand.name, columns)
        column = columns.get(operand.name)
        if column is not None and column.nullable and operand.name not in guarded:
            yield (
                operand.name,
                f"{operand.name} may be NULL: guard it with `has {operand.name.split('.')[-1]} &&` first",
            )


def _group(operand: Operand, columns: Columns) -> str:
    """Returns the group of the operand's type; "" when it has none, which is reported elsewhere."""
    match operand:
        case ColumnValue():
            column = columns.get(operand.name)
            return GROUPS.get(column.type, "") if column is not None else ""
        case Time():
            return "time"
        case Constant():
            return {bool: "boolean", int: "integer", str: "text"}[type(operand.value)]


def _comparison(node: Comparison, columns: Columns, guarded: frozenset[str]) -> Iterator[Fault]:
    yield from _operand(node.left, columns, guarded)
    yield from _operand(node.right, columns, guarded)
    column, other = (node.left, node.right) if isinstance(node.left, ColumnValue) else (node.right, node.left)
    if not isinstance(column, ColumnValue):
        yield "", "a comparison of two constants is always the same; write a column"
        return
    group = _group(column, columns)
    if group:
        yield from _fits(column.name, group, other, columns)
        if node.operator in _ORDERS and group not in _ORDERED:
            yield column.name, f"{column.name} has no order here: only whole numbers and times have `{node.operator}`"


def _fits(name: str, group: str, other: Operand, columns: Columns) -> Iterator[Fault]:
    found = _group(other, columns)
    if group == "date" and isinstance(other, Time):
        if other.at.astimezone(UTC).time() != time(0):
            yield name, f'{name} is a date: write datetime("{other.at:%Y-%m-%d}") without a time'
    elif group == "uuid" and isinstance(other, Constant) and found == "text":
        if UUID.fullmatch(str(other.value)) is None:
            yield name, f"{name} is a uuid: write one in lower case with dashes"
    elif found not in {group, ""}:
        yield name, f"{name} ({group}) cannot be compared with {found}"


def _one_of(node: OneOf, columns: Columns, guarded: frozenset[str]) -> Iterator[Fault]:
    yield from _operand(node.item, columns, guarded)
    if not isinstance(node.item, ColumnValue):
        yield "", "`contains` asks about a column"
        return
    group = _group(node.item, columns)
    if not node.values or group not in {"text", "uuid", "integer", ""}:
        yield node.item.name, f"{node.item.name}: `contains` needs at least one constant, and a text or whole number"
    for value in node.values if group else ():
        yield from _fits(node.item.name, group, value, columns)
