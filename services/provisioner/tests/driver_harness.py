"""Environments on a real PostgreSQL, built by the local driver, with connections as tenant, driver and superuser."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from blueprint_samples import blueprint_of, cells_of, published, tier_blueprint
from paybill_contracts.kinds import Table
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_embedded.postgres import PostgresServer
from paybill_provisioner.domain import access, building, environments, planning
from paybill_provisioner.domain.environment_state import Desired, Environment, Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.drivers import Site
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_provisioner.execution import Execution
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets

DRIVER = "provisioner_driver"

PRIVILEGES = """
SELECT jsonb_build_object(
    'role', (SELECT to_jsonb(r) - 'oid' - 'rolpassword' FROM pg_roles AS r WHERE rolname = $1),
    'groups', (SELECT jsonb_agg(jsonb_build_array(g.rolname, m.inherit_option, m.set_option, m.admin_option)
                                ORDER BY g.rolname)
               FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS r ON r.oid = m.member
               WHERE r.rolname = $1),
    'members', (SELECT jsonb_agg(jsonb_build_array(r.rolname, m.inherit_option, m.set_option, m.admin_option)
                                 ORDER BY r.rolname)
                FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS r ON r.oid = m.member
                WHERE g.rolname = $1),
    'database', (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
    'settings', (SELECT jsonb_agg(setconfig ORDER BY setconfig)
                 FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
                 WHERE d.datname = current_database()),
    'schemas', (SELECT jsonb_object_agg(nspname, nspacl::text) FROM pg_namespace WHERE nspname !~ '^pg_'),
    'tables', (SELECT jsonb_object_agg(c.oid::regclass::text, jsonb_build_array(
                   (SELECT jsonb_agg(x::text ORDER BY x::text) FROM unnest(c.relacl) AS x), c.relrowsecurity,
                   c.relforcerowsecurity, pg_get_userbyid(c.relowner)))
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND n.nspname IN ('product', $1)),
    'policies', (SELECT jsonb_agg(to_jsonb(p) ORDER BY p.tablename) FROM pg_policies AS p)
)::text
"""


@dataclass
class TenantPair:
    """Two tenants on one placement with one row each."""

    tenant: Any
    neighbour: Any
    tenant_role: str
    neighbour_role: str
    neighbour_id: str
    table: str

    @property
    def names(self) -> dict[str, Any]:
        """Names for the placeholders of the escape attempts."""
        return {
            "tenant_role": self.tenant_role,
            "neighbour_role": self.neighbour_role,
            "database": self.tenant.connections[0].database,
            "schema": f'"{self.tenant.connections[0].schema_name}"',
        }


@dataclass
class DriverHarness:
    """Local driver in a region of its own on the shared server."""

    postgres: PostgresServer
    region: str
    directory: Path
    secrets: FileSecrets
    driver: LocalDriver
    tables: tuple[Table, ...]

    def new_driver(self, trusted_s: float = 0.0) -> LocalDriver:
        """Creates another driver, like that of another process. trusted_s: as of LocalDriver."""
        server = TenantServer(self.postgres.url(DRIVER, "postgres"), self.postgres.password(DRIVER))
        return LocalDriver(server, self.directory, self.secrets, trusted_s)

    def planned(
        self, preset: Preset, number: str | None = None, *, at_once: bool = True, agents: bool = False
    ) -> Environment:
        """Returns an environment with a plan and no built resources. agents: the tenant has some."""
        tenant = f"ten_{number or uuid4().hex}"
        tier = tier_blueprint("any", preset, tables=self.tables, at_once=at_once)
        blueprint = published(blueprint_of(tier, regions=(self.region,), tables=self.tables))
        new = Environment(
            id=environments.id_of(tenant),
            tenant_id=tenant,
            slug="acme",
            region=self.region,
            revision=1,
            status=Status.REGISTERED,
            has_agents=agents,
        )
        cells = cells_of(blueprint.in_force[0].content)
        desired = Desired(Size("any", preset), "ab" * 32)
        for event in planning.towards(new, desired, blueprint, cells, datetime.now(UTC)):
            new = evolve(new, event)
        return new

    async def build(self, environment: Environment, driver: LocalDriver | None = None) -> Environment:
        """Builds the planned environment and returns it in status ready."""
        target = environment.target_access
        execution = Execution(driver or self.driver, environment, "job")
        async for progress in execution.run():
            for event in building.progress_recorded(environment, environment.plan_hash or "", progress):
                environment = evolve(environment, event)
        if target is not Access.CLOSED:
            await (driver or self.driver).set_access(environment, target)
            for event in access.access_changed(environment, target):
                environment = evolve(environment, event)
        assert environment.status is Status.READY
        return environment

    async def ready(self, preset: Preset, *, agents: bool = False) -> Environment:
        """Plans and builds the environment of a new tenant."""
        return await self.build(self.planned(preset, agents=agents))

    @asynccontextmanager
    async def as_agents(self, environment: Environment, **other: Any) -> AsyncIterator[Any]:
        """Connects as the tenant's agents, with their endpoint and the password that only the gateway can read."""
        found = building.agent_connection(environment, environment.epoch)
        assert found is not None
        endpoint = found.connection
        identities = self.directory.parent / "identities"
        gateway = FileSecrets(self.directory.parent / "secrets", Identity.load(identities, "agent-gateway"))
        settings = {
            "host": endpoint.host,
            "port": endpoint.port,
            "database": endpoint.database,
            "user": endpoint.username,
            "password": await gateway.get(endpoint.secret or ""),
            "server_settings": {"search_path": endpoint.schema_name},
        }
        connection = await asyncpg.connect(**(settings | other))
        try:
            yield connection
        finally:
            await connection.close()

    async def tenant_pair(self, preset: Preset) -> TenantPair:
        """Builds two new tenants with a row each, whose ids are `mine` and `theirs`."""
        tenant, neighbour = await asyncio.gather(self.ready(preset), self.ready(preset))
        for environment, key in ((tenant, "mine"), (neighbour, "theirs")):
            async with self.connect(environment) as connection:
                await connection.execute("INSERT INTO documents (id, body) VALUES ($1, $2)", key, f'"{key}"')
        return self.pair_of(tenant, neighbour)

    def pair_of(self, tenant: Environment, neighbour: Environment) -> TenantPair:
        """Returns two tenants on one placement as a pair."""
        return TenantPair(
            tenant=tenant,
            neighbour=neighbour,
            tenant_role=tenant.connections[0].username,
            neighbour_role=neighbour.connections[0].username,
            neighbour_id=neighbour.tenant_id,
            table=f'"{neighbour.connections[0].schema_name}".documents',
        )

    @asynccontextmanager
    async def connect(self, environment: Environment, **other: Any) -> AsyncIterator[Any]:
        """Connects as the tenant, with its endpoint and password."""
        endpoint = environment.connections[0]
        password = await self.secrets.get(endpoint.secret)
        settings = {
            "host": endpoint.host,
            "port": endpoint.port,
            "database": endpoint.database,
            "user": endpoint.username,
            "password": password,
        }
        connection = await asyncpg.connect(**(settings | other))
        try:
            yield connection
        finally:
            await connection.close()

    async def privileges(self, environment: Environment) -> Any:
        """Returns all privileges related to a tenant, from the system catalogues."""
        ((text,),) = await self.as_superuser(
            environment.connections[0].database, PRIVILEGES, environment.connections[0].username
        )
        return json.loads(text)

    async def can_write(self, environment: Environment, key: str = "probe") -> bool:
        """Connects as the tenant, writes a row and reads it."""
        async with self.connect(environment) as connection:
            await connection.execute("DELETE FROM documents WHERE id = $1", key)
            await connection.execute("INSERT INTO documents (id, body) VALUES ($1, '{}')", key)
            return bool(await connection.fetchval("SELECT count(*) FROM documents WHERE id = $1", key))

    async def as_superuser(self, database: str, statement: str, *values: Any) -> list[Any]:
        """Runs one statement as the superuser of the server."""
        async with self.superuser(database) as connection:
            return [tuple(row) for row in await connection.fetch(statement, *values)]

    @asynccontextmanager
    async def superuser(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        """Provides a connection of the superuser of the server."""
        connection = await asyncpg.connect(
            self.postgres.url("postgres", database), password=self.postgres.password("postgres")
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def delete(self, environment: Environment, address: str, driver: LocalDriver | None = None) -> None:
        """Deletes one resource of the environment."""
        site = Site(environment, environment.resources, environment.outputs)
        await (driver or self.driver).delete(environment.resources[address], site)

    async def as_driver(self, database: str, statement: str) -> list[Any]:
        """Runs one statement as the driver's role, which owns tenants' databases."""
        connection = await asyncpg.connect(self.postgres.url(DRIVER, database), password=self.postgres.password(DRIVER))
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()
