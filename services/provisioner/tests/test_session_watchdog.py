"""A tenant that locks a shared table, or holds a session too long, is ended on a real server; its neighbours go on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from driver_harness import DRIVER
from paybill_contracts.placement import Preset
from paybill_provisioner.checks.sessions import SessionWatchdog
from paybill_provisioner.drivers import Site
from paybill_provisioner.drivers.server import TenantServer
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.testing import until

ENDED = (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError, ConnectionError)
MODES = ["SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"]


@asynccontextmanager
async def watched(harness, statement_s: float = 600, idle_s: float = 600) -> AsyncIterator[SessionWatchdog]:
    server = TenantServer(harness.postgres.url(DRIVER, "postgres"), harness.postgres.password(DRIVER))
    watchdog = SessionWatchdog(server, statement_s, idle_s)
    task = asyncio.create_task(watchdog.run())
    try:
        yield watchdog
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()


async def closed(connection) -> None:
    """Returns when the server has ended the session."""
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    if not connection.is_closed():
        await asyncio.wait_for(ended.wait(), 10)


async def logged(caplog, text: str) -> None:
    """Returns when the watchdog has logged the text, which it does after the session has ended."""

    async def is_logged() -> bool:
        return text in caplog.text

    await until(is_logged)


@pytest.mark.parametrize("mode", MODES)
async def test_neighbours_continue_within_two_seconds_of_a_lock(harness, mode, caplog) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with watched(harness), harness.connect(pair.tenant) as attacker, harness.connect(pair.neighbour) as neighbour:
        await attacker.execute(f"SET statement_timeout = 0; BEGIN; LOCK TABLE {pair.table} IN {mode} MODE")
        began = time.monotonic()
        await neighbour.execute(f"UPDATE {pair.table} SET body = '1'", timeout=10)
        waited_s = time.monotonic() - began
        await closed(attacker)
        ended_s = time.monotonic() - began
        await logged(caplog, "it locks a shared table in the mode")

    assert waited_s < 2
    assert ended_s < 2
    assert pair.tenant.tenant_id in caplog.text
    assert pair.neighbour.tenant_id not in caplog.text


async def test_a_session_that_waits_for_a_lock_is_ended_as_well(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with (
        watched(harness),
        harness.connect(pair.tenant) as attacker,
        harness.connect(pair.neighbour) as neighbour,
        neighbour.transaction(),
    ):
        await neighbour.execute(f"UPDATE {pair.table} SET body = '1'")
        with pytest.raises(ENDED):
            await attacker.execute(f"BEGIN; LOCK TABLE {pair.table} IN ACCESS EXCLUSIVE MODE", timeout=10)
        await neighbour.execute(f"UPDATE {pair.table} SET body = '2'")


async def test_limits_hold_that_a_tenant_has_raised(harness, caplog) -> None:
    tenant = await harness.ready(Preset.POOLED)
    async with (
        watched(harness, statement_s=1, idle_s=1),
        harness.connect(tenant) as active,
        harness.connect(tenant) as idle,
    ):
        await idle.execute("SET idle_in_transaction_session_timeout = 0")
        await idle.execute("BEGIN")
        with pytest.raises(ENDED):
            await active.execute("SET statement_timeout = 0; SELECT pg_sleep(60)", timeout=10)
        await closed(idle)
        await logged(caplog, "its statement has run for more than 1 s")
        await logged(caplog, "its transaction has been idle for more than 1 s")

    assert await harness.can_write(tenant)


async def test_a_tenant_cannot_raise_its_limits_of_memory_and_temporary_files(harness) -> None:
    tenant = await harness.ready(Preset.POOLED)
    async with harness.connect(tenant) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SET temp_file_limit = -1")
        await connection.execute("SET work_mem = '2GB'")
        with pytest.raises(asyncpg.OutOfMemoryError):
            await connection.fetchval(
                "SELECT cardinality(array_agg(repeat('x', 1000) || n)) FROM generate_series(1, 900000) AS n"
            )
        assert await connection.fetchval("SELECT 1") == 1


async def test_services_get_connections_when_tenants_have_taken_all_others(harness) -> None:
    tenants = await asyncio.gather(*(harness.ready(Preset.POOLED) for _ in range(2)))
    ((free,),) = await harness.as_superuser(
        "postgres",
        "SELECT current_setting('max_connections')::int - current_setting('reserved_connections')::int"
        " - current_setting('superuser_reserved_connections')::int - count(*)::int FROM pg_stat_activity"
        " WHERE backend_type = 'client backend'",
    )
    opened = []
    for each in tenants:
        await harness.as_superuser("postgres", f'ALTER ROLE "{each.connections[0].username}" CONNECTION LIMIT 300')
    try:
        for number in range(free + 20):
            context = harness.connect(tenants[number % 2])
            try:
                await context.__aenter__()
            except asyncpg.TooManyConnectionsError:
                break
            opened.append(context)
        assert len(opened) < free + 20
        assert await harness.as_driver("postgres", "SELECT 1") == [(1,)]
    finally:
        for context in opened:
            await context.__aexit__(None, None, None)


async def test_limits_of_logins_are_held_against_the_connections_of_the_server(harness, caplog) -> None:
    tenant = await harness.ready(Preset.POOLED)
    role = tenant.connections[0].username
    server = TenantServer(harness.postgres.url(DRIVER, "postgres"), harness.postgres.password(DRIVER))
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 138')
    try:
        await server.require_slots(role, 137)
        with pytest.raises(Refused, match=r"the connection_limit 138, and the server .* has 137 connections"):
            await server.require_slots(role, 138)
        async with server.connection("postgres", pooled=True) as connection:
            await SessionWatchdog(server, 600, 600).compare_limits(connection)
    finally:
        await server.close()

    assert "and the server has 137 for them: raise max_connections" in caplog.text


async def test_a_login_with_more_connections_than_the_server_has_is_not_built(harness) -> None:
    tenant = await harness.ready(Preset.POOLED)
    role = tenant.resources["role.main"]
    larger = role.model_copy(update={"attributes": role.attributes.model_copy(update={"connection_limit": 138})})
    site = Site(tenant, tenant.resources, tenant.outputs)

    with pytest.raises(Refused, match="publish a blueprint with a lower connection_limit"):
        await harness.driver.update(role, larger, site)
