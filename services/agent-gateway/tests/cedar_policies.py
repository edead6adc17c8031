"""Generated grants in the text of Cedar, and rows for them, four in ten values NULL."""

import json
from datetime import UTC, date, datetime
from random import Random
from typing import Any

from paybill_contracts.agent_bundles import Effect, Grant, Verb
from paybill_contracts.agent_expressions import Comparator
from paybill_definitions.agent_cedar import parsed, when
from paybill_definitions.cedar_text import split
from tenant_pool import resource_of

ROWS = resource_of(
    "rows", "id text", "n integer", "m bigint", "k bigint not null", "s text", "q text", "c text not null", "u uuid",
    "b boolean", "t timestamptz", "e timestamptz", "d date",
)  # fmt: skip
OTHERS = resource_of("others", "id text", "n integer")
ROLES = ("support", "sales")
COLUMNS = {each.name: each for each in ROWS.columns}
NULL_SHARE = 0.4

INTEGERS = (-(2**31), -1, 0, 1, 2, 2**31 - 1)
LONGS = (*INTEGERS, -(2**63), 2**63 - 1)
TEXTS = ("", "a", "ab", "abc", "A", "\u00e9", "e\u0301", "a%", "a_", "*", "\\", '"', "ab\n", "\U0001f600x")
UUIDS = tuple(f"{number:08d}-0000-4000-8000-00000000000a" for number in range(3))
TIMES = tuple(datetime(2026, 1, day, hour, 0, 0, 1000, UTC) for day in (1, 2) for hour in (0, 23))
MIDNIGHTS = tuple(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))
VALUES: dict[str, tuple[Any, ...]] = {
    "integer": INTEGERS,
    "bigint": LONGS,
    "text": TEXTS,
    "uuid": UUIDS,
    "boolean": (True, False),
    "timestamptz": (*TIMES, *MIDNIGHTS),
    "date": tuple(date(2026, 1, day) for day in (1, 2, 3)),
}
FAMILY = {"integer": "long", "bigint": "long", "text": "text", "uuid": "text", "timestamptz": "time", "date": "time"}


def row_of(random: Random, number: int) -> dict[str, Any]:
    """Returns a row in the form that the driver takes."""
    return {"id": f"r{number}"} | {
        each.name: None if each.nullable and random.random() < NULL_SHARE else random.choice(VALUES[each.type])
        for each in ROWS.columns[1:]
    }


def entity_of(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as Cedar's entity: a column that is NULL is an attribute that is missing."""
    return {
        "uid": {"type": "rows", "id": row["id"]},
        "attrs": {name: _attribute(value) for name, value in row.items() if value is not None},
        "parents": [],
    }


def _attribute(value: Any) -> Any:
    if isinstance(value, date):
        return {"__extn": {"fn": "datetime", "arg": _moment(value)}}
    return value


def _moment(value: date) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%S}.{getattr(value, 'microsecond', 0) // 1000:03d}Z"


def _literal(value: Any) -> str:
    """Returns a constant as Cedar text."""
    if isinstance(value, str):
        return '"' + "".join(f"\\u{{{ord(each):x}}}" for each in value) + '"'
    return json.dumps(value) if not isinstance(value, date) else f'datetime("{_moment(value)}")'


class Policies:
    """Generates policies."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def grants(self, count: int) -> list[tuple[str, Grant]]:
        """Returns `count` policies."""
        return [self._policy(f"g{number}") for number in range(count)]

    def _policy(self, id_: str) -> tuple[str, Grant]:
        """Returns a policy, and the grant that our reader makes of its text."""
        random = self._random
        effect = random.choice([Effect.PERMIT, Effect.PERMIT, Effect.FORBID])
        role = random.choice([None, *ROLES])
        verbs = tuple(Verb) if random.random() < 0.5 else tuple(random.sample(list(Verb), 2))
        resources = random.choice([("rows",), ("rows",), ("others", "rows"), ("others",)])
        condition = self.condition(3) if random.random() < 0.95 else ""
        if "others" in resources:
            condition = "resource.n > 0"
        listed = sorted(COLUMNS) if random.random() < 0.6 else sorted(random.sample(sorted(COLUMNS), 5))
        columns = {each: tuple(listed) for each in resources} if effect is Effect.PERMIT else {}
        principal = f'principal in Role::"{role}"' if role else "principal"
        actions = ", ".join(f'Action::"{verb}"' for verb in verbs)
        action = "action" if len(verbs) == len(Verb) else f"action in [{actions}]"
        resource = "resource" if len(resources) > 1 else f"resource is {resources[0]}"
        clause = f" {random.choice(['when', 'unless'])} {{ {condition} }}" if condition else ""
        text = f"{effect.value}({principal}, {action}, {resource}){clause};"
        (policy,) = split(text)
        tree = when(parsed(policy)["conditions"])
        return text, Grant(
            id=id_, effect=effect, role=role, verbs=verbs, resources=resources, columns=columns, condition=tree
        )

    def condition(self, depth: int) -> str:
        """Returns a condition of at most this depth."""
        random = self._random
        if depth and random.random() < 0.75:
            kind = random.choice(["&&", "||", "!", "has"])
            if kind == "!":
                return f"!({self.condition(depth - 1)})"
            left = self._has() if kind == "has" else self.condition(depth - 1)
            return f"(({left}) {'&&' if kind == 'has' else kind} ({self.condition(depth - 1)}))"
        simple = [self._has, self._compared, self._compared, self._compared, self._in, self._like, self._boolean]
        return random.choice(simple)()

    def _column(self, *types: str) -> str:
        return self._random.choice([each.name for each in ROWS.columns if each.type in types])

    def _has(self) -> str:
        return f"resource has {self._random.choice(sorted(COLUMNS))}"

    def _boolean(self) -> str:
        return self._random.choice(["resource.b", "resource.b", "true", "false"])

    def _compared(self) -> str:
        """Compares a column with a constant, or with a column of the same type in Cedar."""
        random = self._random
        left = random.choice(sorted(COLUMNS))
        type_ = COLUMNS[left].type
        family = FAMILY.get(type_, type_)
        operator = random.choice(list(Comparator) if family in {"long", "time"} else ["==", "!="])
        if random.random() < 0.3:
            equal = [name for name, each in COLUMNS.items() if FAMILY.get(each.type, each.type) == family]
            right = f"resource.{random.choice(equal)}"
        else:
            right = _literal(random.choice(VALUES["timestamptz" if family == "time" else type_]))
        operands = [f"resource.{left}", right]
        if random.random() < 0.3:
            operands.reverse()
        return f"{operands[0]} {operator} {operands[1]}"

    def _in(self) -> str:
        name = self._column("text", "uuid", "integer", "bigint")
        chosen = self._random.sample(VALUES[COLUMNS[name].type], self._random.randint(1, 3))
        return f"[{', '.join(_literal(each) for each in chosen)}].contains(resource.{name})"

    def _like(self) -> str:
        name = self._column("text", "uuid")
        prefix = self._random.choice(VALUES[COLUMNS[name].type])[:2]
        pattern = "".join("\\*" if each == "*" else _literal(each)[1:-1] for each in prefix)
        return f'resource.{name} like "{pattern}*"'
