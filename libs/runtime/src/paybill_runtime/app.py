"""A service: what its modules declare, put together and run. Every service has this shape."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Self

import uvicorn
from fastapi import APIRouter, FastAPI
from sqlalchemy import text

from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY, Leases
from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.group_commit import GroupCommit
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import Store
from paybill_runtime.errors import DatabaseUnavailableError, reason
from paybill_runtime.http import problems
from paybill_runtime.http.auth import KeyRing
from paybill_runtime.http.fast_path import FastRoutes
from paybill_runtime.http.limits import MAX_CONCURRENT_REQUESTS, ConcurrencyLimit
from paybill_runtime.http.middleware import RequestMiddleware
from paybill_runtime.http.server import IDLE_S, Connection, listener
from paybill_runtime.jobs.effects import JobRegistry, Timer
from paybill_runtime.jobs.timers import Timers
from paybill_runtime.jobs.worker import Worker
from paybill_runtime.messaging import operations
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.consumer import Consumer
from paybill_runtime.messaging.inbox import MessageProcessor
from paybill_runtime.messaging.relay import Relay
from paybill_runtime.messaging.retry_queue import RetryQueue
from paybill_runtime.messaging.streams import EVENTS, INTAKE
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.security.data_keys import DataKeys, ServiceSeal
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets, Secrets
from paybill_runtime.settings import ServiceSettings, read_secret
from paybill_runtime.telemetry import configure, flush

log = logging.getLogger(__name__)

Background = Callable[[ServiceContext, Leases], Coroutine[Any, Any, None]]

DRAIN_S = 0.5
"""How long requests are refused in words before the connections end."""
STALL_TIMEOUT_S = 5.0
"""How long a bus that is there may take no facts, after the first attempt has failed, before a service is unready.

A cluster elects a new leader in less. Longer than that is a server whose disk has failed: JetStream then answers
readers and no publisher, until somebody restarts it on a disk that works.
"""


@dataclass(frozen=True)
class Service:
    """What a service declares in its app.py.

    effects: builds the calls to the outside world. on_start: run once after migration. background: run for ever.
    """

    name: str
    settings: type[ServiceSettings]
    states: Sequence[AnyStored]
    router: Callable[[ServiceContext], APIRouter]
    subscriptions: Subscriptions = field(default_factory=Subscriptions)
    jobs: JobRegistry = field(default_factory=JobRegistry)
    timers: Sequence[Timer] = ()
    effects: Callable[[Any, Secrets], Any] = lambda _settings, _secrets: None
    on_start: Sequence[Callable[[ServiceContext], Awaitable[None]]] = ()
    background: Sequence[Background] = ()

    def __post_init__(self) -> None:
        """Make the facts that every context says about its own running known."""
        import_module(f"paybill_contracts.{self.name.replace('-', '_')}")


class Running:
    """A service that runs. Use `async with`; everything it started ends with the block."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.owner = f"{service.name}-{clock.new_id()}"
        self.database = Database(settings.database_url, read_secret(settings.database_password_file), self.owner)
        self.broker = Broker(settings.nats_url, settings.nats_user, read_secret(settings.nats_password_file))
        self.identity = Identity.load(settings.identity_dir, service.name)
        self.store = Store(service.states, service.jobs.effect_names)
        self.leases = Leases(self.database, self.owner, settings.lease_s)
        self.data_keys = DataKeys(service.name, self.identity, self.database, self.broker)
        self.restore_guard = RestoreGuard()
        self.group_commit = GroupCommit(service.name, self.database, self.store, self._on_commit, self.restore_guard)
        self.relay = Relay(
            service.name, self.database, self.broker, self.leases, self.data_keys.publish_keys, self.restore_guard
        )
        secrets = FileSecrets(settings.secrets_dir, self.identity)
        effects = service.effects(settings, secrets)
        self.worker = Worker(
            service.name,
            service.jobs,
            effects,
            self.database,
            self.group_commit,
            self.leases,
            self.data_keys,
            self.restore_guard,
        )
        self.processor = MessageProcessor(
            service.name, service.subscriptions, self.database, self.store, self.group_commit, self.restore_guard
        )
        self.retry_queue = RetryQueue(self.processor, self.store, self.leases, self._on_commit)
        self.context = ServiceContext(
            service.name,
            settings,
            self.database,
            self.group_commit,
            self.data_keys,
            ServiceSeal(self.identity),
            KeyRing(settings.api_keys_file),
            secrets,
        )
        self.consumers = {"reader": Consumer(EVENTS, self.processor, self.broker, self.leases)}
        if service.subscriptions.intake_handlers:
            self.consumers["intake"] = Consumer(INTAKE, self.processor, self.broker, self.leases)
        self.timers = Timers(service.timers, service.name, self.database, self.group_commit)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._app: FastAPI | None = None
        self.request_limit = ConcurrencyLimit(MAX_CONCURRENT_REQUESTS)
        self._waiting = 0
        self._flowing_at = time.monotonic()
        self.failed = asyncio.Event()
        self.context.backlog = lambda: self._waiting
        self.processor.on_commit = self._on_commit

    def _on_commit(self) -> None:
        self.relay.wake()
        self.worker.wake()

    def health(self) -> dict[str, str]:
        """The state of each loop: `ok`, or what is wrong. A loop that died makes the service unready.

        That facts cannot go out is told of the bus, and at first only degrades the service: they wait in the outbox.
        """
        checks = {
            name: "ok" if not task.done() else "stopped" for name, task in self._tasks.items() if name != "connect"
        }
        checks["bus"] = (self.relay.problem or "ok") if self.broker.connected.is_set() else "away"
        if time.monotonic() - self._flowing_at > STALL_TIMEOUT_S and checks["bus"] not in {"ok", "away"}:
            checks["relay"] = self.relay.problem
        checks |= {"relay" if who == RELAY else "reader": why for who, why in self.restore_guard.mismatches.items()}
        return checks

    async def __aenter__(self) -> Self:
        """Migrate, then start every loop."""
        try:
            await self._until_there(partial(migrate, self.database, self.service.name))
            self.start("decider", self.group_commit.run())
            self.start("connect", self.broker.run())
            await self._until_there(self.leases.tick)
            for act in self.service.on_start:
                await self._until_there(partial(act, self.context))
        except BaseException:
            await self.__aexit__()
            raise
        self.start("leases", self.leases.run())
        self.start("relay", self.relay.run())
        for name, reader in self.consumers.items():
            self.start(name, reader.run())
        self.start("parking", self.retry_queue.run())
        self.start("worker", self.worker.run())
        self.start("timers", self.timers.run())
        self.start("backlog", self._watch_backlog())
        for place, background in enumerate(self.service.background):
            self.start(getattr(background, "__name__", f"background-{place}"), background(self.context, self.leases))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every loop, hand the leases over, leave."""
        await _end(self._tasks.values())
        try:
            await self.leases.release_all()
        except Exception as error:  # noqa: BLE001  # they end by themselves; whatever it is, the rest is closed too
            log.warning("leases are not handed over: %s", reason(error))
        await self.broker.close()
        await self.database.close()

    def app(self) -> FastAPI:
        """Returns the service's HTTP application; it is built once."""
        if self._app is None:
            self._app = self._build_app()
        return self._app

    def _build_app(self) -> FastAPI:
        app = FastAPI(
            title=f"Paybill {self.service.name}",
            version="1",
            telemetry={"operation_spans": False, "logs": False},  # one span a request; our own lines are the log
        )
        app.state.context = self.context
        problems.install(app)
        app.include_router(operations.probes(self.service.name, self._alive, self.health))
        app.include_router(operations.operations(self.context, self.retry_queue, self.health, self._lag))
        app.include_router(self.service.router(self.context))
        app.add_middleware(RequestMiddleware, limit=self.request_limit, mismatch=self._mismatch)
        return app

    def fast_routes(self) -> FastRoutes:
        """What is answered past all that, once `app` was made."""
        return {
            path: RequestMiddleware(door, self.request_limit, self._mismatch)
            for path, door in self.context.fast_routes.items()
        }

    def _mismatch(self) -> str:
        return self.restore_guard.problem

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a loop until the service stops; if it dies before, the service has failed."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        log.critical("the loop %s died", task.get_name(), exc_info=task.exception())
        self.failed.set()

    @staticmethod
    async def _until_there(act: Callable[[], Awaitable[Any]]) -> None:
        """A service may start before its database does."""
        while True:
            try:
                await act()
            except DatabaseUnavailableError:
                log.warning("PostgreSQL does not answer; trying again")
                await asyncio.sleep(0.5)
            else:
                return

    async def _lag(self) -> dict[str, int | None]:
        return {name: await reader.lag() for name, reader in self.consumers.items()}

    async def _alive(self) -> None:
        async with self.database.reading() as connection:
            await connection.execute(text("SELECT 1"))

    async def _watch_backlog(self) -> None:
        count = text("SELECT count(*) FROM chassis.outbox WHERE sequence IS NULL")
        while True:
            if not self.relay.problem or not self.broker.connected.is_set():
                self._flowing_at = time.monotonic()
            with contextlib.suppress(DatabaseUnavailableError):
                self._waiting = (await self.context.rows(count))[0][0]
            await asyncio.sleep(1)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: before Python 3.12, `wait_for` inside a library can swallow a cancellation."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=0.5)


@contextlib.asynccontextmanager
async def serving(running: Running) -> AsyncIterator[int]:
    """HTTP on the configured address while the block runs; yields the port."""
    _spare_the_collector()
    settings = running.settings
    socket = listener(settings.http_host, settings.http_port)
    app = running.app()
    config = uvicorn.Config(
        app,
        http=partial(Connection, limit=running.request_limit, fast_routes=running.fast_routes()),  # type: ignore[arg-type]  # what makes one will do
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=5,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    task = running.start("http", server._serve([socket]))  # noqa: SLF001  # `serve` would capture our signals
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def _spare_the_collector() -> None:
    """Garbage is looked for less often, and not in what a start leaves: that was a sixth of what a fact costs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)


async def serve(service: Service) -> int:
    """Run until SIGTERM or SIGINT; the exit code. A loop that dies ends the process, so that it is started again."""
    settings = service.settings()
    configure(service.name, settings.log_level)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Whatever is being waited for then, PostgreSQL for one, a signal ends it, and in good order.
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
        log.info("%s listens on %s:%d (pid %d)", running.service.name, running.settings.http_host, port, os.getpid())
        try:
            await running.failed.wait()
        finally:
            # Whoever has a connection is told before it ends, and not left to guess what became of its request.
            running.request_limit.close()
            await asyncio.sleep(DRAIN_S)
