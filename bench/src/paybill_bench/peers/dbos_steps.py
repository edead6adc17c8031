"""DBOS: a durable workflow of four empty steps, so that only its bookkeeping in PostgreSQL is timed.

Prints one line of JSON: workflows per second at the given concurrency.
"""

import asyncio
import json
import sys
import time

from dbos import DBOS, DBOSConfig

from paybill_bench.access import from_command_line

WARM = 20


@DBOS.step()
async def step(number: int) -> int:
    """A checkpoint."""
    return number


@DBOS.workflow()
async def saga(number: int) -> int:
    """Four checkpoints in a row."""
    for _ in range(4):
        number = await step(number)
    return number


async def _run(count: int, concurrency: int) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await saga(number)

    await asyncio.gather(*(work() for _ in range(concurrency)))


async def _measure(count: int, concurrency: int) -> float:
    await _run(WARM, concurrency)
    start = time.perf_counter()
    await _run(count, concurrency)
    return count / (time.perf_counter() - start)


def _main() -> None:
    url = from_command_line().engine_url("psycopg").set(drivername="postgresql")
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url.render_as_string(hide_password=False),
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    count, concurrency = int(sys.argv[2]), int(sys.argv[3])
    try:
        per_s = asyncio.run(_measure(count, concurrency))
    finally:
        DBOS.destroy()
    sys.stdout.write(json.dumps({"workflows_per_s": per_s}) + "\n")


if __name__ == "__main__":
    _main()
