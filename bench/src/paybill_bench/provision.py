"""`bench provision`: from a tenant's entitlements to its environment, and what grows with tenants and resources.

The provisioner runs alone with the local driver; the benchmark publishes the facts of the other services. The peer has
the same SQL statements without a control plane, on the same PostgreSQL server, in alternating rounds. Waits beside slow
silos are measured in two provisioners with servers of their own, in alternating blocks: in one of them the databases of
64 silos stay pending at the provider. Whoever is not measured is stopped (SIGSTOP).
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from paybill_contracts.placement import Preset

from paybill_bench.figures import Figure, Progress
from paybill_bench.growth import measure_growth
from paybill_bench.peers.raw_sql import RawSql
from paybill_bench.pool_reads import measure_reads
from paybill_bench.provisioner import SLOW_SILOS, RunningProvisioner, running_provisioner
from paybill_bench.servers import BenchmarkError, median, percentile

CELLS = 4
"""Pools in each region: more tenants than fit into one are built."""
SLOW = 64
BLOCKS, WAITS = 6, 40
"""Waits that are measured one at a time, in each provisioner in turn."""
ROUNDS, TENANTS = 5, 200
"""Tenants of a round against the SQL statements alone."""
PLANS = (10_000, 100_000)
PLAN_ROUNDS = 3
_PLANS_MODULE = "paybill_bench.inside_provisioner.plans"
_WARM_UP = 20
_QUICK_CHECKS = {"PAYBILL_DRIFT_CALLS_PER_S": "1000"}
"""The default budget of calls would be the only limit that is measured."""


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures waits, rates, drift and reads with provisioners; then plans, and growth in whole stacks."""
    async with (
        running_provisioner(CELLS, environment=_QUICK_CHECKS) as free,
        running_provisioner(CELLS, SLOW_SILOS) as loaded,
    ):
        figures = [
            *await measure_waits(free, loaded, SLOW, BLOCKS, WAITS, progress),
            *await measure_rates(free, ROUNDS, TENANTS, progress),
            *await measure_drift(free, progress),
            *await measure_reads(free, progress),
        ]
    return [*figures, *await measure_plans(progress), *await measure_growth(progress)]


async def measure_waits(
    free: RunningProvisioner, loaded: RunningProvisioner, slow: int, blocks: int, amount: int, progress: Progress
) -> Sequence[Figure]:
    """Measures waits of pooled tenants alone, and beside `slow` silos: `amount` of each in every block."""
    waits: dict[bool, list[float]] = {False: [], True: []}
    for provisioner in (free, loaded):
        async with (loaded if provisioner is free else free).stack.paused():
            # The first tenants create the databases.
            await provisioner.build_all(await provisioner.register(CELLS))
            await provisioner.build_all(await provisioner.register(_WARM_UP))
            if provisioner is loaded:
                await provisioner.begin(await provisioner.register(slow), Preset.SILO)
    for number in range(1, blocks + 1):
        for provisioner, other in ((free, loaded), (loaded, free)):
            async with other.stack.paused():
                tenants = await provisioner.register(amount)
                waits[provisioner is loaded] += await provisioner.build_one_by_one(tenants)
        progress(f"block {number}: {median(waits[False]):.1f} ms alone, {median(waits[True]):.1f} beside slow silos")
    alone, beside = sorted(waits[False]), sorted(waits[True])
    return [
        Figure("provision.pooled_p50_ms", median(alone), "ms", most=30),
        Figure("provision.mixed_wait_p99_x", percentile(beside, 0.99) / percentile(alone, 0.99), "x", most=1.5),
        Figure("provision.mixed_wait_p50_x", median(beside) / median(alone), "x"),
        Figure("provision.pooled_p99_ms", percentile(alone, 0.99), "ms"),
    ]


async def measure_rates(
    provisioner: RunningProvisioner, rounds: int, amount: int, progress: Progress
) -> Sequence[Figure]:
    """Measures tenants each second, of the provisioner and of the statements alone, in turn."""
    ours: list[float] = []
    raw: list[float] = []
    async with RawSql.opened(provisioner.servers) as peer:
        await peer.build_all(_WARM_UP)
        for number in range(1, rounds + 1):
            tenants = await provisioner.register(amount)
            ours.append(amount / await provisioner.build_all(tenants))
            async with provisioner.stack.paused():
                raw.append(amount / await peer.build_all(amount))
            progress(f"round {number}: {ours[-1]:,.1f} tenants/s, {raw[-1]:,.1f} by the SQL statements alone")
    return [
        Figure("provision.vs_raw_sql", median([one / other for one, other in zip(ours, raw, strict=True)]), "x", 0.25),
        Figure("provision.pooled_per_s", median(ours), "tenants/s"),
        Figure("provision.raw_sql_per_s", median(raw), "tenants/s"),
    ]


async def measure_drift(provisioner: RunningProvisioner, progress: Progress) -> Sequence[Figure]:
    """Compares all environments with what exists, in pages."""
    async with provisioner.stack.client("provisioner") as client:
        clock = asyncio.get_running_loop().time
        begin = clock()
        after: str | None = ""
        while after is not None:
            response = await client.post("/v1/drift", params={"after": after})
            if response.is_error:
                raise BenchmarkError(f"the check of drift was refused: {response.text[:300]}")
            after = response.json()["next"]
        elapsed = clock() - begin
        found = (await client.get("/v1/drift")).json()["differences"]
    if found:
        raise BenchmarkError(f"{found[0]['address']} of {found[0]['slug']} differs from its record")
    tenants = len(provisioner.connections)
    progress(f"{tenants} environments compared in {elapsed:.1f} s")
    return [Figure("drift.tenants_per_s", tenants / elapsed, "tenants/s")]


async def measure_plans(progress: Progress, sizes: tuple[int, int] = PLANS) -> Sequence[Figure]:
    """Plans the repair of environments with many resources, in a process of its own, in turn."""
    few, many = sizes
    amounts = [amount for _ in range(PLAN_ROUNDS) for amount in sizes]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _PLANS_MODULE, *map(str, (few, *amounts))),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise BenchmarkError(f"the process that plans ended with {process.returncode}")
    seconds: list[float] = json.loads(output)[1:]  # without the first, which warms up
    small, large = seconds[::2], seconds[1::2]
    progress(f"plans of {few:,} resources: {median(small):.2f} s; of {many:,}: {median(large):.2f} s")
    growth = median([one / other for one, other in zip(large, small, strict=True)])
    return [
        Figure("plan.10k_s", median(small), "s", most=2),
        Figure("plan.growth_10k_100k", growth, "x", most=12),
    ]
