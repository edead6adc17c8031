"""Servers for a run, the facts in its stream, and measurements of throughput and latency."""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from nats.aio.client import Client
from nats.js.api import StreamInfo
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_embedded.users import CORE
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect, ensure
from typing_extensions import override

from paybill_bench.access import ServerAccess
from paybill_bench.deadlines import StallDetector
from paybill_bench.facts import Message, messages

ROLE = "tenant"
OUTPUT_SUBJECTS = "paybill.events.*.tenant.>"
_ATOMIC = 500
_numbers = count(1)


class BenchmarkError(Exception):
    """Raised when a run did not finish, so that there is no figure."""


class BenchNats(NatsServer):
    """NATS server on which the tenant service may acknowledge messages too, as peers do."""

    @override
    def configuration(self) -> str:
        own, acknowledgements = '"paybill.events.*.tenant.>"', '"$JS.ACK.EVENTS.>"'
        text = super().configuration().replace(f"[{own}", f"[{own}, {acknowledgements}")
        import_ = f"{{service: {{account: {CORE}, subject: {own}}}}}"
        return text.replace(import_, f"{import_}\n      {import_.replace(own, acknowledgements)}")


class BenchServers:
    """One PostgreSQL for all runs; a database and a NATS server with an empty log for each."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.folder = folder
        self.postgres = postgres

    async def database(self) -> str:
        """Creates an empty database; returns its URL without the password."""
        name = f"bench_{next(_numbers)}"
        close = f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC'
        await self._administer(f'CREATE DATABASE "{name}" OWNER "{ROLE}"', close, "CHECKPOINT")
        return self.postgres.url(ROLE, name)

    async def checkpoint(self) -> None:
        """Writes changed pages to disk now, so that PostgreSQL does not during a measurement."""
        await self._administer("CHECKPOINT")

    async def _administer(self, *statements: str) -> None:
        connection = await asyncpg.connect(
            self.postgres.url("postgres", "postgres"), password=self.postgres.password("postgres")
        )
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def bus(self, facts: Sequence[Message] = ()) -> AsyncIterator[NatsServer]:
        """Starts a server whose log holds these facts."""
        with BenchNats(self.folder / f"nats-{next(_numbers)}") as server:
            steward = await connect(server.url, "steward", server.password("steward"))
            await ensure(steward)
            await steward.close()
            if facts:
                await publish(server, facts)
            yield server

    async def access(self, server: NatsServer) -> ServerAccess:
        """Returns access for a separate process, as the tenant service, on a new database."""
        return ServerAccess(
            server.url,
            ROLE,
            str(server.password_file(ROLE)),
            await self.database(),
            str(self.postgres.password_file(ROLE)),
        )


@contextmanager
def started_servers() -> Iterator[BenchServers]:
    """Starts the servers in a temporary folder, and removes it afterwards."""
    with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(Path(folder, "postgres")) as postgres:
            postgres.ensure_databases()
            yield BenchServers(Path(folder), postgres)


async def publish(server: NatsServer, facts: Sequence[Message], user: str = "billing") -> None:
    """Publishes facts to the log, in atomic batches."""
    client = await connect(server.url, user, server.password(user))
    for start in range(0, len(facts), _ATOMIC):
        part = facts[start : start + _ATOMIC]
        batch = {"Nats-Batch-Id": secrets.token_hex(12)}
        for index, fact in enumerate(part[:-1], start=1):
            await client.publish(
                fact.subject, fact.payload, headers=fact.headers | batch | {"Nats-Batch-Sequence": str(index)}
            )
        last = part[-1].headers | batch | {"Nats-Batch-Sequence": str(len(part)), "Nats-Batch-Commit": "1"}
        response = json.loads((await client.request(part[-1].subject, part[-1].payload, 10, headers=last)).data)
        if "error" in response:
            raise BenchmarkError(f"the log refused the facts: {response['error']}")
    await client.close()


@contextmanager
def child(module: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a Python process until the end of the block; its output goes to `log`."""
    with program([sys.executable, "-m", module, *arguments], log) as process:
        yield process


@contextmanager
def program(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command until the end of the block; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={"PATH": os.environ.get("PATH", "")})
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def accepts_connections(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns once the process accepts connections on this port."""
    progress = StallDetector()
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            return
        except ConnectionRefusedError:
            if process.poll() is not None or progress.stalled(log.stat().st_size):
                raise BenchmarkError(f"a peer did not start: {last_line(log)}") from None
            await asyncio.sleep(0.05)


async def stored(steward: Client) -> int:
    """Returns the sequence of the last message in the log."""
    info: StreamInfo = await steward.jetstream().stream_info(EVENTS)
    return info.state.last_seq


async def throughput(servers: BenchServers, module: str, amount: int, facts: Sequence[Message]) -> float:
    """Returns facts per second that `module` processes from a log that already holds them."""
    async with servers.bus(facts[:amount]) as server:
        return await process_log(server, await servers.access(server), module, amount, servers.folder / "child.log")


async def process_log(
    server: NatsServer,
    access: ServerAccess,
    module: str,
    amount: int,
    log: Path,
    settled: Callable[[ServerAccess], Awaitable[bool]] | None = None,
    untimed: int | None = None,
) -> float:
    """Runs `module` until it has processed the whole log; returns its rate.

    The clock starts after `untimed` facts (default: a tenth) and stops at the last, so that the start of the process is
    not timed; nothing else runs meanwhile. settled: an additional condition to wait for, untimed.
    """
    untimed = amount // 10 if untimed is None else untimed
    steward = await connect(server.url, "steward", server.password("steward"))
    clock, progress = asyncio.get_running_loop().time, StallDetector()
    with child(module, access.argument(), log=log) as process:
        warm, begun = 0, 0.0
        while True:
            done = await stored(steward) - amount
            now = clock()
            if done >= amount:
                break
            if not begun and done >= untimed:
                warm, begun = done, now
            if process.poll() is not None or progress.stalled(done):
                raise BenchmarkError(f"{module} stopped at {done} of {amount}: {last_line(log)}")
            await asyncio.sleep(0.02)
        while settled is not None and not await settled(access):  # noqa: ASYNC110  # the condition is in a table
            await asyncio.sleep(0.1)
    await steward.close()
    if not begun:
        raise BenchmarkError(f"{module} finished before the clock started; use more facts")
    return (amount - warm) / (now - begun)


def last_line(log: Path) -> str:
    """Returns the last line of a process's output."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it logged nothing"


async def latencies(servers: BenchServers, module: str, per_s: int, seconds: float) -> list[float]:
    """Returns sorted milliseconds from each fact's due time until the hop's fact arrives at a consumer.

    Facts are due at equal intervals, whether or not earlier ones were processed. The first second is not counted.
    """
    facts = list(messages(int(per_s * seconds)))
    clock = asyncio.get_running_loop().time
    async with servers.bus() as server:
        access = await servers.access(server)
        source = await connect(server.url, "billing", server.password("billing"))
        operator = await connect(server.url, "operator", server.password("operator"))
        consumer = OrderedConsumer(operator, EVENTS, [OUTPUT_SUBJECTS], 1)
        due: dict[str, float] = {}
        elapsed: list[float] = []
        log = servers.folder / "child.log"
        with child(module, access.argument(), log=log) as process:
            # The hop is ready when it has processed a first fact.
            for first in messages(1):
                await source.jetstream().publish(first.subject, first.payload, headers=first.headers)
            progress = StallDetector()
            while not await consumer.fetch(1.0):
                if process.poll() is not None or progress.stalled(log.stat().st_size):
                    raise BenchmarkError(f"{module} published nothing: {last_line(log)}")
            await asyncio.sleep(1)
            reading = asyncio.create_task(_read(consumer, due, elapsed, len(facts)))
            begin = clock()
            pending: set[asyncio.Task[Any]] = set()
            for index, fact in enumerate(facts):
                at = begin + index / per_s
                await asyncio.sleep(max(0.0, at - clock()))
                due[fact.headers["ce-id"]] = at
                task = asyncio.create_task(source.jetstream().publish(fact.subject, fact.payload, headers=fact.headers))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await reading
        await consumer.close()
        await source.close()
        await operator.close()
    return sorted(elapsed[per_s:])


async def _read(consumer: OrderedConsumer, due: dict[str, float], elapsed: list[float], amount: int) -> None:
    clock, progress = asyncio.get_running_loop().time, StallDetector()
    while len(elapsed) < amount:
        if progress.stalled(len(elapsed)):
            raise BenchmarkError(f"{amount - len(elapsed)} of {amount} facts did not arrive")
        for message in await consumer.fetch(1.0):
            at = due.get((message.headers or {}).get("pb-cause", ""))
            if at is not None:
                elapsed.append((clock() - at) * 1000)


def percentile(values: Sequence[float], share: float) -> float:
    """Returns a percentile of sorted values, by nearest rank."""
    return values[min(len(values) - 1, int(share * len(values)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
