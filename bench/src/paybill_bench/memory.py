"""`bench memory`: memory of the tenant service and billing after many facts, as processes of a real stack.

Their tables were created at their first start, and spans and metrics go to an OTLP endpoint that discards them.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import httpx
from nats.aio.client import Client
from paybill_runtime.messaging.streams import EVENTS, connect

from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import BenchmarkError
from paybill_bench.stack import RunningStack, up

FACTS = (10_000, 30_000)
SERVICES = ("tenant", "billing")
CALLERS = 8
_MB = 1_000_000
_TIMEOUT_S = 180.0


async def measure(progress: Progress) -> Sequence[Figure]:
    """Signs tenants up to each number of facts in the log, and measures in between."""
    with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
        async with _discarding_endpoint() as endpoint:
            # The start of the stack blocks, and the endpoint runs in this loop: hence another thread.
            measured = await asyncio.to_thread(_run, Path(folder, "data"), endpoint, progress)
    small, large = measured
    return [
        *(Figure(f"memory.{name}_mb", small[name][0], "MB resident", most=120) for name in SERVICES),
        *(Figure(f"memory.{name}_own_mb", small[name][1], "MB, shared pages divided") for name in SERVICES),
        *(Figure(f"memory.{name}_growth_mb", large[name][0] - small[name][0], "MB") for name in SERVICES),
    ]


MemoryUse = dict[str, tuple[float, float]]


def _run(data: Path, endpoint: str, progress: Progress) -> list[MemoryUse]:
    with up(data, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as stack:
        return asyncio.run(_measure_growth(stack, progress))


async def _measure_growth(stack: RunningStack, progress: Progress) -> list[MemoryUse]:
    nats = stack.parts["nats"]
    password = Path(nats["credentials"], "nats-operator").read_text(encoding="ascii").strip()
    log = await connect(nats["url"], "operator", password)
    numbers = count(1)
    measured: list[MemoryUse] = []
    async with httpx.AsyncClient(
        base_url=stack.parts["services"]["tenant"]["url"],
        headers={"Authorization": f"Bearer {stack.operator_key}"},
        timeout=30,
    ) as client:
        for amount in FACTS:
            await _sign_up(client, log, numbers, amount)
            await asyncio.sleep(2)
            measured.append({name: _resident(stack.parts["services"][name]["pid"]) for name in SERVICES})
            progress(f"{amount:,} facts: " + ", ".join(f"{name} {measured[-1][name][0]:.0f} MB" for name in SERVICES))
    await log.close()
    return measured


async def _sign_up(client: httpx.AsyncClient, log: Client, numbers: "count[int]", amount: int) -> None:
    enough = asyncio.Event()

    async def call() -> None:
        while not enough.is_set():
            number = next(numbers)
            response = await client.post(
                "/v1/tenants",
                json={
                    "slug": f"bench-{number}",
                    "name": f"Bench {number}",
                    "plan": "starter",
                    "region": "eu-central",
                    "contact_email": f"ops{number}@bench.example",
                },
            )
            if response.status_code in {429, 503}:
                await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
            elif response.is_error:
                raise BenchmarkError(f"a tenant was refused: {response.text[:300]}")

    async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(call())
        while (await log.jetstream().stream_info(EVENTS)).state.last_seq < amount:  # noqa: ASYNC110  # the condition is in a log
            await asyncio.sleep(0.1)
        enough.set()


def _resident(pid: int) -> tuple[float, float]:
    """Returns resident and proportional set size in MB."""
    rows = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    )
    resident, proportional = (int(rows[name].split()[0]) * 1024 / _MB for name in ("Rss", "Pss"))
    return resident, proportional


@asynccontextmanager
async def _discarding_endpoint() -> AsyncIterator[str]:
    """HTTP endpoint on loopback that discards all requests."""

    async def respond(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        try:
            while head := await incoming.readuntil(b"\r\n\r\n"):
                lengths = [
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ]
                await incoming.readexactly(lengths[0] if lengths else 0)
                outgoing.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await outgoing.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            outgoing.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
