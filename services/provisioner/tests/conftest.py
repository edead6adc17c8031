"""Environments on a real PostgreSQL, built by the local driver, and the tenants who enter them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from paybill_contracts.event import digest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, Column, Table, TierBlueprint
from paybill_embedded.postgres import PostgresServer
from paybill_provisioner.domain import environments
from paybill_provisioner.domain.blueprints import PublishedBlueprint
from paybill_provisioner.domain.environments import Environment, Status, evolve
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_runtime.identity import Identity, make_identity
from paybill_runtime.secrets import FileSecrets

DRIVER = "provisioner_driver"
_regions = count(1)


@dataclass
class Site:
    """One region of one test, on the shared server: its environments meet nobody else's."""

    postgres: PostgresServer
    region: str
    directory: Path
    secrets: FileSecrets
    driver: LocalDriver
    tables: tuple[Table, ...]

    def new_driver(self) -> LocalDriver:
        """Another driver, as of another process."""
        server = TenantServer(self.postgres.url(DRIVER, "postgres"), self.postgres.password(DRIVER))
        return LocalDriver(server, self.directory, self.secrets)

    def planned(self, preset: Preset, number: str | None = None) -> Environment:
        """An environment with a plan of which nothing is built."""
        tenant = f"ten_{number or uuid4().hex}"
        content = Blueprint(
            name="test",
            regions=(self.region,),
            tiers=(TierBlueprint(tier="any", placement=preset, cloud="local", connection_limit=5),),
            tables=self.tables,
        )
        blueprint = PublishedBlueprint(id="main", content=content, content_hash=digest(content))
        new = Environment(
            id=environments.id_of(tenant),
            tenant_id=tenant,
            slug="acme",
            region=self.region,
            revision=1,
            status=Status.REGISTERED,
        )
        return evolve(new, environments.planned(new, blueprint, "any", preset, "ab" * 32))

    async def build(self, environment: Environment, driver: LocalDriver | None = None) -> Environment:
        """The environment once it is ready."""
        async for done in (driver or self.driver).build(environment, environment.remaining):
            for event in environments.resources_built(environment, environment.plan_hash or "", done):
                environment = evolve(environment, event)
        assert environment.status is Status.READY
        return environment

    async def ready(self, preset: Preset) -> Environment:
        """A new tenant's environment, built."""
        return await self.build(self.planned(preset))

    @asynccontextmanager
    async def enter(self, environment: Environment, **other: Any) -> AsyncIterator[Any]:
        """A connection as the tenant, with the endpoint and password that it is given."""
        endpoint = environment.endpoint
        assert endpoint is not None
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

    async def root(self, database: str, statement: str, *values: Any) -> list[Any]:
        """Run one statement as the superuser of the server, who is nobody's user but the test's."""
        connection = await asyncpg.connect(
            self.postgres.url("postgres", database), password=self.postgres.password("postgres")
        )
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    async def owner(self, database: str, statement: str) -> list[Any]:
        """Run one statement as the driver's role, which owns tenants' databases."""
        connection = await asyncpg.connect(self.postgres.url(DRIVER, database), password=self.postgres.password(DRIVER))
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()


@pytest.fixture
async def site(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Site]:
    """A region for this test alone."""
    identities = tmp_path / "identities"
    for name in ("provisioner", "operator"):
        make_identity(identities, name)
    secrets = FileSecrets(tmp_path / "secrets", Identity.load(identities, "provisioner"))
    columns = (Column(name="id", type="text"), Column(name="body", type="jsonb"))
    table = Table(name="documents", columns=columns)
    made = Site(postgres, f"region-{next(_regions)}", tmp_path / "local", secrets, None, (table,))  # type: ignore[arg-type]
    made.driver = made.new_driver()
    yield made
    await asyncio.wait_for(made.driver.close(), 10)
