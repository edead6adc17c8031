"""`bench memory`: memory of a whole stack after many facts, and its growth.

The tables were created at the first start, and spans and metrics go to an OTLP endpoint that discards them. Memory is
the proportional set size: pages that processes share are divided among them, so that a sum counts each page once.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import httpx
from nats.aio.client import Client
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_stack.layout import SERVICES

from paybill_bench.deadlines import StallDetector
from paybill_bench.figures import Figure, Progress
from paybill_bench.process_statistics import ENDED, process_tree, program, pss_mb
from paybill_bench.servers import BenchmarkError
from paybill_bench.stack import RunningStack, up

FACTS = (10_000, 60_000)
"""Facts in the log at each measurement. Fewer between them would make the growth smaller than the noise."""
CALLERS = 8
_REST_S = 2.0
_PER = 100_000


async def measure(progress: Progress) -> Sequence[Figure]:
    """Signs tenants up to each number of facts in the log, and measures in between."""
    with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
        async with _discarding_endpoint() as endpoint:
            # The start of the stack blocks, and the endpoint runs in this loop: hence another thread.
            measured = await asyncio.to_thread(_run, Path(folder, "data"), endpoint, progress)
    small, large = measured
    growth = (_of_services(large) - _of_services(small)) / (FACTS[1] - FACTS[0]) * _PER
    return [
        Figure("memory.stack_pss_mb", sum(small.values()), "MB"),
        Figure("memory.growth_mb_per_100k_facts", growth, "MB", most=3),
        Figure("memory.services_pss_mb", _of_services(small), "MB"),
        *(Figure(f"memory.{name}_pss_mb", small[name], "MB") for name in SERVICES),
    ]


MemoryUse = Mapping[str, float]
"""MB by part of the stack."""


def _of_services(use: MemoryUse) -> float:
    return sum(use[name] for name in SERVICES)


def memory_use(stack: RunningStack) -> MemoryUse:
    """Returns the memory of each part of a running stack: of services by name, of other processes by program."""
    names = {stack.parts["services"][name]["pid"]: name for name in SERVICES}
    names |= {stack.parts["pid"]: "supervisor", stack.parts["stripe_fake"]["pid"]: "stripe-fake"}
    use: dict[str, float] = {}
    for pid in process_tree(stack.parts["pid"]):
        with suppress(*ENDED):  # a session of PostgreSQL that has just ended
            name = names.get(pid) or program(pid)
            use[name] = use.get(name, 0.0) + pss_mb(pid)
    return use


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
            await asyncio.sleep(_REST_S)
            measured.append(memory_use(stack))
            parts = ", ".join(f"{name} {each:.0f} MB" for name, each in measured[-1].items())
            progress(f"{amount:,} facts: {parts}")
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

    progress = StallDetector()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(call())
        while (last := (await log.jetstream().stream_info(EVENTS)).state.last_seq) < amount:
            if progress.stalled(last):
                raise BenchmarkError(f"the log has {last:,} facts and grows no more")
            await asyncio.sleep(0.1)
        enough.set()


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
