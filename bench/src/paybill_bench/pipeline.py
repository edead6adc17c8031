"""`bench pipeline`: one full hop of Paybill compared with three peers, in alternating rounds under the same load."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Sequence

from paybill_bench.facts import messages
from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import (
    BenchmarkError,
    BenchServers,
    latencies,
    median,
    percentile,
    started_servers,
    throughput,
)

OURS = "paybill_bench.hop"
BARE = "paybill_bench.peers.bare"
IDIOMATIC = "paybill_bench.peers.idiomatic"
DBOS = "paybill_bench.peers.dbos_steps"

ROUNDS = 3
AMOUNTS = {OURS: 20_000, BARE: 40_000, IDIOMATIC: 1_500}
"""Facts for each: enough for seconds of work."""
WORKFLOWS = 100
STEPS = 4
CONCURRENCY = (1, 4, 16)
PER_S = 200
SECONDS = 6.0


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures the throughput of all, then the latency of Paybill's hop and of the bare hop."""
    rates: dict[str, list[float]] = defaultdict(list)
    waits: dict[str, list[tuple[float, float]]] = defaultdict(list)
    facts = list(messages(max(AMOUNTS.values())))
    with started_servers() as servers:
        for number in range(1, ROUNDS + 1):
            for module, amount in AMOUNTS.items():
                rates[module].append(await throughput(servers, module, amount, facts))
                progress(f"round {number}: {_short(module)} {rates[module][-1]:,.0f} facts/s")
            for concurrency in CONCURRENCY:
                rates[f"dbos-{concurrency}"].append(await dbos(servers, concurrency))
                progress(f"round {number}: DBOS at {concurrency}: {rates[f'dbos-{concurrency}'][-1]:,.0f} workflows/s")
            for module in (OURS, BARE):
                elapsed = await latencies(servers, module, PER_S, SECONDS)
                waits[module].append((percentile(elapsed, 0.5), percentile(elapsed, 0.99)))
                progress(
                    f"round {number}: {_short(module)} p50 {waits[module][-1][0]:.1f} ms p99 {waits[module][-1][1]:.1f}"
                )
    workflows = max(median(rates[f"dbos-{concurrency}"]) for concurrency in CONCURRENCY)
    return [
        Figure("pipeline.events_per_s", median(rates[OURS]), "facts/s"),
        Figure("pipeline.vs_idiomatic", _ratio(rates[OURS], rates[IDIOMATIC]), "x", least=20),
        Figure("pipeline.vs_bare", _ratio(rates[OURS], rates[BARE]), "x", least=0.6),
        Figure("pipeline.vs_dbos_steps", median(rates[OURS]) / (workflows * STEPS), "x"),
        Figure("pipeline.hop_p50_vs_bare", _ratio(*_column(waits, 0)), "x", most=1.5),
        Figure("pipeline.hop_p99_vs_bare", _ratio(*_column(waits, 1)), "x", most=2.5),
        Figure("pipeline.hop_p50_ms", median(_column(waits, 0)[0]), "ms"),
        Figure("pipeline.hop_p99_ms", median(_column(waits, 1)[0]), "ms"),
        Figure("pipeline.idiomatic_per_s", median(rates[IDIOMATIC]), "facts/s"),
        Figure("pipeline.bare_per_s", median(rates[BARE]), "facts/s"),
        Figure("pipeline.bare_p50_ms", median(_column(waits, 0)[1]), "ms"),
        Figure("pipeline.bare_p99_ms", median(_column(waits, 1)[1]), "ms"),
        Figure("pipeline.dbos_workflows_per_s", workflows, "workflows/s"),
    ]


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def _column(waits: dict[str, list[tuple[float, float]]], index: int) -> tuple[list[float], list[float]]:
    return [wait[index] for wait in waits[OURS]], [wait[index] for wait in waits[BARE]]


def _ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """Returns the median of the per-round ratios: a temporary slowdown of the machine affects both sides."""
    return median([one / other for one, other in zip(ours, peers, strict=True)])


async def dbos(servers: BenchServers, concurrency: int) -> float:
    """Returns workflows of STEPS empty steps per second, on a new database."""
    async with servers.bus() as bus:
        access = await servers.access(bus)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", DBOS, access.argument(), str(WORKFLOWS), str(concurrency)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
    if process.returncode != 0:
        raise BenchmarkError(f"DBOS: {errors.decode(errors='replace').splitlines()[-1:]}")
    per_s: float = json.loads(output.splitlines()[-1])["workflows_per_s"]
    return per_s
