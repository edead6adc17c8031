"""Conditions and grants: errors, plain forms of SQL, and decisions with their rule."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from paybill_agent_gateway.domain import grants as rules
from paybill_agent_gateway.domain.columns import ValueRefusedError, canonical, native
from paybill_agent_gateway.domain.conditions import ConditionError, Parameters, Scope, predicate, sql
from paybill_agent_gateway.domain.grants import CompiledGrants, Decision
from paybill_contracts.agent_bundles import Bundle, Effect, Grant, Verb
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
    Or,
    StartsWith,
    Time,
)
from paybill_contracts.environment_plans import BlueprintRef
from tenant_pool import resource_of

ORDERS = resource_of(
    "orders", "id text", "total bigint not null", "note text", "at timestamptz", "day date", "price numeric"
)
COLUMNS = {each.name: each for each in ORDERS.columns}
ROW: dict[str, Any] = {"id": "a", "total": 7, "note": None, "at": None, "day": None, "price": None}
ID, TOTAL, NOTE, AT = (ColumnValue(name=name) for name in ("id", "total", "note", "at"))


def compared(left: Any, operator: str, right: Any) -> Comparison:
    sides = [
        each if isinstance(each, ColumnValue | Time | Constant) else Constant(value=each) for each in (left, right)
    ]
    return Comparison(operator=Comparator(operator), left=sides[0], right=sides[1])


def sql_of(condition: Condition) -> str:
    return sql(condition, Scope(COLUMNS, "{}".format, Parameters()))


TRUE, FALSE, ERROR = Constant(value=True), Constant(value=False), compared(NOTE, "==", "x")


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        (And(left=ERROR, right=FALSE), None),
        (And(left=FALSE, right=ERROR), False),
        (And(left=TRUE, right=ERROR), None),
        (Or(left=ERROR, right=TRUE), None),
        (Or(left=TRUE, right=ERROR), True),
        (Or(left=FALSE, right=ERROR), None),
        (Not(operand=ERROR), None),
        (HasValue(name="note"), False),
        (OneOf(item=NOTE, values=()), None),
        (OneOf(item=ID, values=()), False),
        (StartsWith(item=NOTE, prefix=""), None),
        (StartsWith(item=ID, prefix=""), True),
        (compared(AT, "<", Time(at=datetime(2026, 1, 1, tzinfo=UTC))), None),
    ],
)
def test_an_error_is_neither_true_nor_false(condition, value) -> None:
    assert predicate(condition, COLUMNS)(ROW) is value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T00:00:00Z", True),
        ("2026-01-31T01:00:00+01:00", True),
        (datetime(2026, 1, 31, tzinfo=UTC), True),
        (date(2026, 1, 31), True),
        ("2026-01-31", True),
        ("infinity", None),
        (datetime.max.replace(tzinfo=UTC), None),
        (date.min, None),
        ("10000-01-01T00:00:00+00:00", None),
    ],
)
def test_times_are_compared_as_facts_and_the_driver_have_them(value, expected) -> None:
    test = predicate(compared(AT, "==", Time(at=datetime(2026, 1, 31, tzinfo=UTC))), COLUMNS)

    assert test(ROW | {"at": value}) is expected


@pytest.mark.parametrize(
    "condition",
    [
        compared(ColumnValue(name="price"), "==", 1),
        compared(ColumnValue(name="unknown"), "==", 1),
        compared(TOTAL, "==", "1"),
        compared(TOTAL, "==", TRUE),
        compared(ID, "<", "b"),
        compared(TRUE, "<", FALSE),
        Constant(value=1),
        TOTAL,
        HasValue(name="unknown"),
        OneOf(item=ID, values=(Constant(value=1),)),
        StartsWith(item=TOTAL, prefix="1"),
        And(left=TRUE, right=Not(operand=Constant(value="x"))),
    ],
)
def test_a_condition_of_wrong_types_is_refused_by_both_compilers(condition) -> None:
    with pytest.raises(ConditionError):
        predicate(condition, COLUMNS)
    with pytest.raises(ConditionError):
        sql_of(condition)


def test_case_is_left_out_where_the_left_is_never_an_error() -> None:
    plain = And(left=compared(TOTAL, ">", 0), right=compared(NOTE, "==", "x"))
    guarded = Or(left=Not(operand=HasValue(name="note")), right=compared(NOTE, "==", "x"))

    assert sql_of(plain) == '((total > $1::bigint) AND (note COLLATE "C" = $2::text COLLATE "C"))'
    assert "CASE" not in sql_of(guarded)
    assert sql_of(And(left=ERROR, right=TRUE)).startswith("(CASE WHEN")


def grant(
    id_: str, effect: Effect = Effect.PERMIT, columns: str = "id total", condition: Condition | None = None
) -> Grant:
    return Grant(
        id=id_,
        effect=effect,
        role="support",
        verbs=(Verb.READ,),
        resources=("orders",),
        columns={"orders": tuple(columns.split())} if effect is Effect.PERMIT else {},
        condition=condition,
    )


def compiled(*grants: Grant) -> CompiledGrants:
    blueprint = BlueprintRef(name="main", version=1, content_hash="a" * 64)
    return CompiledGrants.of(Bundle(blueprint=blueprint, resources=(ORDERS,), grants=grants, workflows=()))


def permitted(*grants: str) -> Decision:
    return Decision(allowed=True, grants=grants, rule=rules.PERMITTED)


def denied(rule: str, *grants: str) -> Decision:
    return Decision(allowed=False, grants=grants, rule=rule)


SMALL = grant("small", condition=compared(TOTAL, "<", 10))


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        ([SMALL, grant("all")], permitted("small", "all")),
        ([], denied(rules.NO_PERMIT)),
        ([grant("other", columns="id")], denied(rules.COLUMNS_NOT_PERMITTED)),
        (
            [grant("id", columns="id"), grant("total", columns="total")],
            denied(rules.COLUMNS_NOT_PERMITTED),
        ),
        ([grant("large", condition=compared(TOTAL, ">", 10))], denied(rules.ROW_NOT_PERMITTED)),
        ([grant("failed", condition=ERROR)], denied(rules.ROW_NOT_PERMITTED)),
        ([SMALL, grant("never", Effect.FORBID)], denied(rules.FORBIDDEN, "never")),
        ([SMALL, grant("not", Effect.FORBID, condition=TRUE)], denied(rules.FORBIDDEN, "not")),
        ([SMALL, grant("not", Effect.FORBID, condition=ERROR)], denied(rules.FORBID_FAILED, "not")),
        ([SMALL, grant("not", Effect.FORBID, condition=FALSE)], permitted("small")),
    ],
)
def test_a_decision_names_the_grants_and_the_rule(grants, expected) -> None:
    assert compiled(*grants).decide("support", Verb.READ, "orders", frozenset({"id", "total"}), ROW) == expected


def test_other_roles_verbs_and_resources_are_denied() -> None:
    grants = compiled(SMALL)
    named = frozenset({"id"})

    for call in (("sales", Verb.READ, "orders"), ("support", Verb.DELETE, "orders"), ("support", Verb.READ, "items")):
        assert grants.decide(*call, named, ROW) == denied(rules.NO_PERMIT)
        assert grants.decide_any(*call, named) == denied(rules.NO_PERMIT)
        assert grants.row_condition(*call, named).sql("{}".format, Parameters()) == "FALSE"


def test_a_call_is_possible_when_a_permit_has_its_columns_and_no_forbid_is_about_every_row() -> None:
    call = ("support", Verb.READ, "orders", frozenset({"id"}))
    forbid = grant("some", Effect.FORBID, condition=ERROR)

    assert compiled(SMALL, forbid).decide_any(*call) == permitted("small")
    assert compiled(SMALL, grant("never", Effect.FORBID)).decide_any(*call).rule == rules.FORBIDDEN
    assert compiled(SMALL).decide_any(*call[:3], frozenset({"note"})).rule == rules.COLUMNS_NOT_PERMITTED
    assert compiled(SMALL, forbid).row_condition(*call).names == {"total", "note"}


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("text", "a\x00b"),
        ("text", "\ud800"),
        ("text", 1),
        ("jsonb", "\x00"),
        ("integer", 2**31),
        ("bigint", 2**63),
        ("bigint", True),
        ("bigint", 1.0),
        ("boolean", 1),
        ("uuid", "x"),
        ("date", "2026-02-30"),
        ("timestamptz", "2026-01-31T00:00:00"),
        ("numeric", "1,5"),
        ("bytea", "\\xzz"),
    ],
)
def test_a_value_of_another_type_is_refused(type_, value) -> None:
    with pytest.raises(ValueRefusedError):
        native(type_, value)


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("timestamptz", "2026-01-31T10:00:00+01:00", "2026-01-31T09:00:00Z"),
        ("timestamptz", "infinity", "infinity"),
        ("date", date.max, "infinity"),
        ("uuid", "0B0E1E2C-0000-4000-8000-0123456789AB", "0b0e1e2c-0000-4000-8000-0123456789ab"),
        ("numeric", "1E+3", "1000"),
        ("numeric", "NaN", "NaN"),
        ("bytea", b"\x00\xff", "\\x00ff"),
        ("text", None, None),
    ],
)
def test_equal_values_have_one_canonical_form(type_, value, expected) -> None:
    assert canonical(type_, value) == expected
