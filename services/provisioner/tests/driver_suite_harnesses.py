"""Providers on which the driver suite runs: the local driver on a real PostgreSQL, and a cloud in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from driver_harness import DRIVER, DriverHarness
from fake_cloud import SETTLED_AFTER_S, Call, Cloud, CloudDriver, Fault
from paybill_contracts.environment_plans import Resource
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.drivers import Driver, Outputs, Result, Site
from paybill_provisioner.drivers.local import LocalDriver
from paybill_runtime.security.secrets import FileSecrets
from paybill_runtime.testing import until

Existing = Counter[tuple[str, str]]
"""Number of things by kind and name."""


class SuiteHarness(Protocol):
    """A provider with a driver."""

    driver: Driver

    async def new_driver(self) -> Driver:
        """Returns a driver as that of another process; the harness closes it."""

    async def existing(self, environment: Environment) -> Existing:
        """Returns what exists with the tenant's tag, as the provider shows it without the driver."""

    def throttled(self) -> Any:
        """Provides a driver whose calls the provider rejects for now, as an asynchronous context."""

    def slow(self) -> Any:
        """Provides a driver whose creates are pending; None for a provider that ends every call at once."""

    async def create_under_way(self, environment: Environment) -> tuple[str, asyncio.Task[Any]]:
        """Returns the address of a resource with a unique name that the provider creates now, and the call."""


class LocalSuiteHarness:
    """PostgreSQL, directories and secrets of this machine."""

    def __init__(self, harness: DriverHarness) -> None:
        self._harness = harness
        self.driver = harness.driver
        self.drivers: list[LocalDriver] = []

    async def new_driver(self) -> LocalDriver:
        self.drivers.append(self._harness.new_driver())
        return self.drivers[-1]

    async def existing(self, environment: Environment) -> Existing:
        number = environment.tenant_id.removeprefix("ten_")
        server, found = self._harness.as_superuser, Existing()
        for (name,) in await server("postgres", "SELECT rolname::text FROM pg_roles WHERE rolname ~ $1", number):
            found["role", name] += 1
        region = self._harness.region.replace("-", "_")
        databases = "SELECT datname::text FROM pg_database WHERE datname ~ $1 OR datname ~ $2"
        for (database,) in await server("postgres", databases, number, f"_{region}(_|$)"):
            found["database", database] += number in database
            schemas = "SELECT nspname::text FROM pg_namespace WHERE nspname = 'product' OR nspname ~ $1"
            for (schema,) in await server(database, schemas, number):
                found["schema", f"{database}/{schema}"] += number in schema or number in database
        tenants = self._harness.directory / "tenants"
        found.update(("bucket", path.relative_to(tenants).as_posix()) for path in tenants.glob(f"*/*/*{number}*"))
        secrets: FileSecrets = self._harness.secrets
        found.update(("secret", name) for name in await secrets.names("environments") if number in name)
        return +found

    @asynccontextmanager
    async def throttled(self) -> AsyncIterator[Driver]:
        """The server has no connection left for the driver."""
        await self._harness.as_superuser("postgres", f"ALTER ROLE {DRIVER} CONNECTION LIMIT 0")
        try:
            yield await self.new_driver()
        finally:
            await self._harness.as_superuser("postgres", f"ALTER ROLE {DRIVER} CONNECTION LIMIT -1")

    def slow(self) -> None:
        return None

    async def create_under_way(self, environment: Environment) -> tuple[str, asyncio.Task[Any]]:
        site = Site(environment, environment.resources, {})
        database = site.resources["database.main"]
        running = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%' AND state = 'active'"
        async with self._harness.superuser("postgres") as connection, connection.transaction():
            # The create waits for this lock, so that it is seen before it has ended.
            await connection.execute("LOCK TABLE pg_database IN EXCLUSIVE MODE")
            task = asyncio.create_task((await self.new_driver()).create(database, site, "job"))
            await until(lambda: self._harness.as_superuser("postgres", running))
        return database.address, task


class CloudSuiteHarness:
    """A cloud without unique names."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.driver = CloudDriver(self.cloud)

    async def new_driver(self) -> CloudDriver:
        return CloudDriver(self.cloud)

    async def existing(self, environment: Environment) -> Existing:
        return self.cloud.of(environment.tenant_id)

    def throttled(self) -> Any:
        return self._all_calls(Fault.THROTTLED)

    def slow(self) -> Any:
        return self._all_calls(Fault.PENDING)

    async def create_under_way(self, environment: Environment) -> tuple[str, asyncio.Task[Any]]:
        site = Site(environment, environment.resources, {})
        schema = site.resources["schema.main"]
        async with self._all_calls(Fault.LATE) as driver:
            with suppress(TimeoutError):
                await driver.create(schema, site, "job")
        return schema.address, asyncio.create_task(asyncio.sleep(SETTLED_AFTER_S))

    @asynccontextmanager
    async def _all_calls(self, fault: Fault) -> AsyncIterator[Driver]:
        self.cloud.faults = lambda _: fault
        try:
            yield self.driver
        finally:
            self.cloud.faults = lambda _: Fault.NONE


class LosesAnswer:
    """A driver of whose creates one takes effect and has no answer. It records the order of its calls."""

    def __init__(self, driver: Driver, after: int = -1) -> None:
        self._driver = driver
        self._left = after
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def create(self, resource: Resource, site: Site, token: str) -> Result:
        self.calls.append(Call("create", site.environment.tenant_id, resource.kind, resource.address))
        result = await self._driver.create(resource, site, token)
        self._left -= 1
        if self._left == -1:
            raise TimeoutError("the answer is lost")
        return result

    async def delete(self, resource: Resource, site: Site) -> Result:
        self.calls.append(Call("delete", site.environment.tenant_id, resource.kind, resource.address))
        return await self._driver.delete(resource, site)


def found(result: Result | None) -> Outputs | None:
    """Returns the outputs of a resource that was found complete."""
    return None if result is None else result.outputs  # type: ignore[union-attr]  # a pending one has none
