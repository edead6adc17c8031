"""Databases for tests: each is migrated, holds the rows of the migrations alone, and is emptied for the next test.

Creating a database copies 500 files, and dropping it deletes them: that took a third of PostgreSQL's time in all tests.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg
import pytest
from paybill_embedded.postgres import PostgresServer

from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database

_numbers = count(1)

# Every object that a test may have created, altered or dropped. A truncated table keeps its oid.
_SHAPE = """
SELECT md5(string_agg(object, ' ' ORDER BY object)) FROM (
    SELECT row(oid, relname, relnatts, relchecks, reltriggers, relrowsecurity, relforcerowsecurity, relacl)::text
    FROM (SELECT *, (SELECT count(*) FROM pg_trigger WHERE tgrelid = pg_class.oid) AS reltriggers FROM pg_class)
    WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace
    UNION ALL SELECT row(oid, xmin)::text FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT row(oid, xmin)::text FROM pg_namespace
    UNION ALL SELECT row(oid, xmin)::text FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT row(oid, datallowconn, datconnlimit, datacl)::text
    FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT s::text FROM pg_db_role_setting s
) AS objects(object)
"""
_TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind = 'r' AND oid >= 16384 AND relnamespace <> 'information_schema'::regnamespace ORDER BY oid
"""
# A table with many dead rows is truncated; deleting from the others is faster, since it creates no file.
_EMPTY = """
DO $$
DECLARE found record;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR found IN SELECT oid, relkind FROM pg_class WHERE relkind IN ('r', 'S') AND oid >= 16384 LOOP
        IF found.relkind = 'S' THEN
            PERFORM setval(found.oid, (SELECT seqstart FROM pg_sequence WHERE seqrelid = found.oid), false);
        ELSIF pg_relation_size(found.oid) > 131072 THEN
            EXECUTE format('TRUNCATE %s CASCADE', found.oid::regclass);
        ELSIF pg_relation_size(found.oid) > 0 THEN
            EXECUTE format('DELETE FROM %s', found.oid::regclass);
        END IF;
    END LOOP;
END $$
"""
_DISCONNECT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class _Copy:
    """Database of a test, as it was after the migrations."""

    name: str
    service: str
    shape: str
    rows: dict[str, str]


class Databases:
    """Creates databases of services on one server."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._templates: set[str] = set()
        self._used: list[_Copy] = []
        self._free: list[_Copy] = []

    async def fresh(self, service: str) -> str:
        """Returns the URL (without the password) of a migrated database for `service` that no other test uses."""
        copy = next((copy for copy in self._free if copy.service == service), None)
        if copy is None:
            copy = await self._copy(service)
        else:
            self._free.remove(copy)
        self._used.append(copy)
        return self._server.url(service, copy.name)

    async def release(self) -> None:
        """Empties the databases that `fresh` returned; drops those in which a test created or altered an object."""
        while self._used:
            copy = self._used.pop()
            if await self._emptied(copy):
                self._free.append(copy)
            else:
                async with self._superuser("postgres") as connection:
                    await connection.execute(f'DROP DATABASE IF EXISTS "{copy.name}" WITH (FORCE)')

    async def execute(self, url: str, service: str, statement: str) -> list[asyncpg.Record]:
        """Runs SQL in one of the databases, as its service."""
        connection = await asyncpg.connect(url, password=self._server.password(service))
        try:
            return await connection.fetch(statement)  # type: ignore[no-any-return]  # asyncpg has no types
        finally:
            await connection.close()

    async def _copy(self, service: str) -> _Copy:
        """Copies the database that was migrated once for the session."""
        template = f"template_{service.replace('-', '_')}"
        if template not in self._templates:
            await self._create(template, "template0", service)
            database = Database(self._server.url(service, template), self._server.password(service), "migrating")
            await migrate(database, service)
            await database.close()
            self._templates.add(template)
        name = f"{service.replace('-', '_')}_{next(_numbers)}"
        await self._create(name, template, service)
        async with self._superuser(name) as connection:
            rows = {}
            for (table,) in await connection.fetch(_TABLES):
                if found := await connection.fetchval(f"SELECT json_agg(t) FROM {table} AS t"):  # noqa: S608  # of pg_class
                    rows[table] = found
            return _Copy(name, service, await connection.fetchval(_SHAPE), rows)

    async def _emptied(self, copy: _Copy) -> bool:
        """Makes the database what it was; returns False when it cannot."""
        try:
            async with self._superuser(copy.name) as connection:
                await connection.execute(_DISCONNECT)
                if await connection.fetchval(_SHAPE) != copy.shape:
                    return False
                await connection.execute(_EMPTY)
                for table, rows in copy.rows.items():
                    statement = f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1)"  # noqa: S608
                    await connection.execute(statement, rows)
                return True
        except (asyncpg.PostgresError, OSError):  # the test dropped it, stopped the server or forbids connections
            return False

    async def _create(self, name: str, template: str, owner: str) -> None:
        async with self._superuser("postgres") as connection:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER "{owner}"')
            await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')

    @asynccontextmanager
    async def _superuser(self, database: str) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(
            self._server.url("postgres", database),
            password=self._server.password("postgres"),
        )
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def migrated_databases(postgres: PostgresServer) -> Databases:
    """Keeps the migrated databases of the session."""
    return Databases(postgres)


@pytest.fixture
async def databases(migrated_databases: Databases) -> AsyncIterator[Databases]:
    """Returns databases to one test."""
    yield migrated_databases
    await migrated_databases.release()
