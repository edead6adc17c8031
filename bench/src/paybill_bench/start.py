"""`bench start`: from `paybill up` in an empty folder to a ready stack, and the same for a second start."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import median
from paybill_bench.stack import up

ROUNDS = 3


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures three folders, each started twice."""
    first: list[float] = []
    again: list[float] = []
    for number in range(1, ROUNDS + 1):
        with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
            data = Path(folder, "data")
            for durations in (first, again):
                with up(data) as stack:
                    durations.append(stack.started_s)
        progress(f"round {number}: {first[-1]:.2f} s in an empty folder, {again[-1]:.2f} s again")
    return [
        Figure("start.stack_s", median(first), "s", most=6),
        Figure("start.again_s", median(again), "s"),
    ]
