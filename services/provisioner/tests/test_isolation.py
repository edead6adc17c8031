"""What a tenant that is inside sees and changes of its neighbours: nothing, on a real PostgreSQL."""

import asyncio
from typing import Any

import asyncpg
import pytest
from paybill_contracts.placement import Preset

PRESETS = list(Preset)
SHARED = [Preset.POOLED, Preset.BRIDGE]


async def sees(connection, query="SELECT id FROM documents ORDER BY id", *values) -> list[Any]:
    return [row[0] for row in await connection.fetch(query, *values)]


async def test_in_a_pool_a_tenant_sees_and_changes_its_own_rows_alone(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    async with site.enter(there.mine) as connection:
        assert await sees(connection) == ["mine"]
        assert await sees(connection, "SELECT id FROM documents WHERE tenant_id = $1", there.them_id) == []
        assert await connection.execute("UPDATE documents SET body = NULL WHERE id = 'theirs'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM documents WHERE id = 'theirs'") == "DELETE 0"
        copied = await connection.copy_from_query("SELECT id FROM documents", output=lambda _: asyncio.sleep(0))
        assert copied == "COPY 1"
        assert await sees(connection, "SELECT tenant_id FROM documents") == [there.mine.tenant_id]

    async with site.enter(there.other) as connection:
        assert await sees(connection) == ["theirs"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO documents (tenant_id, id) VALUES ('{them_id}', 'planted')",
        "UPDATE documents SET tenant_id = '{them_id}'",
        "INSERT INTO documents VALUES ('{them_id}', 'theirs') ON CONFLICT (tenant_id, id) DO UPDATE SET id = 'y'",
        "MERGE INTO documents USING (SELECT 1) ON false WHEN NOT MATCHED THEN INSERT VALUES ('{them_id}', 'planted')",
        "WITH moved AS (UPDATE documents SET tenant_id = '{them_id}' RETURNING *) SELECT * FROM moved",
    ],
)
async def test_in_a_pool_nobody_writes_in_anothers_name(site, statement) -> None:
    there = await site.neighbours(Preset.POOLED)
    async with site.enter(there.mine) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(statement.format(them_id=there.them_id))

    async with site.enter(there.other) as connection:
        assert await sees(connection) == ["theirs"]


async def test_in_a_pool_copying_rows_in_is_no_way_around(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    async with site.enter(there.mine) as connection:
        with pytest.raises(asyncpg.PostgresError, match="row-level security"):
            await connection.copy_records_to_table(
                "documents",
                schema_name="product",
                records=[(there.them_id, "planted", None)],
                columns=["tenant_id", "id", "body"],
            )


async def test_in_a_pool_two_tenants_use_the_same_key_without_noticing_each_other(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    for environment in (there.mine, there.other):
        async with site.enter(environment) as connection:
            await connection.execute("INSERT INTO documents (id) VALUES ('same')")
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("INSERT INTO documents (id) VALUES ('same')")


async def test_in_a_pool_no_setting_changes_whose_rows_are_seen(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    async with site.enter(there.mine) as connection:
        for name, value in (
            ("role", "none"),
            ("search_path", "pg_catalog, product"),
            ("app.tenant", there.them_id),
            ("tenant_id", there.them_id),
            ("session_replication_role", "replica"),
            ("row_security", "on"),
        ):
            try:
                await connection.execute(f"SET {name} = '{value}'")
            except asyncpg.PostgresError:
                continue
            assert await sees(connection, "SELECT id FROM product.documents") == ["mine"]
        await connection.execute("RESET ALL; SET row_security = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM product.documents")

        for setting in ("search_path = pg_catalog", "row_security = off"):
            await connection.execute(f'ALTER ROLE "{there.me}" SET {setting}')
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with site.enter(there.mine) as connection:
            await connection.execute("SELECT * FROM product.documents")


async def test_in_a_pool_a_quick_look_before_the_policy_shows_nothing(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    async with site.enter(there.mine) as connection:
        curious = "SELECT id FROM documents WHERE 1 / (CASE WHEN id = 'theirs' THEN 0 ELSE 1 END) = 1"
        assert await sees(connection, curious) == ["mine"]
        statistics = "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'documents'"
        assert await sees(connection, statistics) == []
        plan = "\n".join(await sees(connection, "EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM documents WHERE id = 'x'"))
        assert "tenant_id" in plan


async def test_in_a_bridge_the_neighbours_schema_is_closed(site) -> None:
    there = await site.neighbours(Preset.BRIDGE)
    async with site.enter(there.mine) as connection:
        assert await sees(connection) == ["mine"]
        for statement in (
            "SELECT * FROM {table}",
            "INSERT INTO {table} (id) VALUES ('planted')",
            "UPDATE {table} SET body = NULL",
            "DELETE FROM {table}",
            "BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE",
            'CREATE TABLE "{them}".mine (a int)',
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement.format(table=there.table, them=there.them))
            await connection.execute("ROLLBACK")


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_schema_that_postgresql_gives_to_everybody_is_given_to_nobody(site, preset) -> None:
    environment = await site.ready(preset)
    await site.owner(environment.endpoint.database, "CREATE TABLE public.left_over (id int)")
    async with site.enter(environment) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="schema public"):
            await connection.execute("SELECT * FROM public.left_over")


@pytest.mark.parametrize("preset", PRESETS)
async def test_no_hash_of_a_password_is_shown_anywhere(site, preset) -> None:
    environment = await site.ready(preset)
    async with site.enter(environment) as connection:
        for query in ("SELECT rolpassword FROM pg_roles", "SELECT passwd FROM pg_user"):
            assert set(await sees(connection, query)) <= {"********", None}


@pytest.mark.parametrize("preset", SHARED)
async def test_what_a_neighbour_asks_is_not_shown(site, preset) -> None:
    there = await site.neighbours(preset)
    async with site.enter(there.other) as neighbour, site.enter(there.mine) as connection:
        await neighbour.execute("SELECT 'very private'")
        shown = await sees(connection, "SELECT query FROM pg_stat_activity WHERE usename = $1", there.them)

    assert shown == ["<insufficient privilege>"]


async def test_a_clear_password_is_in_no_statement_and_no_log_even_when_everything_is_logged(site) -> None:
    for setting in ("log_statement = 'all'", "log_min_error_statement = error", "log_min_messages = debug1"):
        await site.root("postgres", f"ALTER ROLE provisioner_driver SET {setting}")
    try:
        environment = await site.ready(Preset.POOLED)
    finally:
        await site.root("postgres", "ALTER ROLE provisioner_driver RESET ALL")
    password = await site.secrets.get(environment.endpoint.secret)
    log = site.postgres.log.read_text(encoding="utf-8")

    assert f'CREATE ROLE "{environment.endpoint.username}"' in log
    assert password not in log
