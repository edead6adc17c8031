"""Facts that a pooled tenant learns of its neighbours: nothing but the exceptions of docs/security.md."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
from paybill_contracts.cells import Guarantee
from paybill_contracts.placement import Isolation, Preset

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"
EXCEPTIONS = ("estimates of the planner", "names of roles by number", "locks", "places of rows", "notifications")
CLOSED = (
    "SELECT * FROM pg_roles",
    "SELECT * FROM pg_user",
    "SELECT * FROM pg_auth_members",
    "SELECT * FROM pg_database",
    "SELECT * FROM pg_db_role_setting",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_stat_database",
    "SELECT * FROM pg_stat_all_tables",
    "SELECT * FROM pg_stat_all_indexes",
    "SELECT * FROM pg_statio_all_tables",
    "SELECT * FROM pg_stat_replication",
    "SELECT * FROM pg_prepared_xacts",
    "SELECT reltuples FROM pg_class",
    "SELECT relpages FROM pg_class",
    "SELECT pg_relation_size('product.documents')",
    "SELECT pg_database_size(current_database())",
    "SELECT pg_current_wal_lsn()",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_put(1, 0, 'x')",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
)
READABLE = """
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
AND c.relkind IN ('r', 'v') AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1
"""
# What drivers and psql ask for at the start, and to describe a table.
ORDINARY = (
    "SELECT version()",
    "SELECT c.oid, n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace",
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'product.documents'::regclass",
    "SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.relkind = 'r'",
    "SELECT table_name FROM information_schema.tables",
    "SELECT column_name FROM information_schema.columns",
    "SELECT tablename, n_distinct FROM pg_stats WHERE schemaname = 'product'",
    "SELECT * FROM pg_indexes WHERE schemaname = 'product'",
    "SELECT * FROM pg_type",
    "SELECT schemaname, n_tup_ins FROM pg_stat_xact_user_tables",
    "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid()",
)


@pytest.fixture
async def pooled(harness) -> AsyncIterator[SimpleNamespace]:
    """Returns a pooled tenant's connection, and the pair of it and its neighbour."""
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        yield SimpleNamespace(connection=connection, pair=pair)


async def test_what_shows_neighbours_or_leaves_the_quota_is_refused(pooled) -> None:
    for statement in CLOSED:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pooled.connection.execute(statement)


async def test_no_catalogue_shows_the_id_of_a_neighbour(pooled) -> None:
    number, refused = pooled.pair.neighbour_id.removeprefix("ten_"), 0
    for name in [row[0] for row in await pooled.connection.fetch(READABLE)]:
        try:
            rows = await pooled.connection.fetch(f"SELECT t::text FROM {name} AS t")  # PostgreSQL's name
        except asyncpg.InsufficientPrivilegeError:
            refused += 1
            continue
        assert number not in json.dumps([row[0] for row in rows]), name
    assert refused > 5


async def test_a_plan_shows_an_estimate_and_neither_rows_nor_ids_of_a_neighbour(pooled) -> None:
    """The estimate follows all rows, and is an exception of docs/security.md; rows that were read are the own ones."""
    text = "\n".join(
        row[0]
        for row in await pooled.connection.fetch("EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM product.documents")
    )

    assert pooled.pair.neighbour_id not in text
    assert "actual" in text
    assert "rows=1 loops=1" in text or "rows=1.00 loops=1" in text


async def test_what_drivers_ask_for_is_answered(pooled) -> None:
    for statement in ORDINARY:
        await pooled.connection.fetch(statement)


def test_the_exceptions_are_listed_by_name() -> None:
    text = SECURITY.read_text(encoding="utf-8")

    assert [name for name in EXCEPTIONS if f"| {name} |" not in text] == []


async def test_an_older_pool_is_reported_and_gets_the_rights_at_the_next_start(harness) -> None:
    tenant = await harness.ready(Preset.POOLED)
    database = tenant.connections[0].database
    await harness.as_superuser(database, "GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC")
    await harness.as_superuser(database, "GRANT SELECT ON pg_roles TO PUBLIC")
    (breach,) = await harness.driver.breaches(Isolation.POOL, database, {})
    harness.postgres.ensure_databases()

    assert breach.guarantee is Guarantee.PUBLIC
    assert "EXECUTE on lo_create(oid), SELECT on pg_roles" in breach.found
    assert await harness.driver.breaches(Isolation.POOL, database, {}) == []
