"""Activations: the time from webhooks of paid checkouts until their tenants are active in the log.

Services and peers are measured by the same functions: they differ only in the endpoint that gets the webhooks and in
the server that holds the log.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from nats.aio.msg import Msg
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect

from paybill_bench.deadlines import StallDetector
from paybill_bench.load_generator import WebhookEndpoint, signed
from paybill_bench.servers import BenchmarkError

CONNECTIONS = 32
"""Webhooks in flight at the same time."""
ACTIVATED = "tenant.tenant_activated"
_REST_S = 0.1


@dataclass(frozen=True, slots=True)
class Webhook:
    """The provider's unsigned event for a tenant that has paid."""

    tenant: str
    body: str


class WebhookClient:
    """Client with persistent connections and little CPU cost."""

    def __init__(self, port: int, amount: int) -> None:
        self._port = port
        self._amount = amount
        self._open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._amount):
            self._open.append(await asyncio.open_connection("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for __, outgoing in self._open:
            outgoing.close()

    async def send(self, requests: Iterator[bytes]) -> None:
        """Sends all requests; each connection sends one after the other."""

        async def work(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
            for request in requests:
                outgoing.write(request)
                head, response = await read_response(incoming)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise BenchmarkError(f"a webhook was refused: {response.decode(errors='replace')[:300]}")

        await asyncio.gather(*(work(incoming, outgoing) for incoming, outgoing in self._open))


async def read_response(incoming: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Returns head and body of an HTTP response with a Content-Length."""
    head = await incoming.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return head, await incoming.readexactly(length)


@asynccontextmanager
async def facts_from_now(bus: NatsServer, *types: str) -> AsyncIterator[OrderedConsumer]:
    """Returns a consumer of facts of these types, starting now."""
    client = await connect(bus.url, "operator", bus.password("operator"))
    last = (await client.jetstream().stream_info(EVENTS)).state.last_seq
    consumer = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{type_}.*" for type_ in types], last + 1)
    await consumer.pending()
    try:
        yield consumer
    finally:
        await consumer.close()
        await client.close()


async def activate_all(bus: NatsServer, endpoint: WebhookEndpoint, webhooks: Sequence[Webhook]) -> float:
    """Sends every webhook; returns the seconds from the first byte until the last tenant is active in the log."""
    secret = endpoint.secret.read_text(encoding="utf-8").strip()
    requests = iter([signed(webhook.body, secret) for webhook in webhooks])
    clock = asyncio.get_running_loop().time
    left = {webhook.tenant for webhook in webhooks}
    async with facts_from_now(bus, ACTIVATED) as consumer, WebhookClient(endpoint.port, CONNECTIONS) as sender:
        begin, progress = clock(), StallDetector()
        async with _running(sender.send(requests)) as sending:
            while left:
                left.difference_update(_tenant(message) for message in await consumer.fetch(1.0))
                if sending.done():
                    await sending  # raises the error of a refused webhook
                if left and progress.stalled(len(left)):
                    raise BenchmarkError(f"{len(left)} of {len(webhooks)} tenants did not become active")
            elapsed = clock() - begin
            await sending
    return elapsed


async def activate_one_by_one(
    bus: NatsServer, endpoint: WebhookEndpoint, webhooks: Sequence[Webhook]
) -> tuple[list[float], list[dict[str, float]]]:
    """Returns milliseconds of each activation alone, and the times at which its facts were decided."""
    secret = endpoint.secret.read_text(encoding="utf-8").strip()
    elapsed, timelines = [], []
    async with facts_from_now(bus, "*.*") as consumer, WebhookClient(endpoint.port, 1) as sender:
        for webhook in webhooks:
            timeline: dict[str, float] = {}
            begin, progress = time.time(), StallDetector()
            async with _running(sender.send(iter([signed(webhook.body, secret)]))) as sending:
                while ACTIVATED not in timeline:
                    for message in await consumer.fetch(1.0):
                        if _tenant(message) == webhook.tenant:
                            name = message.subject.split(".", 3)[3].rpartition(".")[0]
                            timeline[name] = (_decided_at(message) - begin) * 1000
                    if progress.stalled(len(timeline)):
                        raise BenchmarkError(f"a tenant did not become active; its facts are {', '.join(timeline)}")
                elapsed.append((time.time() - begin) * 1000)
                await sending
            timelines.append(timeline)
            await asyncio.sleep(_REST_S)
    return elapsed, timelines


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Runs `work` as a task that ends with the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


def _decided_at(message: Msg) -> float:
    """Returns the time of a fact; for facts of a peer, which have none, the current time."""
    at = (message.headers or {}).get("ce-time")
    return datetime.fromisoformat(at).timestamp() if at else time.time()


def _tenant(message: Msg) -> str:
    return (message.headers or {}).get("pb-tenant", "")
