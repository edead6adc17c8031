"""Connections query the description of a built-in type once in a process."""

from datetime import UTC, datetime

import asyncpg
import pytest
from paybill_runtime.database.builtin_types import TypedConnection
from paybill_runtime.database.pool import Database

VALUES = {
    "smallint[]": [1, 2],
    "bigint[]": [2**40],
    "timestamptz[]": [datetime(2026, 1, 2, tzinfo=UTC)],
    "bytea[]": [b"\x00\xff"],
    "jsonb[]": ['{"a": 1}', None],
    "boolean[]": [[True, False], [False, True]],
    "int4range": asyncpg.Range(1, 5),
}
QUERIES = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'WITH RECURSIVE%'"


@pytest.fixture
async def address(postgres, databases):
    return {"dsn": await databases.fresh("tenant"), "password": postgres.password("tenant")}


async def test_values_of_built_in_types_pass_unchanged_on_every_connection(address):
    for _ in range(2):
        connection = await asyncpg.connect(**address, connection_class=TypedConnection)
        for type_, value in VALUES.items():
            assert await connection.fetchval(f"SELECT $1::{type_}", value) == value
        await connection.close()


async def test_only_the_first_connection_queries_a_built_in_type(address):
    queries = []
    for _ in range(2):
        connection = await asyncpg.connect(**address, connection_class=TypedConnection)
        await connection.fetchval("SELECT $1::macaddr[]", ["08:00:2b:01:02:03"])
        queries.append(await connection.fetchval(QUERIES))
        await connection.close()

    assert queries == [1, 0]


async def test_a_type_of_the_database_is_queried_by_every_connection(address):
    for labels, value in (("'new'", "new"), ("'old'", "old")):
        connection = await asyncpg.connect(**address, connection_class=TypedConnection)
        await connection.execute(f"DROP TYPE IF EXISTS phase; CREATE TYPE phase AS ENUM ({labels})")

        assert await connection.fetchval("SELECT $1::phase[]", [value]) == [value]
        assert await connection.fetchval(QUERIES) == 1

        await connection.close()


async def test_connections_of_a_service_know_the_types(address):
    first, second = (Database(address["dsn"], address["password"], owner) for owner in ("first", "second"))
    for database in (first, second):
        async with database.direct() as connection:
            assert await connection.fetchval("SELECT $1::circle[]", [asyncpg.Circle((1.0, 2.0), 3.0)])
            queries = await connection.fetchval(QUERIES)
        async with database.transaction() as connection:
            await connection.exec_driver_sql("SELECT $1::circle[]", ([asyncpg.Circle((1.0, 2.0), 3.0)],))
            through_sqlalchemy = (await connection.exec_driver_sql(QUERIES)).scalar_one()
        await database.close()

    assert (queries, through_sqlalchemy) == (0, 0)
