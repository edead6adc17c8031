"""`bench idle`: cost of an installation without tenants: processor time and commits of a minute.

The processor time of PostgreSQL is that of the sessions of our services; NATS and the Stripe fake are beside it.
"""

import asyncio
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from paybill_embedded.databases import DRIVER_ROLE
from paybill_embedded.postgres import PostgresServer
from paybill_stack.layout import SERVICES

from paybill_bench.figures import Figure, Progress
from paybill_bench.process_statistics import ENDED, process_tree, processor_time_s, program
from paybill_bench.stack import RunningStack, up

SETTLE_S = 15.0
"""Time after the start in which the services load what they need once."""
SECONDS = 60.0
_SAMPLE_S = 1.0

_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE usename = ANY($1)"
_COMMITS = "SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname <> current_database()"


@dataclass
class ProcessorTimes:
    """Processor time of a changing set of processes: what one used before it ended counts, too."""

    started: dict[int, float] = field(default_factory=dict)
    latest: dict[int, float] = field(default_factory=dict)

    def sample(self, pids: Iterable[int], *, first: bool) -> None:
        """Adds the current times. A process that appears after the first sample counts from its start."""
        for pid in pids:
            with suppress(*ENDED):
                self.latest[pid] = processor_time_s(pid)
                self.started.setdefault(pid, self.latest[pid] if first else 0.0)

    @property
    def used_s(self) -> float:
        """Returns the time between the first sample and the last."""
        return sum(time - self.started[pid] for pid, time in self.latest.items())


@dataclass(frozen=True, slots=True)
class IdleCost:
    """Per cent of one core, by part, and commits per second."""

    percent: Mapping[str, float]
    commits_per_s: float

    @property
    def cpu_percent(self) -> float:
        """Returns the sum of our services and their sessions in PostgreSQL."""
        return sum(self.percent[name] for name in (*SERVICES, "postgres"))


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures a stack that was just started in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
        data = Path(folder, "data")
        with up(data) as stack:
            await asyncio.sleep(SETTLE_S)
            cost = await idle_cost(stack, data, SECONDS)
    progress(", ".join(f"{name} {percent:.2f} %" for name, percent in cost.percent.items()))
    return [
        Figure("idle.cpu_percent", cost.cpu_percent, "% of one core", most=1),
        Figure("idle.largest_service_cpu_percent", max(cost.percent[name] for name in SERVICES), "%", most=0.3),
        Figure("idle.commits_per_s", cost.commits_per_s, "commits/s", most=3),
        Figure("idle.nats_cpu_percent", cost.percent["nats"], "% of one core"),
        Figure("idle.fake_cpu_percent", cost.percent["stripe_fake"], "% of one core"),
    ]


async def idle_cost(stack: RunningStack, data: Path, seconds: float) -> IdleCost:
    """Measures a running stack for `seconds`."""
    pids = _pids(stack)
    times = {name: ProcessorTimes() for name in (*pids, "postgres")}
    # A connection to a database that no service uses: its own commits are not counted.
    server = PostgresServer(data, stack.parts["postgres"]["port"])
    connection = await asyncpg.connect(server.url("postgres", "template1"), password=server.password("postgres"))
    clock = asyncio.get_running_loop().time
    try:
        commits = await connection.fetchval(_COMMITS)
        begin = clock()
        await _sample(times, pids, connection, first=True)
        while (left := begin + seconds - clock()) > 0:
            await asyncio.sleep(min(_SAMPLE_S, left))
            await _sample(times, pids, connection, first=False)
        elapsed = clock() - begin
        commits = await connection.fetchval(_COMMITS) - commits
    finally:
        await connection.close()
    return IdleCost({name: each.used_s / elapsed * 100 for name, each in times.items()}, commits / elapsed)


async def _sample(
    times: Mapping[str, ProcessorTimes], pids: Mapping[str, int], connection: Any, *, first: bool
) -> None:
    for name, pid in pids.items():
        times[name].sample([pid], first=first)
    sessions = await connection.fetch(_SESSIONS, [*SERVICES, DRIVER_ROLE])
    times["postgres"].sample([row["pid"] for row in sessions], first=first)


def _pids(stack: RunningStack) -> dict[str, int]:
    """Returns the processes whose times are measured one by one."""
    services = {name: stack.parts["services"][name]["pid"] for name in SERVICES}
    nats = [pid for pid in process_tree(stack.parts["pid"]) if program(pid) == "nats-server"]
    return services | {"nats": nats[0], "stripe_fake": stack.parts["stripe_fake"]["pid"]}
