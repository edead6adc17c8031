"""Who is in the story, and what every chapter has in hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import httpx
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Endpoint
from paybill_runtime.security.secrets import FileSecrets
from paybill_stack.supervisor import Supervisor
from paybill_stripe_fake.client import FakeControl

from paybill_cli.demo.journal import PATIENCE_S, Journal, NotObservedError
from paybill_cli.demo.voice import Voice

Connection: TypeAlias = "asyncpg.Connection[Any]"

_CONNECT_S = 5.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class SignedUp:
    """A customer that has an account and has not paid."""

    slug: str
    placement: Preset
    tenant_id: str
    customer: str
    checkout: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer that works. customer, subscription: as the provider calls them."""

    slug: str
    placement: Preset
    id: str
    customer: str
    subscription: str
    endpoint: Endpoint

    @property
    def documents(self) -> list[str]:
        """What it writes into its database: the ids of its documents."""
        return [f"{self.slug}-1", f"{self.slug}-2"]


@dataclass(frozen=True, slots=True)
class Scene:
    """The running stack and the ways in. http: holds a key for the services. fake: what a customer does at Stripe."""

    stack: Supervisor
    journal: Journal
    voice: Voice
    http: httpx.AsyncClient
    fake: FakeControl
    secrets: FileSecrets

    def check(self, what: str, ok: bool, seen: str) -> None:
        """Say that `what` was observed. Raises NotObservedError when it was not."""
        if not ok:
            raise NotObservedError(what, seen)
        self.voice.checked(what, seen)

    async def status(self, tenant: str, wanted: str) -> None:
        """Wait until the tenant service says that this tenant is `wanted`."""
        deadline = time.monotonic() + PATIENCE_S
        while (seen := (await self.answer("GET", f"/v1/tenants/{tenant}"))["status"]) != wanted:
            if time.monotonic() > deadline:
                raise NotObservedError(f"{tenant} is {wanted}", f"it is {seen}")
            await asyncio.sleep(_POLL_S)
        self.voice.checked(f"{tenant} is {wanted}", "GET /v1/tenants/" + tenant)

    async def answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the tenant service answers. Raises NotObservedError for anything but success."""
        try:
            response = await self.http.request(method, self.stack.at.url("tenant") + path, json=body)
        except httpx.HTTPError as error:
            raise NotObservedError(f"an answer to {method} {path}", f"{type(error).__name__}: {error}") from error
        if response.is_error:
            raise NotObservedError(f"success of {method} {path}", f"{response.status_code} {response.text[:500]}")
        answer: dict[str, Any] = response.json()
        return answer

    @asynccontextmanager
    async def inside(
        self, tenant: Tenant, *, database: str = "", user: str = "", password: str = ""
    ) -> AsyncIterator[Connection]:
        """A connection to PostgreSQL as the tenant, with the password that the secrets port has for it."""
        endpoint = tenant.endpoint
        connection = await asyncpg.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=user or endpoint.username,
            password=password or await self.secrets.get(endpoint.secret),
            database=database or endpoint.database,
            timeout=_CONNECT_S,
            command_timeout=_CONNECT_S,
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def refused(self, what: str, attempt: Callable[[], Awaitable[object]], *states: str) -> None:
        """Expect PostgreSQL to answer `attempt` with one of these SQLSTATEs."""
        self.check(what, *await self.refusal(attempt, *states))

    @staticmethod
    async def refusal(attempt: Callable[[], Awaitable[object]], *states: str) -> tuple[bool, str]:
        """Whether `attempt` ends in one of these SQLSTATEs, and what was said."""
        try:
            await attempt()
        except asyncpg.PostgresError as error:
            return error.sqlstate in states, str(error).partition("\n")[0]
        except OSError as error:
            return False, f"PostgreSQL does not answer: {error}"
        return False, "it was allowed"
