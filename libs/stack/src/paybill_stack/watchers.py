"""Watchers of the parts of a stack: tasks that run until the stack stops."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from paybill_stack.errors import StackError


class Watchers:
    """Tasks of one stack.

    One that ends by itself cancels the task that started it, because nothing would restart its part any more; `check`
    then raises the reason.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Task[None] | None = None

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Starts a watcher. name: of what it watches."""
        owner = asyncio.current_task()

        def on_end(task: asyncio.Task[None]) -> None:
            if owner is not None and self._failed is None and task in self._tasks:
                self._failed = task
                owner.cancel()

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(on_end)
        self._tasks.append(task)

    async def stop(self) -> None:
        """Cancels all; idempotent. Returns when they have ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Raises StackError when a watcher has ended by itself."""
        if self._failed is None:
            return
        if (owner := asyncio.current_task()) is not None:
            owner.uncancel()
        error = self._failed.exception()
        raise StackError(
            "watcher_failed",
            f"{self._failed.get_name()} is no longer watched, so the stack was stopped",
            why=f"{type(error).__name__}: {error}",
            next="correct the cause, and start again",
        ) from error
