"""`bench start`: from `paybill up` in an empty folder to a stack that is ready, and the same once it has been up."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from paybill_bench.figures import Figure, Say
from paybill_bench.lab import median
from paybill_bench.stack import up

ROUNDS = 3


async def measure(say: Say) -> Sequence[Figure]:
    """Three folders, each started twice."""
    first: list[float] = []
    again: list[float] = []
    for number in range(1, ROUNDS + 1):
        with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
            data = Path(folder, "data")
            for taken in (first, again):
                with up(data) as stack:
                    taken.append(stack.started_s)
        say(f"round {number}: {first[-1]:.2f} s in an empty folder, {again[-1]:.2f} s again")
    return [
        Figure("start.stack_s", median(first), "s", most=6),
        Figure("start.again_s", median(again), "s"),
    ]
