"""Connections to NATS: the first is tried until it succeeds, lost ones are restored, a refused login is an error."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError

from paybill_client.credentials import Credentials

log = logging.getLogger(__name__)
T = TypeVar("T")

EVENTS = "EVENTS"
"""The stream with the log."""
CONNECT_TIMEOUT_S = 5.0
"""Time to connect of those who report an outage instead of waiting for its end."""
CLOSE_TIMEOUT_S = 5.0
PAUSE_S = 0.5

_DENIED = ("authorization", "permissions violation")


class DeniedError(Exception):
    """NATS refused the login or a permission: the message is the server's."""


class ErrorMonitor:
    """Receives the errors that the NATS client reports by callback, because it does not raise them."""

    def __init__(self) -> None:
        self._denied = asyncio.Event()
        self._reason = ""

    async def on_error(self, error: Exception) -> None:
        """Logs the error, and remembers a refused login or permission."""
        text = str(error) or type(error).__name__
        if any(sign in text.lower() for sign in _DENIED):
            self._reason = text
            self._denied.set()
        log.warning("NATS: %s", text)

    async def on_reconnect(self) -> None:
        """Forgets a refusal: the login succeeded later."""
        self._denied.clear()

    def check(self) -> None:
        """Raises DeniedError when NATS refused something."""
        if self._denied.is_set():
            raise DeniedError(self._reason)

    async def unless_denied(self, work: Awaitable[T], timeout_s: float | None = None) -> T:
        """Returns the result of `work`. Raises DeniedError at once, and TimeoutError."""
        working = asyncio.ensure_future(work)
        denied = asyncio.ensure_future(self._denied.wait())
        try:
            await asyncio.wait({working, denied}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and working.exception() is None:
                return working.result()
            self.check()
            if working.done():
                return working.result()
            raise TimeoutError
        finally:
            for task in (working, denied):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, NatsError, OSError, TimeoutError):
                    await task

    async def connected(self, connect: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of `connect`, which is called until it succeeds, and once more when it is refused.

        While a server applies a new configuration, it refuses logins for some milliseconds. Raises DeniedError.
        """
        refused = False
        while True:
            try:
                return await self.unless_denied(connect())
            except DeniedError:
                if refused:
                    raise
                refused = True
                await self.on_reconnect()
                await asyncio.sleep(PAUSE_S)
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("no connection to NATS (%s); trying again", str(error) or type(error).__name__)
                await asyncio.sleep(PAUSE_S)


@contextlib.asynccontextmanager
async def connection(credentials: Credentials, monitor: ErrorMonitor) -> AsyncIterator[Client]:
    """Connects until the block ends. Raises DeniedError."""
    client = Client()
    login: dict[str, Any] = {"user": credentials.name, "password": credentials.password.get_secret_value()}
    try:
        await monitor.connected(lambda: client.connect(**client_options(credentials, monitor), **login))
        yield client
    finally:
        await close(client.close())


def client_options(credentials: Credentials, monitor: ErrorMonitor) -> dict[str, Any]:
    """Returns the options of a connection that is restored without limit."""
    return {
        "servers": list(credentials.servers),
        "name": f"paybill-client {credentials.name}",
        "inbox_prefix": credentials.inbox_prefix,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.2,
        "connect_timeout": 2,
        "error_cb": monitor.on_error,
        "reconnected_cb": monitor.on_reconnect,
    }


async def close(closing: Awaitable[None]) -> None:
    """Awaits the end of a connection, which may be lost already."""
    task = asyncio.current_task()
    cancelled = task.cancelling() if task is not None else 0
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await closing
    except (NatsError, OSError, TimeoutError) as error:
        log.info("closed the connection while NATS was unavailable: %s", str(error) or type(error).__name__)
    except asyncio.CancelledError:
        # nats-py, closed while it reconnects, cancels a future of its own, and the cancellation propagates to here.
        if task is not None and task.cancelling() > cancelled:
            raise
