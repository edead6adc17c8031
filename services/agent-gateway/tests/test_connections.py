"""Connections with agents' logins: few for each tenant, none to an endpoint that is closed or replaced."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from paybill_agent_gateway.effects.connections import Connections, DatabaseUnavailableError, Endpoint
from paybill_agent_gateway.effects.tenant_databases import Refused, TenantDatabases, Voided
from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.environment_plans import Connection
from paybill_contracts.placement import Preset
from paybill_runtime.testing import until
from tenant_pool import TenantPool, file_secrets


@pytest.fixture
async def pool(postgres, tmp_path: Path) -> AsyncIterator[TenantPool]:
    created = await TenantPool.create(postgres, file_secrets(tmp_path))
    yield created
    await created.drop()


@pytest.fixture
async def connections(pool: TenantPool) -> AsyncIterator[Connections]:
    opened = Connections(pool.secrets, per_tenant=2, maximum=3)
    yield opened
    opened.close()


async def pid(connections: Connections, endpoint: Endpoint) -> int:
    """Returns the server process of a connection."""
    async with connections.connection(endpoint) as connection:
        return int(connection.get_server_pid())


async def test_a_connection_is_used_again(connections, pool) -> None:
    tenant = await pool.tenant()

    assert await pid(connections, tenant) == await pid(connections, tenant)


async def test_a_tenant_has_few_connections_and_a_call_waits_for_one(connections, pool) -> None:
    tenant = await pool.tenant()

    async def used() -> int:
        async with connections.connection(tenant) as connection:
            await connection.fetch("SELECT pg_sleep(0.01)")
            return int(connection.get_server_pid())

    pids = await asyncio.gather(*(used() for _ in range(20)))

    assert len(pids) == 20
    assert len(set(pids)) == 2


async def test_the_least_recently_used_connection_is_closed_for_another_tenant(connections, pool) -> None:
    first, second, third, fourth = [await pool.tenant() for _ in range(4)]
    pids = [await pid(connections, each) for each in (first, second, third)]
    await pid(connections, first)
    await pid(connections, fourth)

    assert [await pid(connections, each) for each in (first, third)] == [pids[0], pids[2]]
    assert await pid(connections, second) != pids[1]


async def test_an_earlier_endpoint_is_never_used_after_a_later_one(connections, pool) -> None:
    tenant = await pool.tenant()
    before = await pid(connections, tenant)
    later = await pid(connections, replace(tenant, epoch=2))

    assert later != before
    with pytest.raises(DatabaseUnavailableError):
        await pid(connections, tenant)


async def test_a_connection_in_use_is_closed_after_its_statement_when_access_is_closed(connections, pool) -> None:
    tenant = await pool.tenant()
    async with connections.connection(tenant) as connection:
        connections.close_tenant(tenant.tenant_id)
        assert await connection.fetchval("SELECT 1") == 1

    assert connection.is_closed()


async def test_a_broken_connection_is_replaced(connections, pool) -> None:
    tenant = await pool.tenant()
    before = await pid(connections, tenant)
    await pool.fetch("SELECT pg_terminate_backend($1, 5000)", before)

    async def replaced() -> bool:
        return await pid(connections, tenant) != before

    assert await until(replaced)


def end_session(process: int) -> None:
    """Ends a session while this process cannot notice it: the end is in the socket only after this call."""
    os.kill(process, signal.SIGTERM)
    for _ in range(1000):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("the session did not end")


async def test_a_session_that_ended_unnoticed_is_replaced_before_an_intent(pool) -> None:
    tenant = await pool.tenant()
    databases = TenantDatabases(pool.secrets, time.monotonic)

    async def ended() -> None:
        (process,) = [
            each for (each,) in await pool.fetch("SELECT pid FROM pg_stat_activity WHERE usename = $1", tenant.username)
        ]
        end_session(process)

    found: list[object] = [await databases.require(tenant)]
    await ended()
    found.append(await databases.require(tenant))
    await ended()
    found.append(await databases.claim(tenant, "run_1", 1))
    await ended()
    await pool.execute(f'ALTER ROLE "{tenant.username}" NOLOGIN')
    found.append(await databases.require(tenant))
    databases.close()

    assert found == [None, None, Voided(), Refused("database_unavailable")]


async def test_an_error_in_the_block_closes_the_connection(connections, pool) -> None:
    tenant = await pool.tenant()
    with pytest.raises(RuntimeError):
        async with connections.connection(tenant) as connection:
            raise RuntimeError

    assert connection.is_closed()


@pytest.mark.parametrize(
    "change", ["ALTER ROLE {} NOLOGIN", "ALTER ROLE {} PASSWORD 'other'", "ALTER ROLE {} CONNECTION LIMIT 0"]
)
async def test_a_closed_login_is_refused_without_a_word_of_postgresql(connections, pool, change) -> None:
    tenant = await pool.tenant()
    await pool.execute(change.format(tenant.username))

    with pytest.raises(DatabaseUnavailableError) as refused:
        await pid(connections, tenant)
    assert tenant.username not in str(refused.value)


async def test_a_call_that_waits_for_a_connection_is_refused_when_access_is_closed(connections, pool) -> None:
    tenant = await pool.tenant()
    async with connections.connection(tenant), connections.connection(tenant):
        waiting = asyncio.create_task(pid(connections, tenant))
        await asyncio.sleep(0)
        connections.close_tenant(tenant.tenant_id)

    with pytest.raises(DatabaseUnavailableError):
        await waiting


async def test_a_deleted_password_is_a_database_that_is_away(connections, pool) -> None:
    tenant = await pool.tenant()

    with pytest.raises(DatabaseUnavailableError):
        await pid(connections, replace(tenant, secret="secret://agent-gateway/agents/none?v=1"))


def test_an_endpoint_without_a_password_is_refused() -> None:
    connection = Connection(
        address="role.agents", host="db", port=5432, database="pool", schema_name="product", username="a_1", secret=None
    )
    agents = AgentConnection(connection=connection, blueprint="main", preset=Preset.POOLED, epoch=3)

    with pytest.raises(DatabaseUnavailableError):
        Endpoint.of("ten_1", agents)
    ready = agents.model_copy(
        update={"connection": connection.model_copy(update={"secret": "secret://provisioner/agents/1?v=1"})}
    )
    assert Endpoint.of("ten_1", ready) == Endpoint(
        "ten_1", 3, "db", 5432, "pool", "product", "a_1", "secret://provisioner/agents/1?v=1"
    )
