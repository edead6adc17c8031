"""Processes of Paybill's hop that run for several measurements, on one log and one database.

All of them are stopped (SIGSTOP) while facts are published, so that the publisher takes no processor time from them.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from nats.aio.client import Client
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.streams import connect

from paybill_bench.access import ServerAccess
from paybill_bench.deadlines import StallDetector
from paybill_bench.facts import Message, messages
from paybill_bench.process_statistics import processor_time_s
from paybill_bench.servers import BenchmarkError, BenchServers, child, last_line, publish, stored

MODULE = "paybill_bench.hop"
WARM_UP = 2_000
UNTIMED = 10
"""The first tenth of the facts is not timed."""
MIN_SHARE = 0.3
"""Least share of the processor time that each of two processes uses when both own partitions."""
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Processed:
    """Result of one measurement. shares: of each process in the processor time."""

    per_s: float
    processor_us: float
    shares: Sequence[float]


class RunningHops:
    """Processes that own the partitions of one log together."""

    def __init__(
        self, server: NatsServer, access: ServerAccess, steward: Client, processes: Sequence[subprocess.Popen[bytes]]
    ) -> None:
        self.access = access
        self._server = server
        self._steward = steward
        self._processes = processes
        self._published = 0

    async def process(self, amount: int, tenants: int) -> Processed:
        """Publishes facts of `tenants` tenants in turn; returns the rate and the processor time of a fact."""
        facts = list(messages(amount, first=self._published, tenants=tenants))
        self._published += amount
        start = await self._publish(facts)
        progress, clock = StallDetector(), asyncio.get_running_loop().time
        first: tuple[int, float, list[float]] | None = None
        while True:
            done = await stored(self._steward) - start
            if first is None and done >= amount // UNTIMED:
                first = done, clock(), self._processor_times()
            if done >= amount:
                break
            if progress.stalled(done) or any(process.poll() is not None for process in self._processes):
                raise BenchmarkError(f"{MODULE} stopped at {done} of {amount}")
            await asyncio.sleep(_POLL_S)
        if first is None or first[0] >= amount:
            raise BenchmarkError(f"{MODULE} finished before the clock started; use more facts")
        begun, begin, before = first
        elapsed = clock() - begin
        used = [after - earlier for after, earlier in zip(self._processor_times(), before, strict=True)]
        total = sum(used) or 1.0
        timed = amount - begun
        return Processed(timed / elapsed, total / timed * 1e6, [each / total for each in used])

    async def _publish(self, facts: Sequence[Message]) -> int:
        """Returns the sequence of the last fact: everything after it is an answer."""
        self._signal(signal.SIGSTOP)
        try:
            await publish(self._server, facts)
            return await stored(self._steward)
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            os.kill(process.pid, number)

    def _processor_times(self) -> list[float]:
        return [processor_time_s(process.pid) for process in self._processes]


@asynccontextmanager
async def running_hops(servers: BenchServers, amount: int, tenants: int) -> AsyncIterator[RunningHops]:
    """Runs `amount` processes on an empty log and database; returns when each of them handles its share."""
    log = servers.folder / "child.log"
    async with servers.bus() as server:
        access = await servers.access(server)
        steward = await connect(server.url, "steward", server.password("steward"))
        with ExitStack() as children:
            started: list[subprocess.Popen[bytes]] = []
            hops = RunningHops(server, access, steward, started)
            try:
                for _ in range(amount):
                    started.append(children.enter_context(child(MODULE, access.argument(), log=log)))
                    # The first process creates the tables; another one is ready when it has its partitions.
                    await _until_shared(hops, tenants)
            except BenchmarkError as error:
                raise BenchmarkError(f"{error}: {last_line(log)}") from error
            yield hops
        await steward.close()


async def _until_shared(hops: RunningHops, tenants: int) -> None:
    progress = StallDetector()
    while min((await hops.process(WARM_UP, tenants)).shares) < MIN_SHARE:
        if progress.stalled(None):
            raise BenchmarkError("the processes did not share the partitions")
