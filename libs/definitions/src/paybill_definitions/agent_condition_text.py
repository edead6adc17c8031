"""Conditions as the text of Cedar, for people."""

import json
from typing import assert_never

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
    Time,
)

_PRIMARY = (Constant, ColumnValue, Time, OneOf, Not)


def condition_text(condition: Condition | Operand) -> str:
    """Returns a condition as Cedar text; a column is `resource.<name>`."""
    match condition:
        case Constant(value=value):
            return json.dumps(value, ensure_ascii=False)
        case Time(at=at):
            return f'datetime("{at.isoformat().replace("+00:00", "Z")}")'
        case ColumnValue(name=name):
            return f"resource.{name}"
        case HasValue(name=name):
            return f"resource has {name}"
        case Comparison(operator=operator, left=left, right=right):
            return f"{condition_text(left)} {operator} {condition_text(right)}"
        case OneOf(item=item, values=values):
            return f"[{', '.join(map(condition_text, values))}].contains({condition_text(item)})"
        case StartsWith(item=item, prefix=prefix):
            escaped = json.dumps(prefix, ensure_ascii=False)[1:-1].replace("*", "\\*")
            return f'{condition_text(item)} like "{escaped}*"'
        case And(left=left, right=right):
            return f"{_part(left, Or)} && {_part(right, Or)}"
        case Or(left=left, right=right):
            return f"{_part(left, And)} || {_part(right, And)}"
        case Not(operand=operand):
            text = condition_text(operand)
            return f"!{text}" if isinstance(operand, _PRIMARY) else f"!({text})"
        case _:
            assert_never(condition)


def _part(condition: Condition, other: type[And | Or]) -> str:
    text = condition_text(condition)
    return f"({text})" if isinstance(condition, other) else text
