"""Kills processes of a running stack, at random and at failpoints, while replicas of its services join and leave."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import asyncpg
import httpx
from paybill_runtime.testing import cancel

from faults.failpoints import FAILPOINTS
from faults.fleet import LEASE_S, SERVICES, Fleet, Replica

REPLICAS = 2
"""Per service, in addition to the supervised process."""
SUPERVISED = 3
"""Kills per supervised service; the supervisor's restart backoff grows."""
REACH_S = 12.0
"""Time in which a replica must reach its failpoint; afterwards it is killed anywhere."""
SUPERVISED_LEASE_S = 10.0
EVERY_S = (0.1, 0.7)

RELAY_FAILPOINTS = {"after_commit_before_publish", "after_publish_before_mark"}
_EFFECT_FAILPOINTS = {"after_effect_before_outcome", "job_outcome_recorded"}
_RELEASING = "while_leases_are_released"


class ProcessKiller:
    """Kills processes until `kills` are reached, or until cancelled. rng: chooses process, time and failpoint."""

    def __init__(self, fleet: Fleet, rng: random.Random, kills: int) -> None:
        self._fleet = fleet
        self._rng = rng
        self._kills = kills
        self._killed: Counter[str] = Counter()
        self._armed: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()

    @property
    def killed(self) -> Counter[str]:
        """Returns counts of killed processes, by failpoint or by role."""
        return self._killed + Counter(name for name, how, _ in self._fleet.reached if how == "die")

    @property
    def progress(self) -> float:
        """Returns the share of kills done, from 0 to 1."""
        return min(1.0, sum(self.killed.values()) / self._kills)

    async def run(self) -> None:
        """Kills until all kills are done; then resumes stopped processes and stops replicas."""
        try:
            self._start_task(self._pause_supervised())
            while self.progress < 1:
                await asyncio.sleep(self._rng.uniform(*EVERY_S))
                await self._step()
        finally:
            await cancel(*self._tasks)
            await self._stop_replicas()

    async def _step(self) -> None:
        incomplete = [service for service in SERVICES if len(self._fleet.running(service)) < REPLICAS]
        if incomplete and self._rng.random() < 0.7:
            self._join(self._rng.choice(incomplete))
            return
        match self._rng.choices(("server", "supervised", "replica", "relay", "pause", "leave"), (3, 1, 3, 3, 2, 1))[0]:
            case "server":
                self._kill(self._rng.choice(("nats", "postgres")))
            case "supervised":
                self._kill(self._rng.choice(SERVICES))
            case "relay":
                await self._kill_relay_owner(self._rng.choice(SERVICES))
            case action:
                # A replica on the way to its failpoint is left alone.
                free = [each for each in self._fleet.running() if not each.point and each.fork.state != "T"]
                if not free:
                    return
                replica = self._rng.choice(free)
                if action == "replica":
                    self._killed["a replica"] += replica.fork.signal(signal.SIGKILL)
                elif action == "leave":
                    self.done["a replica left"] += replica.fork.signal(signal.SIGTERM)
                else:
                    self._start_task(self._pause(replica, LEASE_S + 1))

    def _join(self, service: str) -> None:
        self.done["a replica joined"] += 1
        how = self._rng.choices(("die", "stop", ""), (6, 2, 2))[0]
        if not how:
            self._fleet.join(service)
            return
        failpoints = [point for point in FAILPOINTS if service != "tenant" or point not in _EFFECT_FAILPOINTS]
        least = min(self._armed[point] for point in failpoints)
        point = self._rng.choice([point for point in failpoints if self._armed[point] == least])
        self._armed[point] += 1
        occurrence = 1 if point == _RELEASING else self._rng.randint(1, 3)
        replica = self._fleet.join(service, how, point, occurrence)
        self._start_task(self._drive_to_failpoint(replica))

    async def _drive_to_failpoint(self, replica: Replica) -> None:
        """Drives a replica to its failpoint; a replica that stops there resumes after its leases have expired."""
        if replica.point in RELAY_FAILPOINTS or replica.point == _RELEASING:
            await _ready(replica)
        if replica.point in RELAY_FAILPOINTS:
            await self._kill_relay_owner(replica.service, spare=replica.fork.pid)
        if replica.point == _RELEASING:
            await asyncio.sleep(self._rng.uniform(0, 2))
            replica.fork.signal(signal.SIGTERM)
        for _ in range(int(REACH_S / 0.1)):
            await asyncio.sleep(0.1)
            if replica.fork.state == "T":
                await self._pause(replica, LEASE_S + 1)
                replica.point = ""
                return
        self._killed["a replica"] += replica.fork.signal(signal.SIGKILL)

    async def _pause(self, replica: Replica, for_s: float) -> None:
        replica.fork.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            self.done["a replica paused longer than its lease"] += replica.fork.signal(signal.SIGCONT)

    async def _pause_supervised(self) -> None:
        service = self._rng.choice(SERVICES)
        await asyncio.sleep(self._rng.uniform(3, 8))
        with suppress(ProcessLookupError):
            pid = self._fleet.pid(service)
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(SUPERVISED_LEASE_S + 1)
            finally:
                os.kill(pid, signal.SIGCONT)
            self.done[f"{service} paused longer than its lease"] += 1

    async def _kill_relay_owner(self, service: str, spare: int = 0) -> None:
        with suppress(
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
        ):
            pid = await self._fleet.lease_owner(service)
            if pid is None or pid == spare:
                return
            with suppress(ProcessLookupError):
                if pid == self._fleet.pid(service):
                    self._kill(service)
                    return
            os.kill(pid, signal.SIGKILL)
            self._killed["relay owner"] += 1

    def _kill(self, name: str) -> None:
        if name in SERVICES and self._killed[name] >= SUPERVISED:
            return
        with suppress(ProcessLookupError):  # it is dead already, and being restarted
            os.kill(self._fleet.pid(name), signal.SIGKILL)
            self._killed[name] += 1

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_replicas(self) -> None:
        for replica in self._fleet.running():
            replica.fork.signal(signal.SIGCONT)
            replica.fork.signal(signal.SIGTERM)
        for replica in self._fleet.running():
            try:
                await replica.fork.ended(20)
            except TimeoutError:
                self.done["a replica did not leave"] += replica.fork.signal(signal.SIGKILL)


async def _ready(replica: Replica) -> None:
    """Returns when the replica is ready, or after five seconds."""
    async with httpx.AsyncClient(timeout=1) as client:
        for _ in range(50):
            with suppress(httpx.HTTPError):
                if (await client.get(f"{replica.url}/readyz")).status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(0.1)
