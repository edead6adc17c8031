"""Conditions of grants and workflows: a subset of Cedar's expressions, as a tree of values (docs/grants.md)."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from paybill_contracts.event import Value
from paybill_contracts.values import Timestamp

Name = Annotated[
    str,
    StringConstraints(max_length=121, pattern=r"^[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)?$"),
    Field(examples=["amount", "order.total"]),
]
"""A column of the row that is checked, or `step.field` in a condition of a workflow."""

ConditionText = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$"), Field(examples=["open"])]


class Comparator(StrEnum):
    """Comparisons. The four orders exist for integers and times alone."""

    EQUAL = "=="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class Constant(Value):
    """A boolean, an integer of 64 bits, or a text."""

    kind: Literal["constant"] = "constant"
    value: bool | Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | ConditionText


class Time(Value):
    """A moment: Cedar's `datetime("…")`."""

    kind: Literal["time"] = "time"
    at: Timestamp


class ColumnValue(Value):
    """The value of a column or field; an error when it is NULL."""

    kind: Literal["column"] = "column"
    name: Name


class HasValue(Value):
    """True if a column or field is not NULL; never an error."""

    kind: Literal["has"] = "has"
    name: Name


class Comparison(Value):
    """A comparison of two operands of one type."""

    kind: Literal["comparison"] = "comparison"
    operator: Comparator
    left: "Operand"
    right: "Operand"


class OneOf(Value):
    """True if the operand equals one of the constants: Cedar's `[…].contains(…)`, written `in` for entities."""

    kind: Literal["one_of"] = "one_of"
    item: "Operand"
    values: Annotated[tuple[Constant, ...], Field(max_length=200)]


class StartsWith(Value):
    """True if a text starts with `prefix`: Cedar's `like "prefix*"`."""

    kind: Literal["starts_with"] = "starts_with"
    item: ColumnValue
    prefix: ConditionText


class And(Value):
    """Conjunction. `right` is evaluated only when `left` is true."""

    kind: Literal["and"] = "and"
    left: "Condition"
    right: "Condition"


class Or(Value):
    """Disjunction. `right` is evaluated only when `left` is false."""

    kind: Literal["or"] = "or"
    left: "Condition"
    right: "Condition"


class Not(Value):
    """Negation; an error stays an error."""

    kind: Literal["not"] = "not"
    operand: "Condition"


Operand: TypeAlias = Annotated[Constant | Time | ColumnValue, Field(discriminator="kind")]

Condition: TypeAlias = Annotated[
    Constant | ColumnValue | HasValue | Comparison | OneOf | StartsWith | And | Or | Not, Field(discriminator="kind")
]
"""An expression with a boolean value. A constant or column in it is a boolean."""
