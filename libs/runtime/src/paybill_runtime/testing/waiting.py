"""Waits for a condition in place of a fixed sleep, and for the end of tasks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 60) -> Any:
    """Returns the first true value of `condition`; raises TimeoutError when there is none in time."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):  # noqa: ASYNC110  # the condition reads a table or a stream
            await asyncio.sleep(0.02)
    return value


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks until all have ended; raises none of their errors.

    Before Python 3.12, `asyncio.wait_for` inside a library swallows a cancellation that comes together with a result.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)
