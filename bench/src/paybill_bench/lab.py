"""Servers for a run, what is put into the stream before it, and how long the answers take to come out."""

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
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect, ensure

from paybill_bench.facts import Message, messages
from paybill_bench.place import Place

ROLE = "tenant"
ANSWERS = "paybill.events.*.tenant.>"
_ATOMIC = 500


class BenchmarkError(Exception):
    """A run did not come to an end, so there is no figure."""


class Lab:
    """One PostgreSQL for all runs; a database and a NATS server with an empty log for each."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.folder = folder
        self.postgres = postgres
        self._numbers = count(1)

    async def database(self) -> str:
        """The URL, without the password, of a new and empty database."""
        name = f"bench_{next(self._numbers)}"
        connection = await asyncpg.connect(
            self.postgres.url("postgres", "postgres"), password=self.postgres.password("postgres")
        )
        try:
            await connection.execute(f'CREATE DATABASE "{name}" OWNER "{ROLE}"')
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()
        return self.postgres.url(ROLE, name)

    @asynccontextmanager
    async def bus(self, facts: Sequence[Message] = ()) -> AsyncIterator[NatsServer]:
        """A server whose log holds these facts."""
        with NatsServer(self.folder / f"nats-{next(self._numbers)}") as server:
            steward = await connect(server.url, "steward", server.password("steward"))
            await ensure(steward)
            await steward.close()
            if facts:
                await publish(server, facts)
            yield server

    async def place(self, server: NatsServer) -> Place:
        """For a process of its own, as the tenant service, on a new database."""
        return Place(
            server.url,
            ROLE,
            str(server.password_file(ROLE)),
            await self.database(),
            str(self.postgres.password_file(ROLE)),
        )


@contextmanager
def lab() -> Iterator[Lab]:
    """Everything is in a temporary folder and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="paybill-bench-") as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(Path(folder, "postgres")) as postgres:
            postgres.ensure_databases()
            yield Lab(Path(folder), postgres)


async def publish(server: NatsServer, facts: Sequence[Message], user: str = "billing") -> None:
    """Put facts into the log, in atomic batches."""
    client = await connect(server.url, user, server.password(user))
    for start in range(0, len(facts), _ATOMIC):
        part = facts[start : start + _ATOMIC]
        batch = {"Nats-Batch-Id": secrets.token_hex(12)}
        for place, fact in enumerate(part[:-1], start=1):
            await client.publish(
                fact.subject, fact.payload, headers=fact.headers | batch | {"Nats-Batch-Sequence": str(place)}
            )
        last = part[-1].headers | batch | {"Nats-Batch-Sequence": str(len(part)), "Nats-Batch-Commit": "1"}
        answer = json.loads((await client.request(part[-1].subject, part[-1].payload, 10, headers=last)).data)
        if "error" in answer:
            raise BenchmarkError(f"the log does not take the facts: {answer['error']}")
    await client.close()


@contextmanager
def child(module: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that ends with the block; what it says goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=output,
            env={"PATH": os.environ.get("PATH", "")},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def _stored(steward: Client) -> int:
    info: StreamInfo = await steward.jetstream().stream_info(EVENTS)
    return info.state.last_seq


async def throughput(lab_: Lab, module: str, amount: int, facts: Sequence[Message]) -> float:
    """Answers a second while `module` works through a log that already holds the facts."""
    async with lab_.bus(facts[:amount]) as server:
        return await answer_all(server, await lab_.place(server), module, amount, lab_.folder / "child.log")


async def answer_all(
    server: NatsServer,
    place: Place,
    module: str,
    amount: int,
    log: Path,
    settled: Callable[[Place], Awaitable[bool]] | None = None,
    untimed: int | None = None,
) -> float:
    """Have `module` answer all that the log holds; the rate.

    The clock starts when so many are answered (a tenth when none is named) and stops at the last, so that its start is
    not timed; nobody else uses the machine meanwhile. settled: what else to wait for, untimed.
    """
    untimed = amount // 10 if untimed is None else untimed
    steward = await connect(server.url, "steward", server.password("steward"))
    clock = asyncio.get_running_loop().time
    with child(module, place.argument(), log=log) as process:
        warm, begun = 0, 0.0
        deadline = clock() + 120
        while True:
            done = await _stored(steward) - amount
            now = clock()
            if done >= amount:
                break
            if not begun and done >= untimed:
                warm, begun = done, now
            if process.poll() is not None or now > deadline:
                raise BenchmarkError(f"{module} stopped at {done} of {amount}: {_last_line(log)}")
            await asyncio.sleep(0.02)
        while settled is not None and not await settled(place):  # noqa: ASYNC110  # what it waits for is in a table
            await asyncio.sleep(0.1)
    await steward.close()
    if not begun:
        raise BenchmarkError(f"{module} was done before the clock started; give it more facts")
    return (amount - warm) / (now - begun)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


async def latencies(lab_: Lab, module: str, per_s: int, seconds: float) -> list[float]:
    """Milliseconds from the moment each fact was due to be published to its answer's arrival at a reader, sorted.

    Facts are due at even distances, whether or not earlier ones were answered. The first second is not counted.
    """
    facts = list(messages(int(per_s * seconds)))
    clock = asyncio.get_running_loop().time
    async with lab_.bus() as server:
        place = await lab_.place(server)
        source = await connect(server.url, "billing", server.password("billing"))
        reader = await connect(server.url, "operator", server.password("operator"))
        feed = OrderedConsumer(reader, EVENTS, [ANSWERS], 1)
        due: dict[str, float] = {}
        taken: list[float] = []
        log = lab_.folder / "child.log"
        with child(module, place.argument(), log=log):
            # The hop is up when it has answered a first fact.
            for first in messages(1):
                await source.jetstream().publish(first.subject, first.payload, headers=first.headers)
            if not await feed.fetch(30):
                raise BenchmarkError(f"{module} does not answer: {_last_line(log)}")
            await asyncio.sleep(1)
            reading = asyncio.create_task(_read(feed, due, taken, len(facts)))
            begin = clock()
            pending: set[asyncio.Task[Any]] = set()
            for place_, fact in enumerate(facts):
                at = begin + place_ / per_s
                await asyncio.sleep(max(0.0, at - clock()))
                due[fact.headers["ce-id"]] = at
                task = asyncio.create_task(source.jetstream().publish(fact.subject, fact.payload, headers=fact.headers))
                pending.add(task)
                task.add_done_callback(pending.discard)
            async with asyncio.timeout(30):
                await reading
        await feed.close()
        await source.close()
        await reader.close()
    return sorted(taken[per_s:])


async def _read(feed: OrderedConsumer, due: dict[str, float], taken: list[float], amount: int) -> None:
    clock = asyncio.get_running_loop().time
    while len(taken) < amount:
        for message in await feed.fetch(1.0):
            at = due.get((message.headers or {}).get("pb-cause", ""))
            if at is not None:
                taken.append((clock() - at) * 1000)


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, by nearest rank."""
    return values[min(len(values) - 1, int(share * len(values)))]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
