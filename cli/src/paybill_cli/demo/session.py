"""The running stack of a demo, and the checks that all chapters share."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import httpx
from paybill_contracts.environment_plans import Connection as TenantConnection
from paybill_contracts.placement import Preset
from paybill_runtime.security.secrets import FileSecrets
from paybill_stack.supervisor import Supervisor
from paybill_stripe_fake.client import FakeControl

from paybill_cli.demo.printer import Printer
from paybill_cli.demo.recorder import TIMEOUT_S, EventRecorder, NotObservedError

Connection: TypeAlias = "asyncpg.Connection[Any]"

_CONNECT_S = 5.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer with an account, before its first payment."""

    slug: str
    placement: Preset
    tenant_id: str
    customer: str
    checkout: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """An active tenant. customer, subscription: ids at the provider."""

    slug: str
    placement: Preset
    id: str
    customer: str
    subscription: str
    endpoint: TenantConnection

    @property
    def documents(self) -> list[str]:
        """Ids of the documents that it writes into its database."""
        return [f"{self.slug}-1", f"{self.slug}-2"]


@dataclass(frozen=True, slots=True)
class DemoSession:
    """The running stack and its clients. http: has an API key of the services. fake: acts as the customer at Stripe."""

    stack: Supervisor
    recorder: EventRecorder
    printer: Printer
    http: httpx.AsyncClient
    fake: FakeControl
    secrets: FileSecrets

    def check(self, check: str, ok: bool, observed: str) -> None:
        """Prints a check that passed. Raises NotObservedError when it failed."""
        if not ok:
            raise NotObservedError(check, observed)
        self.printer.passed(check, observed)

    async def wait_status(self, tenant: str, expected: str) -> None:
        """Waits until the status of this tenant is `expected`."""
        deadline = time.monotonic() + TIMEOUT_S
        while (status := (await self.request("GET", f"/v1/tenants/{tenant}"))["status"]) != expected:
            if time.monotonic() > deadline:
                raise NotObservedError(f"{tenant} is {expected}", f"it is {status}")
            await asyncio.sleep(_POLL_S)
        self.printer.passed(f"{tenant} is {expected}", "GET /v1/tenants/" + tenant)

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, service: str = "tenant"
    ) -> dict[str, Any]:
        """Returns the response of a service. Raises NotObservedError for any error."""
        try:
            response = await self.http.request(method, self.stack.addresses.url(service) + path, json=body)
        except httpx.HTTPError as error:
            raise NotObservedError(f"an answer to {method} {path}", f"{type(error).__name__}: {error}") from error
        if response.is_error:
            raise NotObservedError(f"success of {method} {path}", f"{response.status_code} {response.text[:500]}")
        content: dict[str, Any] = response.json()
        return content

    @asynccontextmanager
    async def connected(
        self, tenant: Tenant, *, database: str = "", user: str = "", password: str = ""
    ) -> AsyncIterator[Connection]:
        """Connects to PostgreSQL as the tenant, with its password from the secrets port."""
        endpoint = tenant.endpoint
        connection = await asyncpg.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=user or endpoint.username,
            password=password or await self.secrets.get(endpoint.secret or ""),
            database=database or endpoint.database,
            timeout=_CONNECT_S,
            command_timeout=_CONNECT_S,
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def expect_refusal(self, check: str, attempt: Callable[[], Awaitable[object]], *states: str) -> None:
        """Checks that PostgreSQL refuses `attempt` with one of these SQLSTATEs."""
        self.check(check, *await self.refusal(attempt, *states))

    @staticmethod
    async def refusal(attempt: Callable[[], Awaitable[object]], *states: str) -> tuple[bool, str]:
        """Returns whether PostgreSQL refuses `attempt` with one of these SQLSTATEs, and its message."""
        try:
            await attempt()
        except asyncpg.PostgresError as error:
            return error.sqlstate in states, str(error).partition("\n")[0]
        except OSError as error:
            return False, f"PostgreSQL does not answer: {error}"
        return False, "it was allowed"
