"""Conditions of grants and workflows: parsed and validated by Cedar, and converted to the trees of contracts.

The only importer of cedarpy, at the first use: processes that read no bundle do not pay for it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from paybill_contracts.agent_bundles import AgentResource, ResourceColumn
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
from pydantic import ValidationError

from paybill_definitions.cedar_text import CedarError, OutsideSubsetError, PolicyText, expanded, split

CEDAR_TYPES: Mapping[str, Mapping[str, str]] = {
    "text": {"type": "String"},
    "uuid": {"type": "String"},
    "integer": {"type": "Long"},
    "bigint": {"type": "Long"},
    "boolean": {"type": "Boolean"},
    "timestamptz": {"type": "Extension", "name": "datetime"},
    "date": {"type": "Extension", "name": "datetime"},
}
"""Types of columns that compare equally in Cedar, Python and PostgreSQL; others are absent from the schema."""

RESERVED = frozenset({"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"})
"""Words that name no entity type."""

ACTIONS = ("read", "create", "update", "delete")
Schema = dict[str, Any]
MAX_LIST = 200
"""Constants before `contains`."""

_NOWHERE = "Nothing"
_WHOLE = re.compile(r"`(!|-|\d+)`")
_QUOTED = re.compile(r'`(?:\w+::"?)?([^`"]+)"?`')
_OPERATORS = frozenset(Comparator)
_SUBSET = "docs/grants.md lists what a condition may use"


def schema(resources: Iterable[AgentResource]) -> Schema:
    """Returns Cedar's schema of the resources: columns that may be NULL are optional, hidden ones are absent."""
    entities = {each.name: {"shape": _record(each.columns)} for each in resources}
    applies = {"principalTypes": ["Agent", "Role"], "resourceTypes": sorted(entities)}
    return _schema(entities, {action: {"appliesTo": applies} for action in ACTIONS})


def step_schema(resource: AgentResource | None, steps: Mapping[str, Iterable[ResourceColumn]]) -> Schema:
    """Returns the schema of a condition in a workflow.

    resource: whose row is written. steps: the fields that a condition may name.
    """
    name = resource.name if resource else _NOWHERE
    context = {"type": "Record", "attributes": {step: _record(columns) for step, columns in steps.items()}}
    applies = {"principalTypes": ["Agent"], "resourceTypes": [name], "context": context}
    return _schema({name: {"shape": _record(resource.columns if resource else ())}}, {"check": {"appliesTo": applies}})


def _schema(entities: Mapping[str, Any], actions: Mapping[str, Any]) -> Schema:
    entity_types = {"Role": {}, "Agent": {"memberOfTypes": ["Role"]}, **entities}
    return {"": {"entityTypes": entity_types, "actions": actions}}


def _record(columns: Iterable[ResourceColumn]) -> dict[str, Any]:
    return {
        "type": "Record",
        "attributes": {
            each.name: {**CEDAR_TYPES[each.type], "required": not each.nullable}
            for each in columns
            if each.type in CEDAR_TYPES and not each.hidden
        },
    }


def parsed(policy: PolicyText) -> dict[str, Any]:
    """Returns Cedar's own JSON of one policy. Raises CedarError."""
    import cedarpy  # noqa: PLC0415

    try:
        found = json.loads(cedarpy.policies_to_json_str(policy.text))
    except ValueError as error:
        raise CedarError(_line_of_error(policy, str(error)), f"no Cedar: {error}") from None
    if found["templates"]:
        raise CedarError(policy.line, "a policy has no `?principal` or `?resource`: templates are outside the subset")
    (tree,) = found["staticPolicies"].values()
    return dict(tree)


def _line_of_error(policy: PolicyText, reason: str) -> int:
    """Returns the first line whose text ends in another way than too early: Cedar names no line.

    What it finds in the whole text is a number that is too large or a chain of signs, which its message names.
    """
    import cedarpy  # noqa: PLC0415

    lines = sorted({token.line for token in policy.tokens})
    for line in lines[:-1]:
        try:
            cedarpy.policies_to_json_str(" ".join(token.text for token in policy.tokens if token.line <= line))
        except ValueError as error:
            if str(error) not in {"unexpected end of input", "invalid token"}:
                return line
    if found := _WHOLE.findall(reason):
        return policy.line_in_condition(found[0])
    return lines[-1]


def validate(policy: PolicyText, schema: Schema) -> Iterator[CedarError]:
    """Yields what Cedar's validator finds in one policy."""
    import cedarpy  # noqa: PLC0415

    known: set[str] = set()
    for error in cedarpy.validate_policies(policy.text, json.dumps(schema)).errors:
        reason = re.sub(r"^for policy `\w+`, ", "", str(error.error))
        if reason in known or (known and reason.startswith("unable to find an applicable action")):
            continue
        known.add(reason)
        yield CedarError(_line_near(policy, _QUOTED.findall(reason)), reason)


def _line_near(policy: PolicyText, names: Iterable[str]) -> int:
    """Returns the first line with one of the names, in a condition or before; else that of the conditions."""
    known = {token.text.strip('"') for token in policy.tokens}
    for name in names:
        if name in known:
            return policy.line_in_condition(name)
    return policy.line_in_condition("")


def expression(text: str, resource: AgentResource | None) -> tuple[PolicyText, Condition]:
    """Returns a condition of a workflow, and the policy that Cedar validates for it. Raises CedarError.

    resource: whose row is written; None for a condition over fields of steps alone.
    """
    name = resource.name if resource else _NOWHERE
    policies = split(f"permit(principal, action, resource is {name}) when {{ {expanded(text)} }};")
    clauses = parsed(policies[0])["conditions"] if len(policies) == 1 else []
    if len(clauses) != 1:
        raise CedarError(1, "a condition is one expression")
    try:
        return policies[0], condition(clauses[0]["body"])
    except OutsideSubsetError as error:
        raise CedarError(1, error.reason) from None


def when(clauses: Iterable[Mapping[str, Any]]) -> Condition | None:
    """Returns the condition of the clauses of a policy: `unless` is a negated `when`. Raises OutsideSubsetError."""
    found = [
        Not(operand=condition(each["body"])) if each["kind"] == "unless" else condition(each["body"])
        for each in clauses
    ]
    return None if not found else _balanced(And, found)


def condition(tree: Any) -> Condition:
    """Returns the tree of contracts for Cedar's tree of a boolean expression. Raises OutsideSubsetError."""
    kind, body = next(iter(tree.items()))
    match kind:
        case "Value" if isinstance(body, bool):
            return Constant(value=body)
        case ".":
            return _column(tree)
        case "has":
            return HasValue(name=_has(body))
        case "&&":
            return _balanced(And, [condition(each) for each in _chain(tree, kind)])
        case "||":
            return _balanced(Or, [condition(each) for each in _chain(tree, kind)])
        case "!":
            return Not(operand=condition(body["arg"]))
        case "contains":
            return _one_of(body)
        case "like":
            return _starts_with(body)
        case _ if kind in _OPERATORS:
            return _comparison(kind, body)
        case "in":
            raise OutsideSubsetError("in", 'write `["a", "b"].contains(resource.column)`; `in` is about entities')
        case _:
            raise OutsideSubsetError(kind, f"`{kind}` is outside the subset; {_SUBSET}")


def _chain(tree: Any, kind: str) -> list[Any]:
    """Returns the parts of `a && b && c` in order; Cedar nests them to the left."""
    parts: list[Any] = []
    while kind in tree:
        parts.append(tree[kind]["right"])
        tree = tree[kind]["left"]
    return [tree, *reversed(parts)]


def _balanced(join: type[And] | type[Or], parts: list[Condition]) -> Condition:
    """Returns the same chain with a depth that grows with the logarithm; order and short circuit stay."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return join(left=_balanced(join, parts[:half]), right=_balanced(join, parts[half:]))


def _comparison(kind: str, body: Any) -> Comparison:
    try:
        return Comparison(operator=Comparator(kind), left=_operand(body["left"]), right=_operand(body["right"]))
    except ValidationError:
        raise OutsideSubsetError("when", "a text in a condition has 1000 characters at most, without NUL") from None


def _operand(tree: Any) -> Operand:
    kind, body = next(iter(tree.items()))
    if kind == "Value" and isinstance(body, bool | int | str):
        try:
            return Constant(value=body)
        except ValidationError:
            raise OutsideSubsetError("when", "a text in a condition has 1000 characters at most, without NUL") from None
    if kind == "datetime" and isinstance(body[0].get("Value"), str):
        return _time(body[0]["Value"])
    if kind == ".":
        return _column(tree)
    if kind in {"+", "-", "*", "neg"}:
        raise OutsideSubsetError("-" if kind == "neg" else kind, f"arithmetic is outside the subset; {_SUBSET}")
    raise OutsideSubsetError(
        kind, f"`{kind}` is no operand of a comparison: write a column, a constant or datetime(…); {_SUBSET}"
    )


def _time(text: str) -> Time:
    try:
        at = datetime.fromisoformat(text)
        return Time(at=at if at.tzinfo else datetime.fromisoformat(f"{text}T00:00:00+00:00"))
    except ValueError:
        raise OutsideSubsetError(
            text, f'datetime("{text:.40}") is no time such as datetime("2026-01-31T08:00:00Z")'
        ) from None


def _path(tree: Any) -> list[str]:
    """Returns the names after `resource` or `context`. Raises OutsideSubsetError for the attribute of anything else."""
    names: list[str] = []
    while "." in tree:
        names.append(tree["."]["attr"])
        tree = tree["."]["left"]
    variable = tree.get("Var")
    if (variable, len(names)) not in {("resource", 0), ("resource", 1), ("context", 1), ("context", 2)}:
        raise OutsideSubsetError(
            names[-1] if names else "when", f"a condition names columns of `resource`, and nothing else; {_SUBSET}"
        )
    return names[::-1]


def _named(names: list[str]) -> str:
    name = ".".join(names)
    try:
        return HasValue(name=name).name
    except ValidationError:
        raise OutsideSubsetError(name, f"{name:.80} is no name of a column") from None


def _column(tree: Any) -> ColumnValue:
    return ColumnValue(name=_named(_path(tree)))


def _has(body: Any) -> str:
    return _named([*_path(body["left"]), body["attr"]])


def _one_of(body: Any) -> OneOf:
    items = body["left"].get("Set")
    if items is None:
        raise OutsideSubsetError("contains", "`contains` needs a list of constants before it")
    values = tuple(_operand(each) for each in items)
    constants = tuple(each for each in values if isinstance(each, Constant))
    if len(constants) != len(values) or len(values) > MAX_LIST:
        raise OutsideSubsetError("contains", f"a list has 1 to {MAX_LIST} constants: texts or whole numbers")
    unique = sorted(set(constants), key=lambda each: (str(type(each.value)), each.value))
    return OneOf(item=_operand(body["right"]), values=tuple(unique))


def _starts_with(body: Any) -> StartsWith:
    pattern = body["pattern"]
    if not pattern or pattern[-1] != "Wildcard" or "Wildcard" in pattern[:-1]:
        raise OutsideSubsetError("like", 'a pattern is a prefix such as like "abc*": one `*`, at its end')
    item = _operand(body["left"])
    if not isinstance(item, ColumnValue):
        raise OutsideSubsetError("like", "`like` needs a column before it")
    try:
        return StartsWith(item=item, prefix="".join(each["Literal"] for each in pattern[:-1]))
    except ValidationError:
        raise OutsideSubsetError("like", "a prefix has 1000 characters at most, without NUL") from None
