"""`bench processes`: the hop in two processes on one database, compared with one process.

The processes share the partitions by their leases, and one of them relays for both. PostgreSQL and NATS run on the
same cores, so that only a machine with four or more shows the gain in throughput. The processor time of a fact shows
on every machine if two processes do work twice.
"""

import os
from collections.abc import Sequence

from paybill_bench.figures import Figure, Progress
from paybill_bench.running_hops import Processed, running_hops
from paybill_bench.servers import median, started_servers

AMOUNT = 20_000
TENANTS = 100
ROUNDS = 3
ENOUGH_CORES = 4
"""Cores from which on two processes must be faster."""


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures one process and two, in turn, three times; each time with new processes."""
    measured: dict[int, list[Processed]] = {1: [], 2: []}
    with started_servers() as servers:
        for number in range(1, ROUNDS + 1):
            for processes, results in measured.items():
                async with running_hops(servers, processes, TENANTS) as hops:
                    results.append(await hops.process(AMOUNT, TENANTS))
                progress(f"round {number}: {processes} of them {_text(results[-1])}")
    cores = len(os.sched_getaffinity(0))
    return [
        Figure(
            "pipeline.two_processes_vs_one",
            _ratio([each.per_s for each in measured[2]], [each.per_s for each in measured[1]]),
            f"x on {cores} cores",
            least=1.6 if cores >= ENOUGH_CORES else None,
        ),
        Figure(
            "pipeline.two_processes_cost_vs_one",
            _ratio([each.processor_us for each in measured[2]], [each.processor_us for each in measured[1]]),
            "x processor time",
            most=1.15,
        ),
        Figure("pipeline.two_processes_per_s", median([each.per_s for each in measured[2]]), "facts/s"),
        Figure("pipeline.two_processes_us", median([each.processor_us for each in measured[2]]), "us of a fact"),
        Figure("pipeline.one_process_us", median([each.processor_us for each in measured[1]]), "us of a fact"),
    ]


def _text(result: Processed) -> str:
    shares = ", ".join(f"{share:.0%}" for share in result.shares)
    return f"{result.per_s:,.0f} facts/s, {result.processor_us:.0f} us of a fact, shared {shares}"


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return median([one / other for one, other in zip(ones, others, strict=True)])
