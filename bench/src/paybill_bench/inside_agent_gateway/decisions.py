"""`python -m paybill_bench.inside_agent_gateway.decisions`: microseconds of decisions by grants.

A bundle of 50 grants on 5 tables: four in five permit, each with a condition of one to three parts. Each decision, of a
random call on a random row, is timed alone, including the clock's own 0.1 us. The garbage collector is set as in a
service. It prints a JSON list: the median and the 99th percentile of each round.
"""

import json
import random
import time
from collections.abc import Sequence

from paybill_agent_gateway.domain.grants import CompiledGrants
from paybill_contracts.agent_bundles import AgentResource, Bundle, Effect, Grant, ResourceColumn, Verb
from paybill_contracts.agent_expressions import (
    And,
    ColumnValue,
    Comparator,
    Comparison,
    Condition,
    Constant,
    HasValue,
    StartsWith,
)
from paybill_contracts.environment_plans import BlueprintRef
from paybill_runtime.garbage_collector import tune_garbage_collector

from paybill_bench.servers import percentile

GRANTS = 50
TABLES = ("customers", "notes", "orders", "refunds", "tickets")
ROLES = ("support", "sales")
DECISIONS = 50_000
ROUNDS = 3
COLUMNS = ("id", "amount", "status", "note")
_FORBIDS = 5
"""One grant of so many forbids."""


def main() -> list[tuple[float, float]]:
    """Returns the microseconds of each round: median and 99th percentile."""
    chance = random.Random(1)  # noqa: S311  # random sampling, no secret
    compiled = CompiledGrants.of(_bundle())
    calls = [
        (
            chance.choice(ROLES),
            chance.choice(list(Verb)),
            chance.choice(TABLES),
            frozenset(chance.sample(COLUMNS, 3)),
            {
                "id": f"t-{chance.randrange(100)}",
                "amount": chance.randrange(10_000),
                "status": chance.choice(("open", "closed")),
                "note": chance.choice((None, "a note")),
            },
        )
        for _ in range(DECISIONS)
    ]
    tune_garbage_collector()
    return [_round(compiled, calls) for _ in range(ROUNDS)]


def _round(
    compiled: CompiledGrants, calls: Sequence[tuple[str, Verb, str, frozenset[str], dict[str, object]]]
) -> tuple[float, float]:
    clock = time.perf_counter_ns
    took_us, allowed = [], 0
    for role, verb, resource, columns, row in calls:
        begin = clock()
        decision = compiled.decide(role, verb, resource, columns, row)
        took_us.append((clock() - begin) / 1000)
        allowed += decision.allowed
    if not 0 < allowed < len(calls):
        raise ValueError(f"{allowed} of {len(calls)} decisions permit, so that one kind is not measured")
    took_us.sort()
    return percentile(took_us, 0.5), percentile(took_us, 0.99)


def _bundle() -> Bundle:
    columns = tuple(
        ResourceColumn(name=name, type="bigint" if name == "amount" else "text", nullable=name == "note")
        for name in COLUMNS
    )
    return Bundle(
        blueprint=BlueprintRef(name="main", version=1, content_hash="ab" * 32),
        resources=tuple(AgentResource(name=name, columns=columns) for name in TABLES),
        grants=tuple(_grant(number) for number in range(GRANTS)),
        workflows=(),
    )


def _grant(number: int) -> Grant:
    permits = number % _FORBIDS != 0
    table = TABLES[number // _FORBIDS % len(TABLES)]
    parts: list[Condition] = [
        Comparison(operator=Comparator.LESS, left=ColumnValue(name="amount"), right=Constant(value=number * 200)),
        Comparison(operator=Comparator.EQUAL, left=ColumnValue(name="status"), right=Constant(value="open")),
        And(left=HasValue(name="note"), right=StartsWith(item=ColumnValue(name="note"), prefix="a ")),
    ]
    condition = parts[0]
    for part in parts[1 : 1 + number % 3]:
        condition = And(left=condition, right=part)
    if not permits:
        condition = Comparison(
            operator=Comparator.GREATER, left=ColumnValue(name="amount"), right=Constant(value=9_000)
        )
    return Grant(
        id=f"grant {number}",
        effect=Effect.PERMIT if permits else Effect.FORBID,
        role=(*ROLES, None)[number % 3],
        verbs=tuple(Verb),
        resources=(table,),
        columns={table: COLUMNS} if permits else {},
        condition=condition,
    )


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201  # its result
