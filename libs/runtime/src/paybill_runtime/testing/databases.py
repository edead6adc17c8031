"""Fresh databases: each is a copy of one that was migrated once for the session."""

from itertools import count

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
        return self._server.url(service, name)

    async def execute(self, url: str, service: str, statement: str) -> list[asyncpg.Record]:
        """Runs SQL in one of the databases, as its service."""
        connection = await asyncpg.connect(url, password=self._server.password(service))
        try:
            return await connection.fetch(statement)  # type: ignore[no-any-return]  # asyncpg has no types
        finally:
            await connection.close()

    async def _create(self, name: str, template: str, owner: str) -> None:
        connection = await asyncpg.connect(
            self._server.url("postgres", "postgres"), password=self._server.password("postgres")
        )
        try:
            await connection.execute(
                f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER "{owner}" STRATEGY file_copy'
            )
            await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Databases:
    """Creates fresh databases."""
    return Databases(postgres)
