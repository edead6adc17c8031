"""Replay of services in this process, with a second one on another core for logs that are long enough."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Protocol

from paybill_runtime.database.migrate import require_newest
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.errors import reason
from paybill_runtime.replay.comparison import Comparison
from paybill_runtime.replay.report import Report
from paybill_runtime.replay.verify import LogAccess, compare_snapshot, replay
from paybill_runtime.settings import read_secret

log = logging.getLogger(__name__)

PARALLEL_FROM = 5_000
"""Facts in an outbox from which on a second process saves time."""


class ServiceAccess(LogAccess, Protocol):
    """Access to the log and to the database of a service; `ServiceSettings` has it."""

    @property
    def database_url(self) -> str:
        """The address, without a password."""

    @property
    def database_password_file(self) -> Path | None:
        """The file with the password."""


@dataclass(frozen=True, slots=True)
class Target:
    """A service that is replayed."""

    name: str
    states: Sequence[AnyStored]
    access: ServiceAccess

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Opens its database."""
        access = self.access
        database = Database(access.database_url, read_secret(access.database_password_file), f"{self.name}-replay")
        try:
            yield database
        finally:
            await database.close()


def replay_all(targets: Sequence[Target], *, rebuild: bool = False) -> Iterator[Report]:
    """Replays services one after the other; yields the report of each. Raises as `replay` does."""
    with _second_process(targets) as second:
        for target in targets:
            yield asyncio.run(_replay(target, second, rebuild=rebuild))


async def _replay(target: Target, second: "_SecondProcess | None", *, rebuild: bool) -> Report:
    other = partial(second.compare, target.name) if second is not None else None
    async with target.database() as database:
        await require_newest(database, target.name)
        return await replay(target, target.access, database, rebuild=rebuild, other_process=other)


class _SecondProcess:
    """The process at the other end of a pipe, as seen from here."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def compare(self, name: str, snapshot: str, facts: int) -> Comparison | None:
        """Compares the tables of a service with its outbox, in this snapshot; see `CompareSnapshot`."""
        if facts < PARALLEL_FROM:
            return None
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        try:
            self._pipe.send((name, snapshot))
            loop.add_reader(self._pipe.fileno(), answered.set)
            try:
                await answered.wait()
            finally:
                loop.remove_reader(self._pipe.fileno())
            comparison: Comparison | None = self._pipe.recv()
        except (OSError, EOFError):
            return None
        return comparison


@contextmanager
def _second_process(targets: Sequence[Target]) -> Iterator[_SecondProcess | None]:
    """Forks a process for the block, before this one starts threads; it shares all that is imported."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) == 1:
        yield None
        return
    ours, theirs = Pipe()
    gc.freeze()  # otherwise a collection would copy the shared pages
    child = get_context("fork").Process(target=_serve, args=(theirs, ours, targets), daemon=True)
    child.start()
    theirs.close()
    try:
        yield _SecondProcess(ours)
    finally:
        ours.close()
        child.kill()
        child.join()


def _serve(pipe: Connection, other_end: Connection, targets: Sequence[Target]) -> None:
    """Compares one service after the other on request, until the first process closes the pipe."""
    other_end.close()
    by_name = {target.name: target for target in targets}
    try:
        while True:
            name, snapshot = pipe.recv()
            pipe.send(asyncio.run(_compare(pipe, by_name[name], snapshot)))
    except (OSError, EOFError, KeyboardInterrupt, asyncio.CancelledError):
        return


async def _compare(pipe: Connection, target: Target, snapshot: str) -> Comparison | None:
    """Returns None when it fails: the first process then tries it, and reports why."""
    task = asyncio.current_task()
    if task is not None:  # the first process sends nothing meanwhile: it has ended when the pipe becomes readable
        asyncio.get_running_loop().add_reader(pipe.fileno(), task.cancel)
    try:
        async with target.database() as database:
            return await compare_snapshot(target.states, database, snapshot)
    except Exception as error:  # noqa: BLE001  # whatever it is, the first process continues without this one
        log.warning("the second process of the replay failed: %s", reason(error))
        return None
