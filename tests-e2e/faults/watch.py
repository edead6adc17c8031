"""The oracle at work on a running stack: again and again while it runs, and once when it has come to rest."""

import asyncio
from collections.abc import Sequence

import asyncpg
import nats.errors
import nats.js.errors
from paybill_billing.app import service as billing
from paybill_provisioner.app import service as provisioner
from paybill_runtime.app import Service
from paybill_tenant.app import service as tenant

from faults import oracle
from faults.books import Books, Log, read_books, reading_as_operator
from faults.fleet import Fleet

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server died between two statements
    nats.errors.Error,
    nats.js.errors.Error,
)
"""What it looks like when a server is away: there is nothing to judge then."""
EVERY_S = 1.5


class Watch:
    """Judges a stack. wrong: everything that was ever wrong. looked: how often it could look."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._services: Sequence[Service] = (tenant(), billing(), provisioner())
        self.log: Log = reading_as_operator(fleet.stack["nats"]["url"], fleet.password("nats-operator"))
        self.wrong: dict[str, None] = {}
        self.looked = 0

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            try:
                await self.look()
            except AWAY:
                await self.log.close()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> list[Books]:
        """Note what is wrong now; what each service's database says. Raises AWAY."""
        await self.log.read_on()
        upto = self.log.end
        books = [
            await read_books(each, self._fleet.database(each.name), self._fleet.password(f"pg-{each.name}"))
            for each in self._services
        ]
        await self.log.read_on()
        found = [*oracle.of_the_log(self.log.facts)]
        for each in books:
            found += oracle.always(self.log.facts, upto, each)
        self.wrong |= dict.fromkeys(found)
        self.looked += 1
        return books

    async def until_at_rest(self, within_s: float) -> list[str]:
        """What is still left over after this time."""
        left = ["it could not be looked at"]
        deadline = asyncio.get_running_loop().time() + within_s
        while left and asyncio.get_running_loop().time() < deadline:
            try:
                books = await self.look()
            except AWAY:
                await self.log.close()
            else:
                left = [each for one in books for each in oracle.at_rest(self.log.facts, one)]
            await asyncio.sleep(0.3)
        return left
