"""Cedar is the oracle: its decisions, those in Python and those of PostgreSQL are the same for generated policies.

PAYBILL_TEST_AGENT_DECISIONS: number of decisions; PAYBILL_TEST_AGENT_SEED: seed of a run to repeat.
"""

import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import cedarpy
import pytest
from cedar_policies import COLUMNS, OTHERS, ROLES, ROWS, Policies, entity_of, row_of
from paybill_agent_gateway.domain.columns import canonical, native
from paybill_agent_gateway.domain.conditions import Parameters, Scope, sql
from paybill_agent_gateway.domain.grants import CompiledGrants
from paybill_contracts.agent_bundles import Bundle, Effect, Grant, Verb
from paybill_contracts.agent_expressions import And, Condition, Not, Or
from paybill_contracts.environment_plans import BlueprintRef
from tenant_pool import TenantPool, file_secrets

DECISIONS = int(os.environ.get("PAYBILL_TEST_AGENT_DECISIONS", "20000"))
SEED = int(os.environ.get("PAYBILL_TEST_AGENT_SEED", "0")) or SystemRandom().randrange(1, 2**31)
ROW_COUNT, WINDOW, GRANTS = 400, 50, 6
BLUEPRINT = BlueprintRef(name="main", version=1, content_hash="a" * 64)


class World:
    """Rows in PostgreSQL, as Cedar's entities, and as values in Python."""

    def __init__(self, agent: Any, rows: dict[str, dict[str, Any]], entities: Any) -> None:
        self.agent = agent
        self.rows = rows
        self.entities = entities

    async def permitted(self, condition: str, parameters: Parameters, ids: list[str]) -> set[str]:
        """Returns the ids of the rows that a condition of SQL selects."""
        place = parameters.fixed("text[]", ids)
        found = await self.agent.fetch(
            f'SELECT t."id" FROM product.rows AS t WHERE t."id" = ANY({place}) AND {condition}',
            *[each.value for each in parameters.items],
        )
        return {row["id"] for row in found}


@pytest.fixture
async def world(postgres, tmp_path: Path) -> AsyncIterator[World]:
    pool = await TenantPool.create(postgres, file_secrets(tmp_path))
    await pool.create_table(ROWS)
    await pool.grant("rows", {"SELECT": "*", "INSERT": "*"})
    random = Random(SEED)
    rows = [row_of(random, number) for number in range(ROW_COUNT)]
    listed = ", ".join(f"${number}::{each.type}" for number, each in enumerate(ROWS.columns, 1))
    async with pool.agent(await pool.tenant()) as agent:
        names = ", ".join(COLUMNS)
        await agent.executemany(
            f"INSERT INTO product.rows ({names}) VALUES ({listed})", [tuple(row.values()) for row in rows]
        )
        # Every second row has the values of facts, and every other one those of the driver.
        found = await agent.fetch(f"SELECT {names} FROM product.rows ORDER BY id")
        values = {
            row["id"]: {name: canonical(COLUMNS[name].type, value) for name, value in row.items()}
            if number % 2
            else dict(row)
            for number, row in enumerate(found)
        }
        agents = [
            {"uid": {"type": "Agent", "id": role}, "attrs": {}, "parents": [{"type": "Role", "id": role}]}
            for role in ROLES
        ]
        entities = cedarpy.Entities.from_json_str(json.dumps([*agents, *map(entity_of, rows)]))
        yield World(agent, values, entities)
    await pool.drop()


def cedar_decisions(
    world: World, policies: list[tuple[str, Grant]], role: str, verb: Verb, ids: list[str]
) -> dict[str, tuple[bool, bool]]:
    """Returns by row whether Cedar allows it, and whether a forbid was an error."""
    requests = [
        {"principal": f'Agent::"{role}"', "action": f'Action::"{verb}"', "resource": f'rows::"{each}"'} for each in ids
    ]
    text = "\n".join(text for text, _ in policies)
    found = {}
    for id_, result in zip(ids, cedarpy.is_authorized_batch(requests, text, world.entities), strict=True):
        errors = {int(number) for error in result.diagnostics.errors for number in re.findall(r"`policy(\d+)`", error)}
        forbid_failed = any(policies[number][1].effect is Effect.FORBID for number in errors)
        found[id_] = (result.decision is cedarpy.Decision.Allow, forbid_failed)
    return found


def naive(condition: Condition, scope: Scope) -> str:
    """Translates a condition as if SQL had two values: the fault that the oracle has to find."""
    match condition:
        case And():
            return f"({naive(condition.left, scope)} AND {naive(condition.right, scope)})"
        case Or():
            return f"({naive(condition.left, scope)} OR {naive(condition.right, scope)})"
        case Not():
            return f"(NOT {naive(condition.operand, scope)})"
        case _:
            return sql(condition, scope)


async def naively(world: World, grants: CompiledGrants, call: tuple[Any, ...], ids: list[str]) -> set[str]:
    parameters, condition = Parameters(), grants.row_condition(*call)
    scope = Scope(COLUMNS, 't."{}"'.format, parameters)
    permits = [naive(each, scope) if each else "TRUE" for each in condition.permits] or ["FALSE"]
    forbids = [naive(each, scope) if each else "TRUE" for each in condition.forbids] or ["FALSE"]
    text = f"({' OR '.join(permits)}) AND ({' OR '.join(forbids)}) IS NOT TRUE"
    return await world.permitted(text, parameters, ids)


async def test_cedar_python_and_postgresql_decide_the_same(world: World) -> None:
    random, counts = Random(SEED), Counter[str]()
    print(f"PAYBILL_TEST_AGENT_SEED={SEED} PAYBILL_TEST_AGENT_DECISIONS={DECISIONS}")  # noqa: T201  # the record
    while counts["decisions"] < DECISIONS:
        policies = Policies(random).grants(GRANTS)
        bundle = Bundle(
            blueprint=BLUEPRINT, resources=(OTHERS, ROWS), grants=tuple(grant for _, grant in policies), workflows=()
        )
        grants = CompiledGrants.of(bundle)
        named = frozenset(random.sample(sorted(COLUMNS), random.randint(1, 2)))
        covering = [
            (text, grant)
            for text, grant in policies
            if grant.effect is Effect.FORBID or named <= set(grant.columns.get("rows", ()))
        ]
        for role in ROLES:
            verb, ids = random.choice(list(Verb)), random.sample(sorted(world.rows), WINDOW)
            call = (role, verb, "rows", named)
            parameters = Parameters()
            text = grants.row_condition(*call).sql('t."{}"'.format, parameters)
            by_sql = await world.permitted(text, parameters, ids)
            by_naive = await naively(world, grants, call, ids)
            for id_, (allowed, forbid_failed) in cedar_decisions(world, covering, role, verb, ids).items():
                decision = grants.decide(*call, world.rows[id_])
                assert decision.allowed is (id_ in by_sql), (SEED, covering, call, world.rows[id_], text)
                assert decision.allowed is (allowed and not forbid_failed), (SEED, covering, call, world.rows[id_])
                counts["decisions"] += 1
                counts["allowed"] += decision.allowed
                counts["forbid failed"] += allowed and forbid_failed
                counts["naive wrong"] += allowed is not (id_ in by_naive)
                counts["naive shown"] += not allowed and id_ in by_naive
    print(dict(counts))  # noqa: T201  # as above

    # The generator is worth something, and the fault is found.
    assert 0.1 < counts["allowed"] / counts["decisions"] < 0.9
    assert counts["forbid failed"] > 0
    assert counts["naive wrong"] >= counts["naive shown"] > 0


def test_values_of_rows_are_those_that_postgresql_takes() -> None:
    row = row_of(Random(1), 1)

    assert [native(each.type, canonical(each.type, row[each.name])) is None for each in ROWS.columns] == [
        row[each.name] is None for each in ROWS.columns
    ]
