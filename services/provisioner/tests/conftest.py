"""Environments on a real PostgreSQL, built by the local driver, and the tenants who enter them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.event import digest
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, Column, Table, TierBlueprint
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    OffboardingStarted,
    Source,
    SuspensionMode,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_embedded.postgres import PostgresServer
from paybill_provisioner.app import service
from paybill_provisioner.domain import environments
from paybill_provisioner.domain.blueprints import PublishedBlueprint
from paybill_provisioner.domain.environments import Environment, Status, evolve
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_runtime.security.identity import Identity, make_identity
from paybill_runtime.security.secrets import FileSecrets

DRIVER = "provisioner_driver"
_regions = count(1)

RIGHTS = """
SELECT jsonb_build_object(
    'role', (SELECT to_jsonb(r) - 'oid' - 'rolpassword' FROM pg_roles AS r WHERE rolname = $1),
    'groups', (SELECT jsonb_agg(jsonb_build_array(g.rolname, m.inherit_option, m.set_option, m.admin_option) ORDER BY 1)
               FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS r ON r.oid = m.member
               WHERE r.rolname = $1),
    'members', (SELECT jsonb_agg(jsonb_build_array(r.rolname, m.inherit_option, m.set_option, m.admin_option))
                FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS r ON r.oid = m.member
                WHERE g.rolname = $1),
    'database', (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
    'settings', (SELECT jsonb_agg(setconfig) FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
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
class Neighbours:
    """Two tenants on one placement, one row each, and the names of the second that the first would like to use."""

    mine: Any
    other: Any
    me: str
    them: str
    them_id: str
    table: str

    @property
    def names(self) -> dict[str, Any]:
        """What tricks name."""
        schema = f'"{self.mine.endpoint.schema_name}"'
        return {"me": self.me, "them": self.them, "database": self.mine.endpoint.database, "schema": schema}


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

    async def neighbours(self, preset: Preset) -> Neighbours:
        """Two new tenants with a row each: `mine` and `theirs`."""
        mine, other = await asyncio.gather(self.ready(preset), self.ready(preset))
        for environment, word in ((mine, "mine"), (other, "theirs")):
            async with self.enter(environment) as connection:
                await connection.execute("INSERT INTO documents (id, body) VALUES ($1, $2)", word, f'"{word}"')
        return Neighbours(
            mine=mine,
            other=other,
            me=mine.endpoint.username,
            them=other.endpoint.username,
            them_id=other.tenant_id,
            table=f'"{other.endpoint.schema_name}".documents',
        )

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

    async def rights(self, environment: Environment) -> Any:
        """Every right that has to do with a tenant, as the catalogues have it."""
        assert environment.endpoint is not None
        ((text,),) = await self.root(environment.endpoint.database, RIGHTS, environment.endpoint.username)
        return json.loads(text)

    async def works(self, environment: Environment, key: str = "works") -> bool:
        """The tenant gets in, writes and reads."""
        async with self.enter(environment) as connection:
            await connection.execute("DELETE FROM documents WHERE id = $1", key)
            await connection.execute("INSERT INTO documents (id, body) VALUES ($1, '{}')", key)
            return bool(await connection.fetchval("SELECT count(*) FROM documents WHERE id = $1", key))

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


@pytest.fixture
async def provisioner(start: Any, site: Site, tmp_path: Path) -> Any:
    """The service, in the region of this test alone, on the three placements."""
    blueprint = tmp_path / "blueprints.yaml"
    blueprint.write_text(
        f"""
        name: test
        regions: [{site.region}]
        tiers:
          - {{tier: starter, placement: pooled, cloud: local, connection_limit: 5}}
          - {{tier: team, placement: bridge, cloud: local, connection_limit: 5}}
          - {{tier: business, placement: silo, cloud: local, connection_limit: 5}}
        tables: [{{name: documents, columns: [{{name: id, type: text}}, {{name: body, type: jsonb}}]}}]
        """
    )
    return await start(
        service(),
        blueprints_file=blueprint,
        local_database_url=site.postgres.url(DRIVER, "postgres"),
        local_database_password_file=site.postgres.password_file(DRIVER),
        local_dir=site.directory,
        identity_dir=tmp_path / "identities",
        secrets_dir=tmp_path / "secrets",
    )


@pytest.fixture
def about(site: Site) -> Callable[..., SimpleNamespace]:
    """The facts of others about a new tenant of this test's region."""

    def facts(preset: Preset = Preset.POOLED, tier: str = "") -> SimpleNamespace:
        number = uuid4().hex
        tenant = f"ten_{number}"
        hold = Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="unpaid")
        return SimpleNamespace(
            tenant=tenant,
            environment=f"env_{number}",
            requested=TenantRequested(
                tenant_id=tenant,
                slug=f"acme-{number[:8]}",
                name="Acme",
                plan="starter",
                region=site.region,
                contact_email=Personal[str](key=f"tenant/{tenant}", sealed="A" * 60),
                source=Source.API,
            ),
            entitled=EntitlementsSet(
                tenant_id=tenant,
                subscription_id=f"sub_{number}",
                plan=PlanRef(plan="starter", version=1, catalogue_hash="ab" * 32),
                tier=tier or {Preset.POOLED: "starter", Preset.BRIDGE: "team", Preset.SILO: "business"}[preset],
                placement=preset,
                features=(),
                allows_access=True,
                entitlements_hash="ab" * 32,
            ),
            blocked=TenantSuspended(tenant_id=tenant, mode=SuspensionMode.BLOCKED, holds=(hold,)),
            reactivated=TenantReactivated(tenant_id=tenant, lifted=HoldOrigin.BILLING),
            leaves=OffboardingStarted(
                tenant_id=tenant, origin=HoldOrigin.BILLING, reason="cancelled", retain_until=datetime.now(UTC)
            ),
            cancelled=TenantCancelled(tenant_id=tenant, origin=HoldOrigin.OPERATOR, reason="a mistake"),
        )

    return facts
