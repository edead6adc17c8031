"""A pytest plugin: real PostgreSQL and NATS servers, fresh databases, and whole services in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from paybill_contracts.catalogue import Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.envelope import Fact, Origin, headers_of, read_fact, subject_of
from paybill_contracts.event import Event, encode
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Blueprint, BlueprintPublished
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer

from paybill_runtime.app import Running, Service
from paybill_runtime.clock import new_id
from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect, ensure
from paybill_runtime.security.identity import make_identity
from paybill_runtime.telemetry import child

NAMES = ("tenant", "billing", "provisioner", "operator")
_numbers = count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One real PostgreSQL for the whole run."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        server.ensure_databases()
        yield server


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A real NATS server for one test, with the streams made."""
    with NatsServer(tmp_path / "nats-data") as server:
        client = await connect(server.url, "steward", server.password("steward"))
        await ensure(client)
        await client.close()
        yield server


class Databases:
    """Fresh, migrated databases: each is a copy of one that was migrated once."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._migrated: set[str] = set()

    async def fresh(self, service: str) -> str:
        """The URL (without the password) of a new database for `service`."""
        template = f"template_{service.replace('-', '_')}"
        if template not in self._migrated:
            await self._create(template, "template0", service)
            database = Database(self._server.url(service, template), self._server.password(service), "migrating")
            await migrate(database, service)
            await database.close()
            self._migrated.add(template)
        name = f"{service.replace('-', '_')}_{next(_numbers)}"
        await self._create(name, template, service)
        return self._server.url(service, name)

    async def execute(self, url: str, service: str, statement: str) -> list[asyncpg.Record]:
        """Run SQL in one of the databases, as its service."""
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
    """Makes fresh databases."""
    return Databases(postgres)


@dataclass
class Served:
    """A service that runs in this process, and a client of its HTTP with an admin's key."""

    running: Running
    client: httpx.AsyncClient


Start = Callable[..., Any]


@pytest.fixture
async def start(
    postgres: PostgresServer, databases: Databases, nats: NatsServer, tmp_path: Path
) -> AsyncIterator[Start]:
    """`await start(service, **settings)` runs a service on a fresh database; it stops when the test ends."""
    identities = tmp_path / "identities"
    for name in NAMES:
        make_identity(identities, name)
    key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [key.stored]}))
    async with AsyncExitStack() as stack:

        async def started(service: Service, url: str | None = None, **more: Any) -> Served:
            database_url = url or await databases.fresh(service.name)
            settings = service.settings(
                **{
                    "database_url": database_url,
                    "database_password_file": postgres.password_file(service.name),
                    "nats_url": nats.url,
                    "nats_user": service.name,
                    "nats_password_file": nats.password_file(service.name),
                    "api_keys_file": keys,
                    "identity_dir": identities,
                    "secrets_dir": tmp_path / "secrets",
                    "lease_s": 2,
                    **more,
                }
            )
            running = await stack.enter_async_context(Running(service, settings))
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(running.app(), raise_app_exceptions=False),
                base_url="http://service",
                headers={"Authorization": f"Bearer {key.raw}"},
            )
            await stack.enter_async_context(client)
            return Served(running, client)

        yield started


class Log:
    """The facts in the stream, read as an operator."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server

    async def facts(self, *types: str, at_least: int = 1, timeout_s: float = 10) -> list[Fact]:
        """Facts of these types (all when none is named), waiting until there are `at_least` so many."""
        client = await connect(self._server.url, "operator", self._server.password("operator"))
        feed = OrderedConsumer(client, EVENTS, ["paybill.events.>"], 1)
        found: list[Fact] = []
        try:
            async with asyncio.timeout(timeout_s):
                while len(found) < at_least or await feed.pending():
                    for message in await feed.fetch(0.2):
                        fact = read_fact(message.subject, message.headers, message.data, stream_sequence(message))
                        if not types or fact.event.TYPE in types:
                            found.append(fact)
        finally:
            await feed.close()
            await client.close()
        return found


@pytest.fixture
def log(nats: NatsServer) -> Log:
    """The log of this test's NATS server."""
    return Log(nats)


Say = Callable[..., Awaitable[None]]


@pytest.fixture
async def say(nats: NatsServer) -> AsyncIterator[Say]:
    """`await say(event, …, copies=1)`: their owners publish these facts, each `copies` times under one id."""
    clients: dict[str, Any] = {}

    async def publish(*events: Event, copies: int = 1) -> None:
        for event in events:
            if event.OWNER not in clients or not clients[event.OWNER].is_connected:  # the server may be another by now
                clients[event.OWNER] = await connect(nats.url, event.OWNER, nats.password(event.OWNER))
            cause = new_id()
            fact = Fact(event, cause, datetime.now(UTC), 1, Origin(cause, cause, f"service:{event.OWNER}", child("")))
            for copy in range(copies):
                # Another message id for each: the stream's own window must not be what makes a copy harmless.
                headers = headers_of(fact) | {"Nats-Msg-Id": f"{fact.id}-{copy}"}
                await clients[event.OWNER].jetstream().publish(subject_of(event), encode(event), headers=headers)

    yield publish
    for client in clients.values():
        await client.close()


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 10) -> Any:
    """What `condition` returns, as soon as it is true; TimeoutError when that does not happen."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):  # noqa: ASYNC110  # what it waits for is in a table or a stream
            await asyncio.sleep(0.02)
    return value


_PLAN = PlanVersion(
    plan="pro",
    version=1,
    name="Pro",
    tier="standard",
    placement=Preset.POOLED,
    trial_days=0,
    grace_s=60,
    retention_s=86_400,
    features=(),
    prices=(),
)


@pytest.fixture
def offerings() -> tuple[CataloguePublished, BlueprintPublished]:
    """What the tenant service has to hear before it grants a request."""
    content = Catalogue(product="app", plans=(_PLAN,))
    regions = Blueprint(name="main", regions=("eu-1",), tiers=(), tables=())
    return (
        CataloguePublished(catalogue="main", content=content, content_hash="c" * 64),
        BlueprintPublished(blueprint="main", content=regions, content_hash="c" * 64),
    )
