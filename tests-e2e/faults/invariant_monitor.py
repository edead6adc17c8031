"""Checks the invariants of a running stack, repeatedly while it runs, and once when it is idle."""

import asyncio
from collections.abc import Sequence

import asyncpg
import nats.errors
import nats.js.errors
from paybill_agent_gateway.app import service as agent_gateway
from paybill_billing.app import service as billing
from paybill_provisioner.app import service as provisioner
from paybill_runtime.app import Service
from paybill_tenant.app import service as tenant

from faults import invariants
from faults.fleet import Fleet
from faults.snapshots import Log, ServiceSnapshot, operator_log, read_snapshot

SERVER_DOWN = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server died between two statements
    nats.errors.Error,
    nats.js.errors.Error,
)
"""Errors while a server is down: then nothing can be checked."""
EVERY_S = 1.5


class InvariantMonitor:
    """Monitors a stack. wrong: all violations so far. checks: number of completed checks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._services: Sequence[Service] = (tenant(), billing(), provisioner(), agent_gateway())
        self.log: Log = operator_log(fleet.stack["nats"]["url"], fleet.password("nats-operator"))
        self.wrong: dict[str, None] = {}
        self.checks = 0

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            try:
                await self.check()
            except SERVER_DOWN:
                await self.log.close()
            await asyncio.sleep(EVERY_S)

    async def check(self) -> list[ServiceSnapshot]:
        """Records the current violations; returns the snapshot of each service's database. Raises SERVER_DOWN."""
        await self.log.read_to_end()
        upto = self.log.end
        snapshots = [
            await read_snapshot(each, self._fleet.database(each.name), self._fleet.password(f"pg-{each.name}"))
            for each in self._services
        ]
        await self.log.read_to_end()
        found = [*invariants.in_the_log(self.log.facts)]
        for each in snapshots:
            found += invariants.always(self.log.facts, upto, each)
        self.wrong |= dict.fromkeys(found)
        self.checks += 1
        return snapshots

    async def wait_until_idle(self, within_s: float) -> list[str]:
        """Returns unfinished work after at most `within_s`."""
        left = ["it could not be checked"]
        deadline = asyncio.get_running_loop().time() + within_s
        while left and asyncio.get_running_loop().time() < deadline:
            try:
                snapshots = await self.check()
            except SERVER_DOWN:
                await self.log.close()
            else:
                left = [each for snapshot in snapshots for each in invariants.when_idle(self.log.facts, snapshot)]
            await asyncio.sleep(0.3)
        return left
