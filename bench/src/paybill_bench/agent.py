"""`bench agent`: calls of agents through the gateway, compared with direct SQL, a server of tools, and an empty tool.

Each call of the gateway reads ten rows or writes one, with keys, grants, isolation, facts and tracing; its fact is
committed before the response. The peers run in the same run, one after the other, each in one process: asyncpg with one
committed insert for each call, MCP Toolbox for Databases, and a tool without work on the official SDK.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg

from paybill_bench.agent_calls import Body, Caller, Timed, timed_calls
from paybill_bench.agent_decisions import measure_decisions
from paybill_bench.agent_peers import PeerUnavailableError, noop, toolbox
from paybill_bench.agent_world import (
    CUSTOMERS,
    ROWS,
    STEPS,
    AgentWorld,
    registered_agent,
    running_world,
    structured,
    tool_call,
)
from paybill_bench.deadlines import StallDetector
from paybill_bench.figures import Figure, Progress
from paybill_bench.peers.agent_direct import Direct
from paybill_bench.servers import BenchmarkError, median, percentile

ROUNDS = 5
RUNS = 3
"""Runs of each caller in a round."""
CALLERS = 8
FEW, MANY = 10, 2000
_REST_S = 0.1
_PROTOCOL = "MCP-Protocol-Version: 2025-11-25\r\n"
_STATEMENTS = (
    "SELECT id, customer_id, item, total FROM product.orders WHERE customer_id = $1 ORDER BY id LIMIT 10",
    "UPDATE product.orders SET total = $2 WHERE id = $1 RETURNING id, total",
)


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures decisions first, then calls in rounds."""
    figures = list(await measure_decisions(progress))
    async with running_world() as running:
        small = await registered_agent(running, "us-east", FEW)
        large = await registered_agent(running, "eu-central", MANY)
        figures += await _calls(small, progress)
        figures.append(await _growth(small, large, progress))
    return figures


class _Runs:
    """Runs of one workflow: starts them untimed, and returns timed bodies of their steps."""

    def __init__(self, world: AgentWorld, workflow: str) -> None:
        self._world, self._workflow = world, workflow
        self._numbers = count(1)

    async def timed(self, callers: int) -> list[Timed]:
        """Returns the calls of RUNS runs of each caller, all callers at once."""
        headers = f"{_PROTOCOL}Authorization: Bearer {self._world.key}\r\n"
        connections = [Caller(self._world.port, "/mcp", headers) for _ in range(callers)]
        rounds = []
        for each in connections:
            await each.open()
        try:
            for _ in range(RUNS):
                bodies = [await self._body(each) for each in connections]
                rounds.append(await timed_calls(connections, bodies, STEPS))
        finally:
            for each in connections:
                each.close()
        return rounds

    async def _body(self, caller: Caller) -> Body:
        number = next(self._numbers)
        customer, order = number % CUSTOMERS + 1, number // CUSTOMERS % ROWS + 1
        start = {"customer": f"c{customer}"} if self._workflow == "list" else {"order": f"o{customer}-{order}"}
        begun = await _until_open(caller, tool_call(self._workflow, start))
        run, seq = begun["run"], begun["seq"]

        def body(index: int, response: bytes) -> bytes:
            if response:
                structured(response)
            values = {"customer_id": f"c{index % CUSTOMERS + 1}"} if self._workflow == "list" else {"total": index}
            step = "read" if self._workflow == "list" else "set"
            return tool_call(f"{self._workflow}__{step}-{index + 1}", {"run": run, "seq": seq + index, **values})

        return body


async def _calls(world: AgentWorld, progress: Progress) -> list[Figure]:
    reads, writes = _Runs(world, "list"), _Runs(world, "change")
    ones: dict[str, list[float]] = {"read": [], "write": [], "direct read": [], "direct write": []}
    rates: dict[str, list[float]] = {"read": [], "toolbox": [], "noop": []}
    async with _direct(world) as direct:
        for number in range(1, ROUNDS + 1):
            amount = RUNS * STEPS
            ones["read"].append(_p50(await reads.timed(1)))
            ones["direct read"].append(median(await direct.read([f"c{n % CUSTOMERS + 1}" for n in range(amount)])))
            ones["write"].append(_p50(await writes.timed(1)))
            ones["direct write"].append(
                median(await direct.write([(f"o{n % CUSTOMERS + 1}-1", n) for n in range(amount)]))
            )
            rates["read"].append(_rate(await reads.timed(CALLERS)))
            async with world.running.stack.paused():
                rates["noop"].append(await _noop(world))
                try:
                    rates["toolbox"].append(await _toolbox(world))
                except PeerUnavailableError as error:
                    progress(f"skipped agent.vs_toolbox: {error}")
            progress(
                f"round {number}: "
                + ", ".join(f"{name} {values[-1]:.2f} ms" for name, values in ones.items())
                + "; at 8 callers: "
                + ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items() if values)
            )
    figures = [
        Figure("agent.read_vs_sql", _ratio(ones["read"], ones["direct read"]), "x", most=3),
        Figure("agent.write_vs_sql", _ratio(ones["write"], ones["direct write"]), "x", most=4),
        Figure("agent.vs_mcp_noop", _ratio(rates["read"], rates["noop"]), "x", least=1),
        Figure("agent.read_p50_ms", median(ones["read"]), "ms"),
        Figure("agent.write_p50_ms", median(ones["write"]), "ms"),
        Figure("agent.reads_per_s", median(rates["read"]), "calls/s"),
    ]
    if rates["toolbox"]:
        figures.insert(2, Figure("agent.vs_toolbox", _ratio(rates["read"], rates["toolbox"]), "x", least=0.6))
    return figures


async def _until_open(caller: Caller, body: bytes) -> dict[str, Any]:
    """Starts a run once the agent may act: facts of other services may be on their way."""
    progress = StallDetector()
    while True:
        response = await caller.call(body)
        try:
            return structured(response)
        except BenchmarkError:
            if progress.stalled(response):
                raise
            await asyncio.sleep(_REST_S)


@asynccontextmanager
async def _direct(world: AgentWorld) -> AsyncIterator[Direct]:
    servers = world.running.servers
    tenant = await world.owner()
    facts = await asyncpg.connect(await servers.database(), password=servers.postgres.password("tenant"))
    try:
        await tenant.execute("SET search_path = product")
        direct = Direct(tenant, facts)
        await direct.prepare()
        yield direct
    finally:
        await tenant.close()
        await facts.close()


async def _noop(world: AgentWorld) -> float:
    async with noop(world.running.servers.folder) as port:
        return await _peer_rate(port, lambda _, __: tool_call("noop", {"text": "x"}))


async def _toolbox(world: AgentWorld) -> float:
    servers = world.running.servers
    async with toolbox(servers.folder, servers.postgres, world.database, _STATEMENTS) as port:
        return await _peer_rate(port, lambda n, _: tool_call("read_orders", {"customer": f"c{n % CUSTOMERS + 1}"}))


async def _peer_rate(port: int, body: Body) -> float:
    callers = [Caller(port, "/mcp", _PROTOCOL) for _ in range(CALLERS)]
    for each in callers:
        await each.open()
    try:
        await timed_calls(callers, [body] * CALLERS, STEPS)
        return (await timed_calls(callers, [body] * CALLERS, RUNS * STEPS)).per_s
    finally:
        for each in callers:
            each.close()


async def _growth(small: AgentWorld, large: AgentWorld, progress: Progress) -> Figure:
    """Reads through the gateway in a pool with the rows of 2,000 tenants, and in one of 10."""
    times: dict[int, list[float]] = {FEW: [], MANY: []}
    runs = {FEW: _Runs(small, "list"), MANY: _Runs(large, "list")}
    for _ in range(ROUNDS):
        for size, each in runs.items():
            times[size].append(_p50(await each.timed(1)))
    progress(f"a read: {median(times[FEW]):.2f} ms in a pool of {FEW}, {median(times[MANY]):.2f} ms in one of {MANY}")
    return Figure("agent.pool_growth", _ratio(times[MANY], times[FEW]), "x", most=1.2)


def _p50(rounds: Sequence[Timed]) -> float:
    return percentile(sorted(each for one in rounds for each in one.milliseconds), 0.5)


def _rate(rounds: Sequence[Timed]) -> float:
    return sum(len(each.milliseconds) for each in rounds) / sum(each.seconds for each in rounds)


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median of the per-round ratios."""
    return median([one / other for one, other in zip(ones, others, strict=True)])
