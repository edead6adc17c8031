"""Kills the processes of a running stack, at random and at named points, while replicas of its services come and go."""

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

from faults.fleet import LEASE_S, SERVICES, Fleet, Replica
from faults.points import POINTS

REPLICAS = 2
"""Of each service, beside the supervised one."""
SUPERVISED = 3
"""How often each supervised service may be killed: the supervisor starts it again later and later."""
GIVEN_S = 12.0
"""How long a replica may take to get to its point; then it is killed wherever it is."""
SUPERVISED_LEASE_S = 10.0
EVERY_S = (0.1, 0.7)

OF_THE_RELAY = {"after_commit_before_publish", "after_publish_before_mark"}
_OF_EFFECTS = {"after_effect_before_outcome"}
_LEAVING = "while_leases_are_given_back"


class Killer:
    """Kills until there were `kills`, or until told to stop. dice: decides whom, when and where."""

    def __init__(self, fleet: Fleet, dice: random.Random, kills: int) -> None:
        self._fleet = fleet
        self._dice = dice
        self._kills = kills
        self._killed: Counter[str] = Counter()
        self._armed: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()

    @property
    def killed(self) -> Counter[str]:
        """How many died, by where: a point's name, or who it was."""
        return self._killed + Counter(name for name, how, _ in self._fleet.reached if how == "die")

    @property
    def part(self) -> float:
        """How much of the killing is done, from 0 to 1."""
        return min(1.0, sum(self.killed.values()) / self._kills)

    async def run(self) -> None:
        """Kill until it is enough; then whoever is stopped goes on, and replicas leave."""
        try:
            self._begin(self._pause_supervised())
            while self.part < 1:
                await asyncio.sleep(self._dice.uniform(*EVERY_S))
                await self._once()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._all_leave()

    async def _once(self) -> None:
        wanting = [service for service in SERVICES if len(self._fleet.living(service)) < REPLICAS]
        if wanting and self._dice.random() < 0.7:
            self._join(self._dice.choice(wanting))
            return
        match self._dice.choices(("server", "supervised", "replica", "relay", "pause", "leave"), (3, 1, 3, 3, 2, 1))[0]:
            case "server":
                self._kill(self._dice.choice(("nats", "postgres")))
            case "supervised":
                self._kill(self._dice.choice(SERVICES))
            case "relay":
                await self._kill_the_relay(self._dice.choice(SERVICES))
            case action:
                # Whoever is on the way to a point is left alone.
                free = [each for each in self._fleet.living() if not each.point and each.fork.state != "T"]
                if not free:
                    return
                replica = self._dice.choice(free)
                if action == "replica":
                    self._killed["a replica"] += replica.fork.signal(signal.SIGKILL)
                elif action == "leave":
                    self.done["a replica left"] += replica.fork.signal(signal.SIGTERM)
                else:
                    self._begin(self._pause(replica, LEASE_S + 1))

    def _join(self, service: str) -> None:
        self.done["a replica joined"] += 1
        how = self._dice.choices(("die", "stop", ""), (6, 2, 2))[0]
        if not how:
            self._fleet.join(service)
            return
        points = [point for point in POINTS if service != "tenant" or point not in _OF_EFFECTS]
        least = min(self._armed[point] for point in points)
        point = self._dice.choice([point for point in points if self._armed[point] == least])
        self._armed[point] += 1
        occurrence = 1 if point == _LEAVING else self._dice.randint(1, 3)
        replica = self._fleet.join(service, how, point, occurrence)
        self._begin(self._see_to(replica))

    async def _see_to(self, replica: Replica) -> None:
        """Help a replica to its point; whoever stops there goes on when its leases are long gone."""
        if replica.point in OF_THE_RELAY or replica.point == _LEAVING:
            await _ready(replica)
        if replica.point in OF_THE_RELAY:
            await self._kill_the_relay(replica.service, spare=replica.fork.pid)
        if replica.point == _LEAVING:
            await asyncio.sleep(self._dice.uniform(0, 2))
            replica.fork.signal(signal.SIGTERM)
        for _ in range(int(GIVEN_S / 0.1)):
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
            self.done["a replica slept longer than its lease"] += replica.fork.signal(signal.SIGCONT)

    async def _pause_supervised(self) -> None:
        service = self._dice.choice(SERVICES)
        await asyncio.sleep(self._dice.uniform(3, 8))
        with suppress(ProcessLookupError):
            pid = self._fleet.pid(service)
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(SUPERVISED_LEASE_S + 1)
            finally:
                os.kill(pid, signal.SIGCONT)
            self.done[f"{service} slept longer than its lease"] += 1

    async def _kill_the_relay(self, service: str, spare: int = 0) -> None:
        with suppress(
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
        ):
            pid = await self._fleet.holding(service)
            if pid is None or pid == spare:
                return
            with suppress(ProcessLookupError):
                if pid == self._fleet.pid(service):
                    self._kill(service)
                    return
            os.kill(pid, signal.SIGKILL)
            self._killed["the relay's owner"] += 1

    def _kill(self, name: str) -> None:
        if name in SERVICES and self._killed[name] >= SUPERVISED:
            return
        with suppress(ProcessLookupError):  # it is dead already: being started again
            os.kill(self._fleet.pid(name), signal.SIGKILL)
            self._killed[name] += 1

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _all_leave(self) -> None:
        for replica in self._fleet.living():
            replica.fork.signal(signal.SIGCONT)
            replica.fork.signal(signal.SIGTERM)
        for replica in self._fleet.living():
            try:
                await replica.fork.ended(20)
            except TimeoutError:
                self.done["a replica did not leave"] += replica.fork.signal(signal.SIGKILL)


async def _ready(replica: Replica) -> None:
    """Return when it serves, or after a while."""
    async with httpx.AsyncClient(timeout=1) as client:
        for _ in range(50):
            with suppress(httpx.HTTPError):
                if (await client.get(f"{replica.url}/readyz")).status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(0.1)
