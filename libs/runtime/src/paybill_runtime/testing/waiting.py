"""Waits for a condition in place of a fixed sleep."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 60) -> Any:
    """Returns the first true value of `condition`; raises TimeoutError when there is none in time."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):  # noqa: ASYNC110  # the condition reads a table or a stream
            await asyncio.sleep(0.02)
    return value
