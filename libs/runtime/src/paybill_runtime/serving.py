"""Runs a service until it is stopped: its loops, and its HTTP server in front of them."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from functools import partial

from paybill_runtime.app import Running, Service
from paybill_runtime.garbage_collector import tune_garbage_collector
from paybill_runtime.http.fast_route import FastRouter
from paybill_runtime.http.server import IDLE_S, Server, listener
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import configure, flush

log = logging.getLogger(__name__)

DRAIN_S = 0.5
"""Time during which requests are answered with 503 before the connections are closed."""


@contextlib.asynccontextmanager
async def serving(running: Running) -> AsyncIterator[int]:
    """Serves HTTP on the configured address while the block runs; yields the port."""
    settings = running.settings
    socket = listener(settings.http_host, settings.http_port)
    app = running.app()
    server = Server(FastRouter(running.fast_routes(), app), IDLE_S)
    task = running.loops.start("http", partial(server.serve, [socket]), essential=True)
    try:
        yield socket.getsockname()[1]
    finally:
        server.stop()
        await task


async def serve(service: Service, settings: ServiceSettings | None = None) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code. A failed HTTP server ends the process.

    settings: by default those of the environment.
    """
    settings = settings or service.settings()
    configure(service.name, settings.log_level)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A signal cancels the service in every state, for example while it waits for PostgreSQL, and it stops in order.
    work = asyncio.create_task(_until_failed(Running(service, settings)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        return 0
    finally:
        flush()
    return 1


async def _until_failed(running: Running) -> None:
    async with running, serving(running) as port:
        tune_garbage_collector()
        log.info("%s listens on %s:%d (pid %d)", running.service.name, running.settings.http_host, port, os.getpid())
        try:
            await running.loops.failed.wait()
        finally:
            # Clients with open connections receive a 503 before they are closed.
            running.request_limit.close()
            await asyncio.sleep(DRAIN_S)
