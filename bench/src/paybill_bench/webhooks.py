"""`bench webhooks`: kept for good when they are acknowledged, beside a bare handler; and how soon they are facts.

Billing is one process with its default settings, in a stack whose tenants have subscriptions. Messages about these are
pressed into it by 32 connections; a tenth are copies. Meanwhile its own worker looks at what was said, in the same
process, 25 times a second. The peer gets the same messages from the same generator while our stack stands still.
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

from paybill_bench.figures import Figure, Say
from paybill_bench.journeys import Senders, Stack
from paybill_bench.lab import BenchmarkError, Lab, child, lab, median, percentile
from paybill_bench.press import Door, Pressed, press, signed

PLAN = "starter"
SUBSCRIPTIONS = 50
AMOUNT = 6_000
COPY_EVERY = 10
CONNECTIONS = 32
ROUNDS = 3
CHANGES = 200
"""Alone, one after the other: 99 % of them are 198."""
_REST_S = 0.02
_PATIENCE_S = 30.0


async def measure(say: Say) -> Sequence[Figure]:
    """The way to the fact first, on an idle stack; then rounds in turn with the peer."""
    with lab() as servers:
        async with servers.bus() as bus:
            stack = Stack(servers, bus)
            try:
                await stack.start()
                followed = await _subscriptions(stack)
                to_fact = await _changes(stack, followed)
                half, most = percentile(to_fact, 0.5), percentile(to_fact, 0.99)
                say(f"one at a time: {half:.1f} ms to the fact, 99 % in {most:.1f} ms")
                ours, theirs = await _rounds(servers, bus, stack, followed, say)
            finally:
                await stack.stop()
    return [
        Figure("webhooks.per_s", median([each.per_s for each in ours]), "webhooks/s"),
        Figure("webhooks.p99_ms", median([each.p99_ms for each in ours]), "ms"),
        Figure(
            "webhooks.vs_bare", _ratio([each.per_s for each in ours], [each.per_s for each in theirs]), "x", least=0.6
        ),
        Figure(
            "webhooks.p99_vs_bare",
            _ratio([each.p99_ms for each in ours], [each.p99_ms for each in theirs]),
            "x",
            most=3,
        ),
        Figure("webhooks.to_fact_p99_ms", most, "ms", most=1000),
        Figure("webhooks.to_fact_p50_ms", half, "ms"),
        Figure("webhooks.p50_ms", median([each.p50_ms for each in ours]), "ms"),
        Figure("webhooks.bare_per_s", median([each.per_s for each in theirs]), "webhooks/s"),
        Figure("webhooks.bare_p99_ms", median([each.p99_ms for each in theirs]), "ms"),
        Figure("webhooks.bare_p50_ms", median([each.p50_ms for each in theirs]), "ms"),
    ]


async def _subscriptions(stack: Stack) -> list[dict[str, Any]]:
    """Of tenants who are active, as the provider shows them."""
    ready = await stack.sign_up(PLAN, SUBSCRIPTIONS)
    await stack.start_all(ready)
    sessions = [json.loads(webhook.body)["data"]["object"] for webhook in ready]
    async with stack.provider() as provider:
        return [(await provider.get(f"/v1/subscriptions/{session['subscription']}")).json() for session in sessions]


async def _changes(stack: Stack, followed: Sequence[dict[str, Any]]) -> list[float]:
    """Sorted milliseconds, from the first byte of each message to its fact at a reader of the stream.

    Every message tells of something that has changed at the provider, so that there is a fact.
    """
    secret = stack.door.secret.read_text(encoding="utf-8").strip()
    taken = []
    async with (
        stack.provider() as provider,
        stack.reading("billing.*") as feed,
        Senders(stack.door.port, 1) as senders,
    ):
        for number in range(CHANGES):
            subscription = followed[number % len(followed)]
            cancel = "true" if number // len(followed) % 2 == 0 else "false"
            changed = await provider.post(
                f"/v1/subscriptions/{subscription['id']}", data={"cancel_at_period_end": cancel}
            )
            id_ = f"evt_change_{number}"
            request = signed(_event(id_, changed.json()), secret)
            begin = time.perf_counter()
            sending = asyncio.create_task(senders.send(iter([request])))
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    while not any((message.headers or {}).get("pb-cause") == id_ for message in await feed.fetch(1.0)):
                        pass
            except TimeoutError:
                raise BenchmarkError(f"no fact came of a change after {number}") from None
            taken.append((time.perf_counter() - begin) * 1000)
            await sending
            await asyncio.sleep(_REST_S)
    return sorted(taken)


async def _rounds(
    servers: Lab, bus: NatsServer, stack: Stack, followed: Sequence[dict[str, Any]], say: Say
) -> tuple[list[Pressed], list[Pressed]]:
    ours, theirs = [], []
    async with _bare(servers, bus, stack.door.secret) as peer:
        for number in range(1, ROUNDS + 1):
            bodies = servers.folder / "bodies"
            bodies.write_text("\n".join(_bodies(number, followed)), encoding="utf-8")
            ours.append(await press(stack.door, bodies, CONNECTIONS))
            async with stack.paused():
                theirs.append(await press(peer, bodies, CONNECTIONS))
            say(
                f"round {number}: {ours[-1].per_s:,.0f}/s, 99 % in {ours[-1].p99_ms:.1f} ms; "
                f"bare {theirs[-1].per_s:,.0f}/s, 99 % in {theirs[-1].p99_ms:.1f} ms"
            )
    return ours, theirs


def _bodies(number: int, followed: Sequence[dict[str, Any]]) -> list[str]:
    """Every tenth is the one before it again."""
    return [
        _event(f"evt_{number}_{place - (place % COPY_EVERY == COPY_EVERY - 1)}", followed[place % len(followed)])
        for place in range(AMOUNT)
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
async def _bare(servers: Lab, bus: NatsServer, secret: Path) -> AsyncIterator[Door]:
    """The peer, once it listens; on a database of its own."""
    place, port = await servers.place(bus), free_port()
    module, log = "paybill_bench.peers.bare_webhooks", servers.folder / "child.log"
    with child(module, place.argument(), str(port), str(secret), log=log) as process:
        begin = time.monotonic()
        while True:
            try:
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() - begin > _PATIENCE_S:
                    raise BenchmarkError(f"{module} does not start; see {log}") from None
                await asyncio.sleep(_REST_S)
        yield Door(port, secret)


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of each round's own ratio."""
    return median([one / other for one, other in zip(ones, others, strict=True)])
