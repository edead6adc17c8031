"""`bench agent`: calls of agents on tenants' rows. The cost of a decision is the first part."""

from collections.abc import Sequence

from paybill_bench.agent_decisions import measure_decisions
from paybill_bench.figures import Figure, Progress


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures each part in turn."""
    return await measure_decisions(progress)
