"""A connected tenant cannot read or change its neighbours' data, on a real PostgreSQL."""

import asyncio
from typing import Any

import asyncpg
import pytest
from paybill_contracts.placement import Preset

PRESETS = list(Preset)
SHARED = [Preset.POOLED, Preset.BRIDGE]


async def values(connection, query="SELECT id FROM documents ORDER BY id", *arguments) -> list[Any]:
    return [row[0] for row in await connection.fetch(query, *arguments)]


async def test_in_a_pool_a_tenant_reads_and_changes_only_its_own_rows(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        assert await values(connection) == ["mine"]
        assert await values(connection, "SELECT id FROM documents WHERE tenant_id = $1", pair.neighbour_id) == []
        assert await connection.execute("UPDATE documents SET body = NULL WHERE id = 'theirs'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM documents WHERE id = 'theirs'") == "DELETE 0"
        copied = await connection.copy_from_query("SELECT id FROM documents", output=lambda _: asyncio.sleep(0))
        assert copied == "COPY 1"
        assert await values(connection, "SELECT tenant_id FROM documents") == [pair.tenant.tenant_id]

    async with harness.connect(pair.neighbour) as connection:
        assert await values(connection) == ["theirs"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO documents (tenant_id, id) VALUES ('{neighbour_id}', 'forged')",
        "UPDATE documents SET tenant_id = '{neighbour_id}'",
        "INSERT INTO documents VALUES ('{neighbour_id}', 'theirs') ON CONFLICT (tenant_id, id) DO UPDATE SET id = 'y'",
        (
            "MERGE INTO documents USING (SELECT 1) ON false"
            " WHEN NOT MATCHED THEN INSERT VALUES ('{neighbour_id}', 'forged')"
        ),
        "WITH changed AS (UPDATE documents SET tenant_id = '{neighbour_id}' RETURNING *) SELECT * FROM changed",
    ],
)
async def test_in_a_pool_a_row_for_another_tenant_is_refused(harness, statement) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(statement.format(neighbour_id=pair.neighbour_id))

    async with harness.connect(pair.neighbour) as connection:
        assert await values(connection) == ["theirs"]


async def test_in_a_pool_copy_does_not_bypass_the_policy(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        with pytest.raises(asyncpg.PostgresError, match="row-level security"):
            await connection.copy_records_to_table(
                "documents",
                schema_name="product",
                records=[(pair.neighbour_id, "forged", None)],
                columns=["tenant_id", "id", "body"],
            )


async def test_in_a_pool_two_tenants_can_use_the_same_key(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    for environment in (pair.tenant, pair.neighbour):
        async with harness.connect(environment) as connection:
            await connection.execute("INSERT INTO documents (id) VALUES ('same')")
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("INSERT INTO documents (id) VALUES ('same')")


async def test_in_a_pool_no_setting_changes_the_visible_rows(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        for name, value in (
            ("role", "none"),
            ("search_path", "pg_catalog, product"),
            ("app.tenant", pair.neighbour_id),
            ("tenant_id", pair.neighbour_id),
            ("session_replication_role", "replica"),
            ("row_security", "on"),
        ):
            try:
                await connection.execute(f"SET {name} = '{value}'")
            except asyncpg.PostgresError:
                continue
            assert await values(connection, "SELECT id FROM product.documents") == ["mine"]
        await connection.execute("RESET ALL; SET row_security = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM product.documents")

        for setting in ("search_path = pg_catalog", "row_security = off"):
            await connection.execute(f'ALTER ROLE "{pair.tenant_role}" SET {setting}')
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with harness.connect(pair.tenant) as connection:
            await connection.execute("SELECT * FROM product.documents")


async def test_in_a_pool_expressions_and_statistics_leak_nothing(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        leaking = "SELECT id FROM documents WHERE 1 / (CASE WHEN id = 'theirs' THEN 0 ELSE 1 END) = 1"
        assert await values(connection, leaking) == ["mine"]
        statistics = "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'documents'"
        assert await values(connection, statistics) == []
        plan = "\n".join(
            await values(connection, "EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM documents WHERE id = 'x'")
        )
        assert "tenant_id" in plan


async def test_in_a_bridge_a_neighbours_schema_is_closed(harness) -> None:
    pair = await harness.tenant_pair(Preset.BRIDGE)
    async with harness.connect(pair.tenant) as connection:
        assert await values(connection) == ["mine"]
        for statement in (
            "SELECT * FROM {table}",
            "INSERT INTO {table} (id) VALUES ('forged')",
            "UPDATE {table} SET body = NULL",
            "DELETE FROM {table}",
            "BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE",
            'CREATE TABLE "{neighbour_role}".mine (a int)',
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement.format(table=pair.table, neighbour_role=pair.neighbour_role))
            await connection.execute("ROLLBACK")


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_schema_public_is_closed(harness, preset) -> None:
    environment = await harness.ready(preset)
    await harness.as_driver(environment.connections[0].database, "CREATE TABLE public.left_over (id int)")
    async with harness.connect(environment) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="schema public"):
            await connection.execute("SELECT * FROM public.left_over")


@pytest.mark.parametrize("preset", PRESETS)
async def test_password_hashes_are_not_visible(harness, preset) -> None:
    environment = await harness.ready(preset)
    async with harness.connect(environment) as connection:
        for query in ("SELECT rolpassword FROM pg_authid", "SELECT passwd FROM pg_shadow"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(query)


@pytest.mark.parametrize("preset", SHARED)
async def test_a_neighbours_queries_are_not_visible(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    async with harness.connect(pair.neighbour) as neighbour, harness.connect(pair.tenant) as connection:
        await neighbour.execute("SELECT 'very private'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT query FROM pg_stat_activity")


async def test_a_plain_password_is_in_no_log_even_when_all_statements_are_logged(harness) -> None:
    for setting in ("log_statement = 'all'", "log_min_error_statement = error", "log_min_messages = debug1"):
        await harness.as_superuser("postgres", f"ALTER ROLE provisioner_driver SET {setting}")
    try:
        environment = await harness.ready(Preset.POOLED)
    finally:
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver RESET ALL")
    password = await harness.secrets.get(environment.connections[0].secret)
    log = harness.postgres.log.read_text(encoding="utf-8")

    assert f'CREATE ROLE "{environment.connections[0].username}"' in log
    assert password not in log
