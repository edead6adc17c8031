"""Faults in background loops: raises an error in every loop of a running service, one after the other."""

# ruff: noqa: S101, PLR2004  # these assertions are those of the tests that call it

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import asyncpg
import pytest
from typing_extensions import override

from paybill_runtime.loops import Loops
from paybill_runtime.testing.running import Served
from paybill_runtime.testing.waiting import until

ERRORS = (
    RuntimeError("a fault that nobody expected"),
    asyncpg.InterfaceError("the server expects 19 arguments for this query, 20 were passed"),
    asyncpg.UniqueViolationError('duplicate key value violates unique constraint "planned_by_a_test"'),
)
"""Errors of a bug, of a wrong statement, and of a constraint; none says that PostgreSQL or NATS is away."""


class _Interruptible:
    """Runs a loop, and raises an error where the loop waits."""

    def __init__(self, run: Callable[[], Awaitable[None]]) -> None:
        self._run = run
        self._error: Exception | None = None
        self._task: asyncio.Task[Any] | None = None

    def fail(self, error: Exception) -> None:
        """Raises `error` at the statement for which the loop waits now."""
        if self._task is None:
            raise RuntimeError("the loop does not run")
        self._error = error
        self._task.cancel()

    def __await__(self) -> Generator[Any, Any, None]:
        self._task = asyncio.current_task()
        steps = self._run().__await__()
        error: BaseException | None = None
        while True:
            try:
                step = next(steps) if error is None else steps.throw(error)
            except StopIteration:
                return
            error = None
            try:
                yield step
            except asyncio.CancelledError as cancelled:
                error, self._error = self._error or cancelled, None
                if error is not cancelled and self._task is not None:
                    self._task.uncancel()


class FaultyLoops(Loops):
    """Loops in which a test can raise errors, by the name of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, _Interruptible] = {}
        self.essential: set[str] = set()

    @override
    def start(self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False) -> asyncio.Task[None]:
        """Starts a loop, and notes how it can be made to fail."""
        if essential:
            self.essential.add(name)
        interruptible = self._running[name] = _Interruptible(run)

        async def watched() -> None:
            await interruptible

        return super().start(name, watched, essential=essential)

    def fail(self, name: str, error: Exception) -> None:
        """Raises `error` in a loop."""
        self._running[name].fail(error)


async def assert_each_fault_stops_one_loop(
    served: Served, caplog: pytest.LogCaptureFixture, work: Callable[[], Coroutine[Any, Any, object]]
) -> set[str]:
    """Raises an error in each loop that runs, and asserts that the service works and recovers.

    work: uses HTTP, and returns when the facts that it caused are in the log. Returns the names of the loops.
    """
    loops, client = served.running.loops, served.client
    assert isinstance(loops, FaultyLoops)
    await work()  # every loop has reached its first wait afterwards
    names = sorted(name for name, task in loops.tasks.items() if not task.done() and name not in loops.essential)
    for number, name in enumerate(names):
        error = ERRORS[number % len(ERRORS)]
        caplog.clear()
        loops.fail(name, error)

        async def failed(name: str = name, error: Exception = error) -> bool:
            if any(
                line.exc_info and line.exc_info[1] is error for line in caplog.records if "the loop" not in line.msg
            ):
                caplog.clear()  # it hit a query that the loop itself repeats
                loops.fail(name, error)
            return bool(re.search(rf"\b{name} failed \(1 in a row\)", loops.problem))

        async with asyncio.timeout(60):
            await until(failed)
            readiness, operations = await client.get("/readyz"), await client.get("/v1/operations")
            await work()

        assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded"), readiness.text
        assert f"{name} failed (1 in a row)" in readiness.json()["checks"]["loops"]
        assert str(error) in readiness.json()["checks"]["loops"]
        assert operations.status_code == 200
        assert f"{name} failed" in operations.text
        lines = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [(line.message.split(" (")[0], line.exc_info and line.exc_info[1]) for line in lines] == [
            (f"the loop {name} failed", error)
        ]

    async def recovered() -> bool:
        return bool((await client.get("/readyz")).json()["status"] == "ok")

    async with asyncio.timeout(60):
        await until(recovered)
    await work()
    assert not loops.failed.is_set()
    assert [name for name in names if loops.tasks[name].done()] == []
    return set(names)
