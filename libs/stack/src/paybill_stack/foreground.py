"""Runs a stack for the life of a command: the first Ctrl-C stops it in order, a second one ends it at once."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from paybill_embedded import EmbeddedError

from paybill_stack.servers import stack_error
from paybill_stack.supervisor import Supervisor

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130


async def run_in_foreground(stack: Supervisor, work: Callable[[Supervisor], Awaitable[T]]) -> T | None:
    """Runs `work` on the started stack and stops the stack; returns None when a signal ended it.

    Raises StackError.
    """
    stopping = False

    async def run() -> T:
        async with stack:
            return await work(stack)

    task = asyncio.ensure_future(run())

    def on_signal() -> None:
        nonlocal stopping
        if stopping:
            # The kernel ends our children with this process.
            stack.remove_stack_file()
            os._exit(_INTERRUPTED)
        stopping = True
        stack.report("stopping; Ctrl-C again ends everything at once")
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopping:
            raise
        return None
    except EmbeddedError as error:
        raise stack_error(error) from error
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
