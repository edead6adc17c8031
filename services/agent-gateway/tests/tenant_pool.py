"""A pool database of tenants with agents' logins, made by hand as the provisioner makes it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_contracts.agent_bundles import AgentResource, ResourceColumn
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets
from paybill_runtime.testing.signing import make_test_identity

_numbers = count(1)

TENANT_OF_CURRENT_USER = """(('ten_' || substr(CURRENT_USER::text, 3, 32)) COLLATE "default")"""
AGENTS = "agents"


def file_secrets(directory: Path) -> FileSecrets:
    """Returns the secrets of the gateway."""
    make_test_identity(directory / "identities", "agent-gateway")
    return FileSecrets(directory / "secrets", Identity.load(directory / "identities", "agent-gateway"))


def resource_of(name: str, *columns: str, also_changes: tuple[str, ...] = ()) -> AgentResource:
    """Builds a resource from columns `name type [not null]`; the first is the key."""
    parts = [each.split(maxsplit=2) for each in columns]
    shape = tuple(
        ResourceColumn(name=part[0], type=part[1], nullable=number > 0 and len(part) == 2)
        for number, part in enumerate(parts)
    )
    return AgentResource(name=name, columns=shape, also_changes=also_changes)


@dataclass
class TenantPool:
    """A database with the schemas `product` and `paybill_agent`, and one agents' login for each tenant."""

    postgres: PostgresServer
    secrets: FileSecrets
    database: str
    group: str
    logins: list[str] = field(default_factory=list)

    @classmethod
    async def create(cls, postgres: PostgresServer, secrets: FileSecrets) -> "TenantPool":
        """Creates the database and the table of actions."""
        number = next(_numbers)
        pool = cls(postgres, secrets, f"agent_pool_{number}", f"agent_pool_{number}_agents")
        async with pool.superuser("postgres") as connection:
            await connection.execute(f"CREATE DATABASE \"{pool.database}\" TEMPLATE paybill_tenants ENCODING 'UTF8'")
            await connection.execute(f'REVOKE ALL ON DATABASE "{pool.database}" FROM PUBLIC')
            await connection.execute(f'CREATE ROLE "{pool.group}" NOLOGIN')
            await connection.execute(f'GRANT CONNECT ON DATABASE "{pool.database}" TO "{pool.group}"')
        await pool.execute(
            f"""
            CREATE SCHEMA product; CREATE SCHEMA paybill_agent;
            GRANT USAGE ON SCHEMA product, paybill_agent TO "{pool.group}";
            CREATE TABLE paybill_agent.actions (
                tenant text NOT NULL DEFAULT {TENANT_OF_CURRENT_USER}, run text NOT NULL, seq bigint NOT NULL,
                digest text NOT NULL, outcome text NOT NULL, at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (tenant, run, seq));
            {_policy("paybill_agent.actions", "tenant")};
            GRANT SELECT, INSERT ON paybill_agent.actions TO "{pool.group}";
            """
        )
        return pool

    async def drop(self) -> None:
        """Drops the database and its roles."""
        async with self.superuser("postgres") as connection:
            await connection.execute(f'DROP DATABASE "{self.database}" WITH (FORCE)')
            for role in (*self.logins, self.group):
                await connection.execute(f'DROP ROLE "{role}"')

    async def create_table(self, resource: AgentResource) -> None:
        """Creates the table of a resource with the policy and the key of a pool."""
        columns = ", ".join(
            f'"{each.name}" {each.type}{"" if each.nullable else " NOT NULL"}' for each in resource.columns
        )
        table = f'product."{resource.name}"'
        await self.execute(
            f"CREATE TABLE {table} (tenant_id text NOT NULL DEFAULT {TENANT_OF_CURRENT_USER}, {columns},"
            f' PRIMARY KEY (tenant_id, "{resource.columns[0].name}"));'
            f"{_policy(table, 'tenant_id')}"
        )

    async def grant(self, table: str, rights: Mapping[str, str]) -> None:
        """Grants rights on a table: columns by verb, `*` for all of them."""
        for verb, columns in rights.items():
            listed = "" if columns == "*" else f" ({columns})"
            await self.execute(f'GRANT {verb}{listed} ON product."{table}" TO "{self.group}"')

    async def tenant(self, *, epoch: int = 1, connection_limit: int = 5) -> Endpoint:
        """Creates the agents' login of a new tenant."""
        number = uuid4().hex
        role, password = f"a_{number}", uuid4().hex
        async with self.superuser("postgres") as connection:
            await connection.execute(
                f"CREATE ROLE \"{role}\" LOGIN NOINHERIT CONNECTION LIMIT {connection_limit} PASSWORD '{password}'"
            )
            await connection.execute(f'GRANT "{self.group}" TO "{role}" WITH INHERIT TRUE, SET FALSE')
            await connection.execute(f"ALTER ROLE \"{role}\" SET statement_timeout = '5s'")
            await connection.execute(f"ALTER ROLE \"{role}\" SET lock_timeout = '2s'")
        self.logins.append(role)
        secret = await self.secrets.put(f"agents/{number}", password)
        return Endpoint(f"ten_{number}", epoch, "127.0.0.1", self.postgres.port, self.database, "product", role, secret)

    async def execute(self, script: str) -> None:
        """Runs a script as the superuser."""
        async with self.superuser() as connection:
            await connection.execute(script)

    async def fetch(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Runs a statement as the superuser, who sees the rows of all tenants."""
        async with self.superuser() as connection:
            return [tuple(row) for row in await connection.fetch(statement, *values)]

    @asynccontextmanager
    async def superuser(self, database: str | None = None) -> AsyncIterator[Any]:
        """Provides a connection of the superuser."""
        url = self.postgres.url("postgres", database or self.database)
        connection = await asyncpg.connect(url, password=self.postgres.password("postgres"))
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def agent(self, endpoint: Endpoint) -> AsyncIterator[Any]:
        """Provides a connection of a tenant's agents, past the gateway."""
        connection = await asyncpg.connect(
            self.postgres.url(endpoint.username, self.database), password=await self.secrets.get(endpoint.secret)
        )
        try:
            yield connection
        finally:
            await connection.close()


def _policy(table: str, column: str) -> str:
    own = f"{column} = {TENANT_OF_CURRENT_USER}"
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
        f"CREATE POLICY own_rows ON {table} USING ({own}) WITH CHECK ({own})"
    )
