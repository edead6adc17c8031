"""`bench webhooks`: webhooks durable when acknowledged, compared with a bare handler on uvicorn with httptools.

Billing is one process with its default settings, in a stack whose tenants have subscriptions. 32 connections send
messages about these; a tenth are duplicates. Meanwhile its own worker syncs subscriptions in the same process, 25 times
a second. The peer gets the same messages from the same generator while Paybill's stack is stopped. The delay from a
change at the provider until its fact is measured before, one change at a time.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from paybill_embedded.nats import NatsServer
from paybill_embedded.ports import free_port

from paybill_bench.figures import Figure, Progress
from paybill_bench.journeys import Stack, WebhookClient
from paybill_bench.load_generator import LoadResult, WebhookEndpoint, send_load, signed
from paybill_bench.servers import BenchmarkError, BenchServers, child, median, percentile, started_servers

PLAN = "starter"
SUBSCRIPTIONS = 50
AMOUNT = 6_000
COPY_EVERY = 10
CONNECTIONS = 32
ROUNDS = 3
CHANGES = 200
"""One at a time: 99 % of them are 198."""
_REST_S = 0.02
_TIMEOUT_S = 30.0


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures the delay until the fact on an idle stack first; then rounds alternating with the peer."""
    with started_servers() as servers:
        async with servers.bus() as bus:
            stack = Stack(servers, bus)
            try:
                await stack.start()
                subscriptions = await _subscriptions(stack)
                to_fact = await _changes(stack, subscriptions)
                half, most = percentile(to_fact, 0.5), percentile(to_fact, 0.99)
                progress(f"one at a time: {half:.1f} ms to the fact, 99 % in {most:.1f} ms")
                ours, peers = await _rounds(servers, bus, stack, subscriptions, progress)
            finally:
                await stack.stop()
    return [
        Figure("webhooks.per_s", median([each.per_s for each in ours]), "webhooks/s"),
        Figure("webhooks.p99_ms", median([each.p99_ms for each in ours]), "ms"),
        Figure(
            "webhooks.vs_bare", _ratio([each.per_s for each in ours], [each.per_s for each in peers]), "x", least=0.45
        ),
        Figure(
            "webhooks.p99_vs_bare",
            _ratio([each.p99_ms for each in ours], [each.p99_ms for each in peers]),
            "x",
            most=3,
        ),
        Figure("webhooks.to_fact_p99_ms", most, "ms", most=1000),
        Figure("webhooks.to_fact_p50_ms", half, "ms"),
        Figure("webhooks.p50_ms", median([each.p50_ms for each in ours]), "ms"),
        Figure("webhooks.bare_per_s", median([each.per_s for each in peers]), "webhooks/s"),
        Figure("webhooks.bare_p99_ms", median([each.p99_ms for each in peers]), "ms"),
        Figure("webhooks.bare_p50_ms", median([each.p50_ms for each in peers]), "ms"),
    ]


async def _subscriptions(stack: Stack) -> list[dict[str, Any]]:
    """Returns subscriptions of active tenants, as the provider shows them."""
    ready = await stack.sign_up(PLAN, SUBSCRIPTIONS)
    await stack.start_all(ready)
    sessions = [json.loads(webhook.body)["data"]["object"] for webhook in ready]
    async with stack.provider() as provider:
        return [(await provider.get(f"/v1/subscriptions/{session['subscription']}")).json() for session in sessions]


async def _changes(stack: Stack, subscriptions: Sequence[dict[str, Any]]) -> list[float]:
    """Returns sorted milliseconds from the first byte of each message until its fact arrives at a consumer.

    Every message follows a change at the provider, so that there is a fact.
    """
    secret = stack.webhook_endpoint.secret.read_text(encoding="utf-8").strip()
    elapsed = []
    async with (
        stack.provider() as provider,
        stack.consumer_of("billing.*") as consumer,
        WebhookClient(stack.webhook_endpoint.port, 1) as client,
    ):
        for number in range(CHANGES):
            subscription = subscriptions[number % len(subscriptions)]
            cancel = "true" if number // len(subscriptions) % 2 == 0 else "false"
            changed = await provider.post(
                f"/v1/subscriptions/{subscription['id']}", data={"cancel_at_period_end": cancel}
            )
            id_ = f"evt_change_{number}"
            request = signed(_event(id_, changed.json()), secret)
            begin = time.perf_counter()
            sending = asyncio.create_task(client.send(iter([request])))
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    while not any(
                        (message.headers or {}).get("pb-cause") == id_ for message in await consumer.fetch(1.0)
                    ):
                        pass
            except TimeoutError:
                raise BenchmarkError(f"no fact was published for change {number}") from None
            elapsed.append((time.perf_counter() - begin) * 1000)
            await sending
            await asyncio.sleep(_REST_S)
    return sorted(elapsed)


async def _rounds(
    servers: BenchServers, bus: NatsServer, stack: Stack, subscriptions: Sequence[dict[str, Any]], progress: Progress
) -> tuple[list[LoadResult], list[LoadResult]]:
    ours, peers = [], []
    async with _bare(servers, bus, stack.webhook_endpoint.secret) as peer:
        for number in range(1, ROUNDS + 1):
            bodies = servers.folder / "bodies"
            bodies.write_text("\n".join(_bodies(number, subscriptions)), encoding="utf-8")
            ours.append(await send_load(stack.webhook_endpoint, bodies, CONNECTIONS))
            async with stack.paused():
                peers.append(await send_load(peer, bodies, CONNECTIONS))
            progress(
                f"round {number}: {ours[-1].per_s:,.0f}/s, 99 % in {ours[-1].p99_ms:.1f} ms; "
                f"bare {peers[-1].per_s:,.0f}/s, 99 % in {peers[-1].p99_ms:.1f} ms"
            )
    return ours, peers


def _bodies(number: int, subscriptions: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the events of a round; every tenth repeats the previous one."""
    return [
        _event(
            f"evt_{number}_{index - (index % COPY_EVERY == COPY_EVERY - 1)}",
            subscriptions[index % len(subscriptions)],
        )
        for index in range(AMOUNT)
    ]


def _event(id_: str, subscription: dict[str, Any]) -> str:
    return json.dumps(
        {
            "id": id_,
            "object": "event",
            "api_version": "2025-10-29.clover",
            "created": int(time.time()),
            "data": {"object": subscription, "previous_attributes": {"cancel_at_period_end": False}},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": "customer.subscription.updated",
        }
    )


@asynccontextmanager
async def _bare(servers: BenchServers, bus: NatsServer, secret: Path) -> AsyncIterator[WebhookEndpoint]:
    """Starts the peer on a separate database; returns its endpoint once it accepts connections."""
    access, port = await servers.access(bus), free_port()
    module, log = "paybill_bench.peers.bare_webhooks", servers.folder / "child.log"
    with child(module, access.argument(), str(port), str(secret), log=log) as process:
        begin = time.monotonic()
        while True:
            try:
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() - begin > _TIMEOUT_S:
                    raise BenchmarkError(f"{module} did not start; see {log}") from None
                await asyncio.sleep(_REST_S)
        yield WebhookEndpoint(port, secret)


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median of the per-round ratios."""
    return median([one / other for one, other in zip(ones, others, strict=True)])
