"""Grants are a subset of Cedar, and everything else is refused with its line."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paybill_contracts.agent_bundles import AgentResource, Grant, ResourceColumn, Verb
from paybill_contracts.agent_expressions import And, Condition, HasValue, Not, Or
from paybill_definitions.agent_cedar import parsed, schema, validate, when
from paybill_definitions.agent_conditions import MAX_DEPTH, errors, nodes
from paybill_definitions.agent_grants import read_grants
from paybill_definitions.cedar_text import split
from paybill_definitions.yaml_lines import InvalidDocumentError


def column(name: str, type_: str, *, nullable: bool = False, hidden: bool = False) -> ResourceColumn:
    """Returns a column."""
    return ResourceColumn(name=name, type=type_, nullable=nullable, hidden=hidden)


REFUNDS = AgentResource(
    name="refunds",
    columns=(
        column("id", "text"),
        column("number", "uuid"),
        column("amount", "bigint"),
        column("count", "integer"),
        column("reason", "text", nullable=True),
        column("paid", "boolean"),
        column("at", "timestamptz"),
        column("day", "date", nullable=True),
        column("note", "text", hidden=True),
        column("share", "numeric"),
    ),
)
ORDERS = AgentResource(name="orders", columns=(column("id", "text"), column("amount", "text")))


def read(text: str) -> tuple[Grant, ...]:
    """Returns the grants of a text."""
    return read_grants(text, (ORDERS, REFUNDS))[0]


def condition(text: str) -> Condition:
    """Returns the condition of a permit on refunds."""
    (grant,) = read(f'@id("x") @columns("*") permit(principal, action, resource is refunds) when {{ {text} }};')
    assert grant.condition is not None
    return grant.condition


def refused(text: str) -> list[str]:
    """Returns the lines and reasons of the errors."""
    with pytest.raises(InvalidDocumentError) as error:
        read(text)
    return [f"{each.line}: {each.reason}" for each in error.value.diagnostics]


def test_a_policy_without_parts_is_about_all_roles_actions_and_resources() -> None:
    (grant,) = read('@id("all") @columns("*") permit(principal, action, resource);')

    assert (grant.role, grant.verbs, grant.resources) == (None, tuple(sorted(Verb)), ("orders", "refunds"))
    assert grant.columns["orders"] == ("amount", "id")
    assert "note" not in grant.columns["refunds"]


def test_unless_is_a_negated_when() -> None:
    (grant,) = read(
        '@id("x") forbid(principal == Role::"a", action in [Action::"update", Action::"read"], resource is refunds)\n'
        'when { resource.paid } unless { resource has reason && resource.reason like "a*" };'
    )

    assert (grant.role, grant.verbs, grant.columns) == ("a", (Verb.READ, Verb.UPDATE), {})
    assert isinstance(grant.condition, And)
    assert isinstance(grant.condition.right, Not)


@pytest.mark.parametrize(
    "text",
    [
        "resource.amount == 5 || resource.amount != -9223372036854775808",
        "resource.count <= resource.amount",
        'resource has reason && resource.reason == "größer 😀"',
        'resource has reason && !(resource.reason like "a\\**")',
        'resource["id"] like "*"',
        '["a", "b"].contains(resource.id)',
        "[1, 2].contains(resource.count)",
        'resource.number == "01234567-89ab-cdef-0123-456789abcdef"',
        'resource.at >= datetime("2026-01-31T08:00:00Z")',
        'resource has day && resource.day < datetime("2026-01-31")',
        "(resource has reason && resource has day) || resource.paid == false",
        "true",
    ],
)
def test_the_subset_is_accepted(text: str) -> None:
    assert not list(errors(condition(text), {each.name: each for each in REFUNDS.columns}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("resource.amount + 1 > 2", "arithmetic is outside the subset"),
        ("resource.amount * 2 > 2", "arithmetic is outside the subset"),
        ("-resource.amount > 2", "arithmetic is outside the subset"),
        ('resource.id like "*a"', "a pattern is a prefix"),
        ('resource.id like "a*b*"', "a pattern is a prefix"),
        ('resource.id like "a"', "a pattern is a prefix"),
        ('resource.id in ["a"]', 'no Cedar|write `\\["a", "b"\\].contains'),
        ('resource in refunds::"x"', "`in` is about entities"),
        ("resource is refunds", "`is` is outside the subset"),
        ("if true then true else false", "`if-then-else` is outside the subset"),
        ('["a"].containsAny(["b"])', "`containsAny` is outside the subset"),
        ('resource.id == {"a": 1}', "`Record` is no operand"),
        ('decimal("1.0").lessThan(decimal("2.0"))', "`lessThan` is outside the subset"),
        ('ip("10.0.0.1").isIpv4()', "`isIpv4` is outside the subset"),
        ('principal == Role::"a"', "`Var` is no operand|names columns of `resource`"),
        ("principal has name", "names columns of `resource`"),
        ('context.a == "b"', "there is no a here"),
        ("resource.a.b == 1", "names columns of `resource`"),
        ("resource.missing == 1", "there is no missing here; known: amount, at, count"),
        ('resource.note == "a"', "note is hidden; no condition may name it"),
        ("resource has note", "note is hidden"),
        ("resource.share == 1", "share is numeric; a condition compares text"),
        ('resource.reason == "a"', "reason may be NULL: guard it with `has reason &&` first"),
        ('resource.paid || resource has reason || resource.reason == "a"', "reason may be NULL"),
        ('!(resource has reason) || resource.reason == "a"', "reason may be NULL"),
        ("resource.amount", "amount is no boolean"),
        ('resource.amount == "1"', r"amount \(integer\) cannot be compared with text"),
        ("resource.amount == true", r"amount \(integer\) cannot be compared with boolean"),
        ("resource.id == resource.number", r"id \(text\) cannot be compared with uuid"),
        ('resource.id < "b"', "id has no order here"),
        ("resource.paid > true", "paid has no order here"),
        ('resource.number == "ABC"', "number is a uuid: write one in lower case"),
        ('resource.number like "a*"', "number is no text"),
        ('resource has day && resource.day == datetime("2026-01-31T08:00:00Z")', "day is a date: write datetime"),
        ("resource has day && resource.at == resource.day", r"at \(time\) cannot be compared with date"),
        ('resource.at > datetime("yesterday")', 'datetime\\("yesterday"\\) is no time'),
        ("1 == 1", "a comparison of two constants"),
        ("[true].contains(resource.paid)", "paid: `contains` needs at least one constant, and a text"),
        ('[resource.id].contains("a")', "a list has 1 to 200 constants"),
        ("resource.paid.contains(1)", "`contains` needs a list of constants before it"),
        ('resource.id == "\\u{0}"', "without NUL"),
        (f'resource.id == "{"a" * 1001}"', "1000 characters at most"),
        ("resource.amount == 9223372036854775808", "no Cedar: integer literal"),
        ("resource.amount >", "no Cedar: unexpected token"),
        ("!!!!!resource.paid", "no Cedar: too many occurrences"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_its_line(text: str, reason: str) -> None:
    policy = f'// text\n@id("x") @columns("*")\npermit(principal, action, resource is refunds)\nwhen {{\n  {text}\n}};'

    (found,) = refused(policy)[:1]

    assert re.search(reason, found)
    assert found[0] in "45" or found.startswith("6: no Cedar: unexpected token")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('@columns("*") permit(principal, action, resource);', "1: a policy needs @id"),
        ('@id("") @columns("*") permit(principal, action, resource);', "1: a policy needs @id"),
        ('@id("x") permit(principal, action, resource);', "1: a permit needs @columns"),
        ('@id("x") @columns("*") forbid(principal, action, resource);', "1: a forbid is about whole rows"),
        ('@id("x")\n@cloumns("*") permit(principal, action, resource);', "2: @cloumns is no annotation"),
        (
            '@id("x") @columns("id, note") permit(principal, action, resource is refunds);',
            "1: refunds.note is hidden; no grant may name it",
        ),
        (
            '@id("x") @columns("id,x") permit(principal, action, resource is refunds);',
            "1: refunds has no column x, only id, number",
        ),
        (
            '@id("x") @columns("*")\npermit(principal == Agent::"a", action, resource);',
            '2: the principal is a role: write `principal in Role::"name"`',
        ),
        ('@id("x") @columns("*") permit(principal is Role, action, resource);', "1: the principal is a role"),
        (
            '@id("x") @columns("*") permit(principal in Role::"Über", action, resource);',
            "1: the role Über is no name of 1 to 63",
        ),
        (
            '@id("x") @columns("*") permit(principal,\n action == Action::"drop", resource);',
            '2: Action::"drop" is no action',
        ),
        (
            '@id("x") @columns("*") permit(principal, action,\nresource is customers);',
            "2: there is no resource customers, only orders, refunds",
        ),
        (
            '@id("x") @columns("*") permit(principal, action,\nresource == refunds::"1");',
            "2: a resource is a table",
        ),
        (
            '@id("x") @columns("*") permit(principal == ?principal, action, resource);',
            "1: a policy has no `?principal`",
        ),
        (
            '@id("x") forbid(principal, action, resource);\n\n@id("x") forbid(principal, action, resource);',
            '3: the id "x" is used twice',
        ),
        ('@id("x") @id("y") forbid(principal, action, resource);', "1: no Cedar: duplicate annotation"),
        ('@id("x")\nforbid(principal,\nactoin, resource);', "3: no Cedar"),
        ('@id("x") forbid(principal, action, resource)', "1: no Cedar: unexpected end of input"),
        ('@id("x") forbid(principal, action, resource); }', "1: no Cedar: unexpected token"),
    ],
)  # fmt: skip
def test_the_parts_of_a_policy_are_checked(text: str, error: str) -> None:
    assert refused(text)[0].startswith(error)


def test_all_errors_of_a_file_are_reported_at_once() -> None:
    text = '@id("a") forbid(principal, action, resource is a);\n@id("b") forbid(principal, action, resource is b);'

    assert [each.split(":")[0] for each in refused(text)] == ["1", "2"]


def test_all_errors_of_a_policy_are_reported_at_once() -> None:
    text = (
        '@idd("a")\n@columns("id, x, note, y")\npermit(principal in Role::"Über",\n'
        'action == Action::"drop", resource is refunds)\nwhen { resource.amont > 1 &&\nresource.coun > 1 };'
    )

    found = refused(text)

    assert sorted(each.split(":")[0] for each in found) == ["1", "1", "2", "2", "2", "3", "4", "5", "6"]
    assert {"amont", "coun"} <= {each.split("there is no ")[1].split()[0] for each in found if "there is no" in each}


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "permit(principal, action, resource) when {" + "(" * 1000 + "true" + ")" * 1000 + "};",
        "permit(principal, action, resource) when {" + "[" * 1000 + "]" * 1000 + "};",
        "permit(principal, action, resource) when { true" + " && true" * 10_000 + "};",
        "permit(principal, action, resource) when { " + "resource.a" + ".a" * 5000 + "};",
        "permit(principal, action, resource) when { " + "if true then true else " * 200 + "true };",
        'forbid(principal, action, resource) when { "' + '\\"' * 200_000,
        'forbid(principal, action, resource) when { "' + '\\"' * 200_000 + "\\",
        "forbid(principal, action, resource) when { true" + "\n" * 500_000 + "};",
        "forbid(principal, action, resource) when { true" + "// a\n" * 200_000 + "};",
        '@id("x") forbid(principal, action, resource);' * 201,
    ],
)  # fmt: skip
def test_text_that_is_built_to_be_slow_or_deep_is_refused(text: str) -> None:
    """Cedar's parser ended the process at 1,000 parentheses."""
    assert refused(text)


def test_long_chains_are_kept_flat_and_in_order() -> None:
    names = [f"resource has {'reason' if index % 2 else 'day'}" for index in range(128)]

    for sign, join in (("&&", And), ("||", Or)):
        tree = condition(f" {sign} ".join(names))
        leaves = [each.name for each in nodes(tree) if isinstance(each, HasValue)]

        assert isinstance(tree, join)
        assert leaves == ["reason" if index % 2 else "day" for index in range(128)]


def test_a_condition_in_canonical_form_is_bounded() -> None:
    deep: Condition = HasValue(name="reason")
    for _ in range(MAX_DEPTH):
        deep = Not(operand=deep)

    assert [reason for _, reason in errors(deep, {})] == ["a condition has 1000 parts and 32 levels at most"]


COLUMNS = st.sampled_from([each.name for each in REFUNDS.columns if each.name not in {"note", "share"}])
CONSTANTS = st.sampled_from(
    ['"a"', "5", "true", 'datetime("2026-01-31")', '"01234567-89ab-cdef-0123-456789abcdef"', "resource.count"]
)
ATOMS = st.one_of(
    COLUMNS.map("resource has {}".format),
    COLUMNS.map('resource.{} like "a*"'.format),
    COLUMNS.map('["a"].contains(resource.{})'.format),
    st.tuples(COLUMNS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), CONSTANTS).map(
        "resource.{0[0]} {0[1]} {0[2]}".format
    ),
    st.sampled_from(["resource.paid", "true"]),
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda part: st.one_of(
        st.tuples(part, part).map("({0[0]} && {0[1]})".format),
        st.tuples(part, part).map("({0[0]} || {0[1]})".format),
        part.map("!({})".format),
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(CONDITIONS)
def test_what_our_rules_accept_is_valid_for_cedar(text: str) -> None:
    """The service checks the canonical form by our rules alone."""
    (policy,) = split(f"permit(principal, action, resource is refunds) when {{ {text} }};")
    tree = when(parsed(policy)["conditions"])
    assert tree is not None

    if not list(errors(tree, {each.name: each for each in REFUNDS.columns})):
        assert list(validate(policy, schema([REFUNDS]))) == []
