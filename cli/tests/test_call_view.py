"""Tests of calls of agents as lines for people."""

import pytest
from paybill_cli.call_view import MAX_TEXT, call_lines, quoted, rows_lines

CALL = {
    "slug": "acme",
    "run_id": "run_" + "0" * 32,
    "workflow": "refund",
    "step": "propose",
    "seq": 3,
    "verb": "create",
    "resource": "refunds",
    "subject_hash": "c" * 64,
    "arguments": {"amount": 3000, "reason": "late"},
    "rows": [{"before": None, "after": {"id": "r-1", "amount": 3000, "note": None}}],
    "other_rows": {},
}


def texts(lines):
    return [text for _, text in lines]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("late", '"late"'),
        ('say "yes"', '"say \\"yes\\""'),
        ("two\nlines\x1b[31m", '"two\\nlines\\u001b[31m"'),
        (None, "NULL"),
        (True, "true"),
        (3000, "3000"),
        ({"sealed": "x"}, "(sealed)"),
    ],
)
def test_a_value_of_a_row_is_quoted(value, text):
    assert quoted(value) == text


def test_a_long_text_is_cut():
    assert quoted("x" * (MAX_TEXT + 1)) == f'"{"x" * MAX_TEXT}…"'


def test_a_call_shows_its_arguments_and_every_row():
    assert texts(call_lines(CALL)) == [
        "acme  refund, step propose: create of refunds",
        f"run {CALL['run_id']}  seq 3  hash {'c' * 64}",
        'arguments  amount 3000, reason "late"',
        "  + refunds",
        '      id  "r-1"',
        "      amount  3000",
        "      note  NULL",
    ]
    assert texts(call_lines(CALL | {"other_rows": {"audits": 990, "ledger": 1}}))[-2:] == [
        "  audits: 990 rows change",
        "  ledger: 1 row changes",
    ]
    assert texts(call_lines(CALL | {"rows": []}))[-1] == "  no row would change"


def test_a_changed_row_has_the_value_before_and_after():
    images = [
        {"before": {"id": "o-1", "total": 5}, "after": {"id": "o-1", "total": 6}},
        {"before": {"id": "o-2", "total": 5}, "after": None},
    ]

    assert texts(rows_lines("orders", images)) == [
        "  ~ orders",
        '      id  "o-1"',
        "      total  5 -> 6",
        "  - orders",
        '      id  "o-2"',
        "      total  5",
    ]
