"""Cost of a decision by 50 grants in the agent gateway: one part of `bench agent`."""

import asyncio
import json
import sys
from collections.abc import Sequence
from statistics import median

from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import BenchmarkError

_MODULE = "paybill_bench.inside_agent_gateway.decisions"


async def measure_decisions(progress: Progress) -> Sequence[Figure]:
    """Measures in a process of its own, with the gateway's code."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", _MODULE, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise BenchmarkError(f"the process that decides ended with {process.returncode}")
    half, most = (median(each) for each in zip(*json.loads(output), strict=True))
    progress(f"decisions by 50 grants: half in {half:.1f} us, 99 % in {most:.1f} us")
    return [
        Figure("agent.decision_p50_us", half, "us", most=5),
        Figure("agent.decision_p99_us", most, "us", most=20),
    ]
