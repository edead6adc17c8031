"""Tests of conditions as the text of Cedar."""

import pytest
from paybill_contracts.agent_expressions import (
    And,
    ColumnValue,
    Comparator,
    Comparison,
    Constant,
    HasValue,
    Not,
    Or,
    StartsWith,
)
from paybill_definitions.agent_condition_text import condition_text

OPEN = Comparison(operator=Comparator.EQUAL, left=ColumnValue(name="status"), right=Constant(value='o"pen'))
SMALL = Comparison(operator=Comparator.LESS_OR_EQUAL, left=ColumnValue(name="amount"), right=Constant(value=5))


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (OPEN, 'resource.status == "o\\"pen"'),
        (And(left=HasValue(name="amount"), right=SMALL), "resource has amount && resource.amount <= 5"),
        (
            And(left=Or(left=OPEN, right=SMALL), right=Not(operand=SMALL)),
            '(resource.status == "o\\"pen" || resource.amount <= 5) && !(resource.amount <= 5)',
        ),
        (StartsWith(item=ColumnValue(name="id"), prefix="a*"), 'resource.id like "a\\**"'),
    ],
)
def test_a_condition_is_written_as_cedar(condition, text) -> None:
    assert condition_text(condition) == text
