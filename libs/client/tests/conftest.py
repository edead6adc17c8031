"""Fixtures: a subscriber on the test's NATS, events to read, and a subscriber that runs in the background."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import asyncpg
import nats as nats_py
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from paybill_client import Credentials, Fact, Subscriber
from paybill_client.credentials import read_credentials
from paybill_contracts.envelope import Fact as Envelope
from paybill_contracts.envelope import Origin, headers_of, subject_of
from paybill_contracts.event import Event, decode, encode
from paybill_contracts.metering import QuotaWarned
from paybill_contracts.tenant import HoldOrigin, TenantCancelled
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_embedded.subscribers import store_subscriber
from paybill_runtime.clock import new_id
from paybill_runtime.messaging.streams import connect
from paybill_runtime.telemetry import child
from paybill_runtime.testing import cancel, until
from paybill_stack.clients import ensure_consumer, event_filters, write_subscriber_file

sys.path.append(str(Path(__file__).parent))  # of sources_of_events

SAMPLES = Path(__file__).parents[2] / "contracts/samples"
CreateSubscriber = Callable[..., Awaitable[Path]]


@pytest.fixture
async def publish(nats: NatsServer) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """`await publish(event, …, copies=1)`: their owners publish these events only, without the keys of signatures.

    A subscriber verifies no signatures.
    """
    clients: dict[str, Client] = {}

    async def publish_as_owner(*events: Event, copies: int = 1) -> None:
        for event in events:
            if event.OWNER not in clients or not clients[event.OWNER].is_connected:  # the server may be another by now
                clients[event.OWNER] = await connect(nats.url, event.OWNER, nats.password(event.OWNER))
            id_ = new_id()
            fact = Envelope(event, id_, datetime.now(UTC), 1, Origin(id_, id_, f"service:{event.OWNER}", child("")))
            for copy in range(copies):
                headers = headers_of(fact) | {"Nats-Msg-Id": f"{id_}-{copy}"}
                await clients[event.OWNER].jetstream().publish(subject_of(event), encode(event), headers=headers)

    yield publish_as_owner
    for client in clients.values():
        await client.close()


@pytest.fixture
def create_subscriber(nats: NatsServer, tmp_path: Path) -> CreateSubscriber:
    """`await create_subscriber(name, contexts=…)` does what `paybill subscriber create` does; returns the file."""

    async def create(
        name: str = "crm",
        contexts: tuple[str, ...] = ("billing", "tenant"),
        types: tuple[str, ...] = (),
        *,
        batches: bool = True,
        new_only: bool = False,
        opens: tuple[str, ...] = (),
    ) -> Path:
        subscriber = store_subscriber(nats.data_dir, name, contexts, batches=batches, opens=opens)
        nats.reload()
        operator = await connect(nats.url, "operator", nats.password("operator"))
        await ensure_consumer(operator, subscriber.consumer, event_filters(contexts, types), new_only=new_only)
        await operator.close()
        path = tmp_path / f"{name}.json"
        write_subscriber_file(path, nats.data_dir, nats.url, subscriber)
        await until(lambda: _accepted(read_credentials(path)))
        return path

    return create


async def _accepted(credentials: Credentials) -> bool:
    with suppress(NatsError, OSError, TimeoutError):
        client = await _login(credentials, allow_reconnect=False)
        await client.close()
        return True
    return False


async def _login(credentials: Credentials, **options):

    async def ignore(_: Exception) -> None: ...

    return await nats_py.connect(
        **{
            "servers": list(credentials.servers),
            "user": credentials.name,
            "password": credentials.password.get_secret_value(),
            "inbox_prefix": credentials.inbox_prefix.encode(),
            "error_cb": ignore,
            **options,
        }
    )


@pytest.fixture
async def login() -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """`await login(path)` connects as the identity of a credentials file, with nats-py alone."""
    clients: list[Client] = []

    async def connect_as(path: Path, **options) -> Client:
        clients.append(await _login(read_credentials(path), **options))
        return clients[-1]

    yield connect_as
    for client in clients:
        await client.close()


@pytest.fixture
async def run() -> AsyncIterator[Callable[[Subscriber], asyncio.Task[None]]]:
    """`run(subscriber)` runs a subscriber until the test ends."""
    tasks: list[asyncio.Task[None]] = []

    def start(subscriber: Subscriber) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(subscriber.run()))
        return tasks[-1]

    yield start
    async with asyncio.timeout(60):
        await cancel(*tasks)  # `stop` would wait for the end of the request to NATS


@pytest.fixture
async def pool(postgres: PostgresServer) -> AsyncIterator[asyncpg.Pool]:
    """Pool of connections to an empty schema, the database of another service."""
    schema = f"other_{next(_numbers)}"
    url, password = postgres.url("postgres", "postgres"), postgres.password("postgres")
    settings = {"search_path": schema}
    async with asyncpg.create_pool(url, password=password, min_size=1, max_size=4, server_settings=settings) as made:
        await made.execute(f"CREATE SCHEMA {schema}")
        yield made
        await made.execute(f"DROP SCHEMA {schema} CASCADE")


_numbers = count(1)


@pytest.fixture
def cancelled() -> Callable[..., TenantCancelled]:
    """`cancelled(3)` returns an event of the tenant service with the reason "3"."""

    def event(number: int, tenant: str = "a") -> TenantCancelled:
        return TenantCancelled(tenant_id="ten_" + tenant * 32, origin=HoldOrigin.OPERATOR, reason=str(number))

    return event


@pytest.fixture
def quota_warned() -> Event:
    """Event of the billing service."""
    return decode(QuotaWarned.TYPE, 1, (SAMPLES / "billing.quota_warned.v1.json").read_bytes())


class Handled:
    """Handler of TenantCancelled that keeps the reasons, and fails `failures[reason]` times before it succeeds."""

    def __init__(self, **failures: int) -> None:
        self.order: list[int] = []
        self.tries: list[int] = []
        self.facts: list[Fact] = []
        self.error: Exception = ValueError("this handler fails")
        self._failures = {int(reason.lstrip("n")): times for reason, times in failures.items()}

    async def handle(self, event: TenantCancelled, fact: Fact) -> None:
        number = int(event.reason)
        self.tries.append(number)
        if self._failures.get(number, 0) > 0:
            self._failures[number] -= 1
            raise self.error
        self.order.append(number)
        self.facts.append(fact)

    async def all_of(self, count: int, timeout_s: float = 60) -> None:
        async def done() -> bool:
            return len(self.order) >= count

        await until(done, timeout_s)


@pytest.fixture
def record() -> Callable[..., Handled]:
    """`record(subscriber, n2=1)` handles TenantCancelled, and fails once for the event with the reason "2"."""

    def start(subscriber: Subscriber, **failures: int) -> Handled:
        handled = Handled(**failures)
        subscriber.on(TenantCancelled)(handled.handle)
        return handled

    return start
