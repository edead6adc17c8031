"""`bench replay`: verification of a whole log, compared with only reading and validating the same facts.

Each replay is a process of its own, which forks a second one, as the command does. Its start is not timed.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paybill_contracts.envelope import read_fact
from paybill_embedded.nats import NatsServer
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.outbox import COUNT_UNPUBLISHED
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect

from paybill_bench.access import ServerAccess
from paybill_bench.facts import messages
from paybill_bench.figures import Figure, Progress
from paybill_bench.process_statistics import process_tree
from paybill_bench.replay_log import write_aggregates
from paybill_bench.servers import (
    OUTPUT_SUBJECTS,
    BenchmarkError,
    BenchServers,
    median,
    process_log,
    started_servers,
)

ROUNDS = 3
AMOUNT = 20_000
AGGREGATES = 500_000
_SAMPLE_S = 0.1
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class _Run:
    """A replay. resident, proportional: largest sums over its processes, in MB; the second divides shared pages."""

    per_s: float
    resident: float
    proportional: float


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures the speed on the log of Paybill's hop, and the memory on one with many aggregates."""
    with started_servers() as servers:
        ours, reading = await _speed(servers, progress)
        large = await _large(servers, progress)
    return [
        Figure("replay.per_s", median(ours), "facts/s", least=20_000),
        Figure(
            "replay.vs_fetch", median([one / other for one, other in zip(ours, reading, strict=True)]), "x", least=0.7
        ),
        Figure("replay.fetch_per_s", median(reading), "facts/s"),
        Figure("replay.rss_mb_500k_aggregates", large.resident, "MB resident, sum of both processes", most=250),
        Figure("replay.pss_mb_500k_aggregates", large.proportional, "MB, shared pages divided"),
        Figure("replay.per_s_500k_aggregates", large.per_s, "facts/s"),
    ]


async def _speed(servers: BenchServers, progress: Progress) -> tuple[list[float], list[float]]:
    """Runs the hop on a log, then verifies its facts and state; three rounds, alternating with reading."""
    ours: list[float] = []
    reading: list[float] = []
    clock = asyncio.get_running_loop().time
    async with servers.bus(list(messages(AMOUNT))) as server:
        access = await servers.access(server)
        await process_log(server, access, "paybill_bench.hop", AMOUNT, servers.folder / "child.log", all_marked)
        for number in range(1, ROUNDS + 1):
            ours.append((await _replay(access, AMOUNT)).per_s)
            begin = clock()
            reading.append(await _read(server) / (clock() - begin))
            progress(f"round {number}: replay {ours[-1]:,.0f} facts/s, reading and validating {reading[-1]:,.0f}")
    return ours, reading


async def _large(servers: BenchServers, progress: Progress) -> _Run:
    async with servers.bus() as server:
        access = await servers.access(server)
        begin = asyncio.get_running_loop().time()
        await write_aggregates(server, access, AGGREGATES)
        progress(f"{AGGREGATES:,} aggregates written in {asyncio.get_running_loop().time() - begin:.0f} s")
        run = await _replay(access, AGGREGATES)
        progress(f"{AGGREGATES:,} aggregates: {run.per_s:,.0f} facts/s, {run.resident:.0f} MB resident")
        return run


async def _replay(access: ServerAccess, amount: int) -> _Run:
    """Replays in a process of its own, and samples the memory of that process and its children."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "paybill_bench.replay_process", access.argument()),
        stdout=PIPE,
        stderr=PIPE,
        env={"PATH": os.environ.get("PATH", "")},
    )
    finished = asyncio.create_task(child.communicate())
    resident = proportional = 0.0
    while not (await asyncio.wait([finished], timeout=_SAMPLE_S))[0]:
        sizes = [_sizes(pid) for pid in process_tree(child.pid)]
        resident = max(resident, sum(size[0] for size in sizes))
        proportional = max(proportional, sum(size[1] for size in sizes))
    output, errors = finished.result()
    if not output:
        raise BenchmarkError(f"the replay failed: {errors.decode()[-500:]}")
    report: dict[str, Any] = json.loads(output)
    if not report["equal"] or report["facts"] != amount:
        raise BenchmarkError(f"the log and the state differ: {report}")
    return _Run(amount / report["seconds"], resident, proportional)


def _sizes(pid: int) -> tuple[float, float]:
    """Returns resident and proportional set size in MB; nothing when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return 0.0, 0.0
    rows = dict(line.split(":", 1) for line in lines)
    resident, proportional = (int(rows[name].split()[0]) * 1024 / _MB for name in ("Rss", "Pss"))
    return resident, proportional


async def all_marked(access: ServerAccess) -> bool:
    """Returns True when the outbox has the stream sequence of each of its facts."""
    database = Database(access.database_url, access.database_password, "bench")
    async with database.transaction() as connection:
        pending = await connection.execute(COUNT_UNPUBLISHED)
        count: int = pending.scalar_one()
    await database.close()
    return count == 0


async def _read(server: NatsServer) -> int:
    client = await connect(server.url, "operator", server.password("operator"))
    consumer = OrderedConsumer(client, EVENTS, [OUTPUT_SUBJECTS], 1, batch=1000)
    count, left = 0, await consumer.pending()
    while count < left:
        for message in await consumer.fetch(10):
            read_fact(message.subject, message.headers, message.data, stream_sequence(message))
            count += 1
    await consumer.close()
    await client.close()
    return count
