"""Closures that predicates consist of: three values, of which None is an error."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""A value or None for every column that a condition may name: values as in facts, or as the driver returns them."""
Predicate: TypeAlias = Callable[[Row], bool | None]


def constant(value: Any) -> Callable[[Row], Any]:
    return lambda _: value


def has(name: str) -> Predicate:
    return lambda row: row[name] is not None


def compared(compare: Callable[[Any, Any], bool], left: Callable[[Row], Any], right: Callable[[Row], Any]) -> Predicate:
    def compared(row: Row) -> bool | None:
        first, second = left(row), right(row)
        return None if first is None or second is None else compare(first, second)

    return compared


def column_compared(compare: Callable[[Any, Any], bool], name: str, value: Any) -> Predicate:
    """Compares a column with a constant: the most frequent condition, without further calls."""
    return lambda row: None if (found := row[name]) is None else compare(found, value)


def one_of(item: Callable[[Row], Any], values: frozenset[Any]) -> Predicate:
    return lambda row: None if (value := item(row)) is None else value in values


def starts_with(item: Callable[[Row], Any], prefix: str) -> Predicate:
    return lambda row: None if (value := item(row)) is None else value.startswith(prefix)


def both(left: Predicate, right: Predicate) -> Predicate:
    def both(row: Row) -> bool | None:
        first = left(row)
        return right(row) if first else first

    return both


def either(left: Predicate, right: Predicate) -> Predicate:
    def either(row: Row) -> bool | None:
        first = left(row)
        return right(row) if first is False else first

    return either


def negated(operand: Predicate) -> Predicate:
    return lambda row: None if (value := operand(row)) is None else not value
