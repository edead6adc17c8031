"""A small world for one fault: one NATS, one PostgreSQL, the probe in processes of its own, and the oracle."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.http.auth import Role, make_key
from paybill_runtime.security.identity import make_identity
from paybill_runtime.testing import Databases

from faults import oracle, probe
from faults.books import Books, Log, read_books, reading_as_operator
from faults.nursery import Fork, Nursery
from faults.points import REACHED

TENANTS = 6


class Lab:
    """Starts probes, asks them, and judges what they say. made by `Lab.make`."""

    def __init__(
        self, nursery: Nursery, nats: NatsServer, url: str, password: str, environment: dict[str, str]
    ) -> None:
        self._nursery = nursery
        self._nats = nats
        self._url = url
        self._password = password
        self._environment = environment
        self._log: Log = reading_as_operator(nats.url, nats.password("operator"))
        self._asked = 0
        self._forks: list[Fork] = []

    @classmethod
    async def make(
        cls, nursery: Nursery, nats: NatsServer, postgres: PostgresServer, databases: Databases, folder: Path
    ) -> "Lab":
        """A fresh database, and what a service finds in its environment."""
        url = await databases.fresh("tenant")
        await probe.make_tables(url, postgres.password("tenant"))
        make_identity(folder / "identities", "tenant")
        keys = folder / "keys.json"
        key = make_key("test", "test", Role.ADMIN, ("*",), datetime.now(UTC) + timedelta(days=1))
        keys.write_text(json.dumps({"keys": [key.stored]}))
        environment = {
            "PATH": os.environ["PATH"],
            "PAYBILL_DATABASE_URL": url,
            "PAYBILL_DATABASE_PASSWORD_FILE": str(postgres.password_file("tenant")),
            "PAYBILL_NATS_URL": nats.url,
            "PAYBILL_NATS_USER": "tenant",
            "PAYBILL_NATS_PASSWORD_FILE": str(nats.password_file("tenant")),
            "PAYBILL_API_KEYS_FILE": str(keys),
            "PAYBILL_IDENTITY_DIR": str(folder / "identities"),
            "PAYBILL_SECRETS_DIR": str(folder / "secrets"),
            "PAYBILL_LEASE_S": "1",
            REACHED: str(folder / "reached"),
        }
        return cls(nursery, nats, url, postgres.password("tenant"), environment)

    def start(self, *arguments: str) -> Fork:
        """A probe, broken as `python -m faults` is told."""
        fork = self._nursery.start(["probe", *arguments], self._environment)
        self._forks.append(fork)
        return fork

    @property
    def reached(self) -> list[str]:
        """The points that were reached so far."""
        path = Path(self._environment[REACHED])
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    async def ask(self, numbers: int) -> None:
        """Ask every tenant the next numbers."""
        await probe.ask(
            self._nats.url, self._nats.password("billing"), TENANTS, range(self._asked + 1, self._asked + numbers + 1)
        )
        self._asked += numbers

    async def ask_again(self, copy: int) -> None:
        """Everything that was asked is in the stream once more, under the same ids."""
        await probe.ask(self._nats.url, self._nats.password("billing"), TENANTS, range(1, self._asked + 1), copy)

    async def verdict(self, within_s: float, *, copies: bool = False) -> list[str]:
        """What is wrong: at once when it may never be so, else after `within_s` in which it did not come to rest.

        copies: the stream is known to hold facts twice.
        """
        deadline = time.monotonic() + within_s
        while True:
            upto, books = await self._look()
            twice, missing = oracle.counted(self._log.facts, books, self._asked)
            wrong = oracle.always(self._log.facts, upto, books) + twice
            if not copies:
                wrong += oracle.of_the_log(self._log.facts)
            if wrong:
                return wrong
            unfinished = oracle.at_rest(self._log.facts, books) + missing
            read_on = max(books.positions.values(), default=0) >= _last_heard(self._log, books)
            if read_on and (not unfinished or time.monotonic() > deadline):
                return unfinished
            if time.monotonic() > deadline:
                return [*unfinished, "it has not read to the end of the stream"]
            await asyncio.sleep(0.05)

    async def _look(self) -> tuple[int, Books]:
        await self._log.read_on()
        upto = self._log.end
        books = await read_books(probe.service(), self._url, self._password)
        await self._log.read_on()
        return upto, books

    async def close(self) -> None:
        """End what was started, and leave."""
        for fork in self._forks:
            if fork.signal(signal.SIGKILL):
                await until_it_is(fork, [""])
        await self._log.close()


def _last_heard(log: Log, books: Books) -> int:
    return max((said.sequence for said in log.facts if said.type in books.hears), default=0)


async def until_it_is(fork: Fork, states: Sequence[str], within_s: float = 15) -> None:
    """Return when the process is in one of these states: `T` is stopped, `` is gone."""
    async with asyncio.timeout(within_s):
        while fork.state not in states:  # noqa: ASYNC110  # what it waits for is in /proc
            await asyncio.sleep(0.02)
