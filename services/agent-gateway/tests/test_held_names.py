"""Names of agents in a database of an earlier version, in which agents share a name."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from alembic import command
from paybill_agent_gateway.domain.agents import Agent, AgentNameTakenError, require_free_name
from paybill_agent_gateway.tables import AGENTS
from paybill_contracts.agents import AgentRegistered
from paybill_runtime.database.alembic_runner import _config
from paybill_runtime.database.migrate import _packages, check, migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.settings import read_secret

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
TENANT = "ten_" + "1" * 32
EARLIER_FORM = (
    "ALTER TABLE agents ADD COLUMN held_name text GENERATED ALWAYS AS (state->>'name') STORED",
    "ALTER TABLE agents ADD CONSTRAINT agents_held_name_key UNIQUE (held_name)",
)


def registered(number: int, **changed: Any) -> Agent:
    fact = AgentRegistered(
        tenant_id=TENANT, agent_id=f"agt_{number:032x}", name="desk", role="support", key_id=f"key-{number}",
        sha256="0" * 64, registered_by="user:ann", registered_at=NOW + timedelta(hours=2 * number),
        expires_at=NOW + timedelta(hours=2 * number + 1), **changed,
    )  # fmt: skip
    return AGENTS.fold(None, fact)


def insert(agent: Agent, *, without: str = "") -> str:
    """Returns the statement that stores an agent. without: a field that an earlier version did not have."""
    return (
        f"INSERT INTO agents (id, revision, state) VALUES ('{agent.id}', 1, "
        f"'{AGENTS.document(agent)}'::jsonb - '{without}')"
    )


@pytest.fixture
async def earlier(databases: Any, postgres: Any) -> Any:
    """Returns a database of the version without names that are held."""
    url = await databases.fresh("agent-gateway")
    database = Database(url, read_secret(postgres.password_file("agent-gateway")), "test")

    def back(connection: Any) -> None:
        command.downgrade(_config(_packages("agent-gateway")[-1], connection), "0004")

    async with database.transaction() as connection:
        await connection.run_sync(back)

    async def execute(statement: str) -> Any:
        return await databases.execute(url, "agent-gateway", statement)

    yield database, execute
    await database.close()


async def test_agents_that_share_a_name_survive_the_migration_and_new_ones_hold_theirs(earlier: Any) -> None:
    database, execute = earlier
    expired, newer = registered(1), registered(2)
    for each in (expired, newer):
        await execute(insert(each, without="claims_name"))

    await migrate(database, "agent-gateway")
    await check(database, "agent-gateway")
    stored = [AGENTS.load(row["state"]) for row in await execute("SELECT state FROM agents ORDER BY id")]

    assert stored == [expired, newer]
    with pytest.raises(AgentNameTakenError, match=newer.id):
        require_free_name("desk", [newer], NOW)
    await execute(insert(registered(3, claims_name=True)))
    with pytest.raises(asyncpg.UniqueViolationError, match="agents_held_name_key"):
        await execute(insert(registered(4, claims_name=True)))


async def test_a_database_that_holds_names_in_an_earlier_form_is_migrated(earlier: Any) -> None:
    database, execute = earlier

    def up(connection: Any) -> None:
        command.upgrade(_config(_packages("agent-gateway")[-1], connection), "0005")

    async with database.transaction() as connection:
        await connection.run_sync(up)
    for statement in EARLIER_FORM:
        await execute(statement)
    await execute(insert(registered(1), without="claims_name"))

    await migrate(database, "agent-gateway")
    await check(database, "agent-gateway")
    await execute(insert(registered(2), without="claims_name"))
