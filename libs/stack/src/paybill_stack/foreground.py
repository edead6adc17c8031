"""A stack that lives as long as this command: Ctrl-C ends it in an orderly way, a second one at once."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_embedded import EmbeddedError

from paybill_stack.supervisor import Supervisor

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def in_foreground(stack: Supervisor, work: Callable[[Supervisor], Awaitable[T]]) -> T | None:
    """What `work` on the started stack returns; None when a signal ended it. The stack is gone afterwards.

    Raises CliError.
    """
    told = False

    async def run() -> T:
        async with stack:
            return await work(stack)

    task = asyncio.ensure_future(run())

    def tell() -> None:
        nonlocal told
        if told:
            # The kernel ends our children with us.
            stack.forget()
            os._exit(ExitCode.INTERRUPTED)
        told = True
        stack.tell("stopping; Ctrl-C again ends everything at once")
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, tell)
    try:
        return await task
    except asyncio.CancelledError:
        if not told:
            raise
        return None
    except EmbeddedError as error:
        code = ExitCode.CONFLICT if error.code == "data_dir_in_use" else ExitCode.FAILED
        raise CliError(error.code, error.message, next=error.next_step, exit_code=code) from error
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
