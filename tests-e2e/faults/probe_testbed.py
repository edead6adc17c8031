"""Test bed for one fault: one NATS, one PostgreSQL, probes as separate processes, and the invariant checks."""

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
from paybill_runtime.testing import Databases
from paybill_runtime.testing.signing import make_test_identity

from faults import invariants, probe
from faults.failpoints import REACHED
from faults.fork_server import ForkedProcess, ForkServer
from faults.snapshots import Log, ServiceSnapshot, operator_log, read_snapshot

TENANTS = 6


class ProbeTestbed:
    """Starts probes, publishes their input, and checks their output. Created by `ProbeTestbed.create`."""

    def __init__(
        self, fork_server: ForkServer, nats: NatsServer, url: str, password: str, environment: dict[str, str]
    ) -> None:
        self._fork_server = fork_server
        self._nats = nats
        self._url = url
        self._password = password
        self._environment = environment
        self._log: Log = operator_log(nats.url, nats.password("operator"))
        self._published = 0
        self._forks: list[ForkedProcess] = []

    @classmethod
    async def create(
        cls, fork_server: ForkServer, nats: NatsServer, postgres: PostgresServer, databases: Databases, folder: Path
    ) -> "ProbeTestbed":
        """Creates a new database and the environment of a service."""
        url = await databases.fresh("tenant")
        await probe.create_tables(url, postgres.password("tenant"))
        make_test_identity(folder / "identities", "tenant")
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
        return cls(fork_server, nats, url, postgres.password("tenant"), environment)

    def start(self, *arguments: str) -> ForkedProcess:
        """Starts a probe with the faults in `arguments` of `python -m faults`."""
        fork = self._fork_server.start(["probe", *arguments], self._environment)
        self._forks.append(fork)
        return fork

    @property
    def reached(self) -> list[str]:
        """Returns the failpoints reached so far."""
        path = Path(self._environment[REACHED])
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    async def publish(self, numbers: int) -> None:
        """Publishes the next numbers for every tenant."""
        await probe.publish_numbers(
            self._nats.url,
            self._nats.password("billing"),
            TENANTS,
            range(self._published + 1, self._published + numbers + 1),
        )
        self._published += numbers

    async def publish_again(self, copy: int) -> None:
        """Publishes all earlier input once more, under the same event ids."""
        await probe.publish_numbers(
            self._nats.url, self._nats.password("billing"), TENANTS, range(1, self._published + 1), copy
        )

    async def violations(self, within_s: float, *, copies: bool = False) -> list[str]:
        """Returns violations at once, or unfinished work after `within_s`.

        copies: the stream is known to hold facts twice.
        """
        deadline = time.monotonic() + within_s
        while True:
            upto, snapshots = await self._snapshot()
            twice, missing = invariants.probe_violations(self._log.facts, snapshots, self._published)
            wrong = invariants.always(self._log.facts, upto, snapshots) + twice
            if not copies:
                wrong += invariants.in_the_log(self._log.facts)
            if wrong:
                return wrong
            unfinished = invariants.when_idle(self._log.facts, snapshots) + missing
            read_to_end = max(snapshots.positions.values(), default=0) >= _last_handled(self._log, snapshots)
            if read_to_end and (not unfinished or time.monotonic() > deadline):
                return unfinished
            if time.monotonic() > deadline:
                return [*unfinished, "it has not consumed the whole stream"]
            await asyncio.sleep(0.05)

    async def _snapshot(self) -> tuple[int, ServiceSnapshot]:
        await self._log.read_to_end()
        upto = self._log.end
        snapshots = await read_snapshot(probe.service(), self._url, self._password)
        await self._log.read_to_end()
        return upto, snapshots

    async def close(self) -> None:
        """Kills the started processes and closes the connection."""
        for fork in self._forks:
            if fork.signal(signal.SIGKILL):
                await wait_for_state(fork, [""])
        await self._log.close()


def _last_handled(log: Log, snapshots: ServiceSnapshot) -> int:
    return max((fact.sequence for fact in log.facts if fact.type in snapshots.handled_types), default=0)


async def wait_for_state(fork: ForkedProcess, states: Sequence[str], within_s: float = 15) -> None:
    """Returns when the process is in one of these states: `T` is stopped, `` has ended."""
    async with asyncio.timeout(within_s):
        while fork.state not in states:  # noqa: ASYNC110  # the condition is in /proc
            await asyncio.sleep(0.02)
