"""Fresh databases: each is a copy of one that was migrated once for the session, and is dropped after its test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
import pytest
from paybill_embedded.postgres import PostgresServer

from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database

_numbers = count(1)


class Databases:
    """Creates databases of services on one server."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._templates: set[str] = set()
        self._copies: list[str] = []

    async def fresh(self, service: str) -> str:
        """Returns the URL (without the password) of a new, migrated database for `service`."""
        template = f"template_{service.replace('-', '_')}"
        if template not in self._templates:
            await self._create(template, "template0", service)
            database = Database(self._server.url(service, template), self._server.password(service), "migrating")
            await migrate(database, service)
            await database.close()
            self._templates.add(template)
        name = f"{service.replace('-', '_')}_{next(_numbers)}"
        await self._create(name, template, service)
        self._copies.append(name)
        return self._server.url(service, name)

    async def drop_copies(self) -> None:
        """Drops the databases that `fresh` created; hundreds of them would take gigabytes and minutes to delete."""
        async with self._superuser() as connection:
            while self._copies:
                await connection.execute(f'DROP DATABASE "{self._copies.pop()}" WITH (FORCE)')

    async def execute(self, url: str, service: str, statement: str) -> list[asyncpg.Record]:
        """Runs SQL in one of the databases, as its service."""
        connection = await asyncpg.connect(url, password=self._server.password(service))
        try:
            return await connection.fetch(statement)  # type: ignore[no-any-return]  # asyncpg has no types
        finally:
            await connection.close()

    async def _create(self, name: str, template: str, owner: str) -> None:
        async with self._superuser() as connection:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER "{owner}"')
            await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')

    @asynccontextmanager
    async def _superuser(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(
            self._server.url("postgres", "postgres"), password=self._server.password("postgres")
        )
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def migrated_databases(postgres: PostgresServer) -> Databases:
    """Keeps the migrated templates of the session."""
    return Databases(postgres)


@pytest.fixture
async def databases(migrated_databases: Databases) -> AsyncIterator[Databases]:
    """Creates fresh databases for one test."""
    yield migrated_databases
    await migrated_databases.drop_copies()
