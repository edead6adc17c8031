"""Background loops of a process: a fault of one never ends the process or another loop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from paybill_runtime import clock
from paybill_runtime.errors import ConfigurationError, reason
from paybill_runtime.telemetry import meter

log = logging.getLogger(__name__)

MAX_PAUSE_S = 60.0
"""Longest pause of a loop that fails again and again."""
_FAULTS = meter.create_counter("paybill.loops.failed", "{fault}", "Faults of background loops, by loop.")


@dataclass(frozen=True, slots=True)
class _Fault:
    """The last fault of a loop. failures: in a row. until: the loop has recovered if it still runs at this time."""

    reason: str
    failures: int
    until: float


class Loops:
    """Runs loops by name. One that raises starts again after a growing pause.

    tasks: by the name of the loop. failed: set when the process cannot continue.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.failed = asyncio.Event()
        self._faults: dict[str, _Fault] = {}

    def start(self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False) -> asyncio.Task[None]:
        """Runs a loop until `end`; a fault of an `essential` one ends the process."""
        _FAULTS.add(0, {"loop": name})  # so that a collector knows the metric before the first fault
        task = asyncio.create_task(self._once(run) if essential else self._repeatedly(name, run), name=name)
        self.tasks[name] = task
        task.add_done_callback(self._ended)
        return task

    @property
    def problem(self) -> str:
        """The loops that failed and have not recovered, for operators; empty without one."""
        now = time.monotonic()
        self._faults = {name: fault for name, fault in self._faults.items() if fault.until > now}
        return "; ".join(
            f"{name} failed ({fault.failures} in a row) and starts again: {fault.reason}"
            for name, fault in self._faults.items()
        )

    async def end(self) -> None:
        """Cancels until all have ended: before Python 3.12, `wait_for` inside a library can swallow a cancellation."""
        running = {task for task in self.tasks.values() if not task.done()}
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.5)

    @staticmethod
    async def _once(run: Callable[[], Awaitable[None]]) -> None:
        await run()

    async def _repeatedly(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs a loop until it returns. One that ran for longer than its last pause had recovered."""
        failures, pause_s = 0, 0.0
        while True:
            began = time.monotonic()
            try:
                await run()
            except ConfigurationError:
                raise  # only a new process reads the settings again
            except Exception as error:
                failures = 1 if time.monotonic() - began > pause_s else failures + 1
                pause_s = clock.backoff_s(failures, MAX_PAUSE_S)
                log.exception("the loop %s failed (%d in a row); it starts again in %.0f s", name, failures, pause_s)
                _FAULTS.add(1, {"loop": name})
                self._faults[name] = _Fault(reason(error), failures, time.monotonic() + 2 * pause_s)
                await asyncio.sleep(pause_s)
            else:
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        log.critical("%s failed, and the process ends", task.get_name(), exc_info=task.exception())
        self.failed.set()
