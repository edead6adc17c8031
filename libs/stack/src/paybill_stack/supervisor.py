"""Starts every part of the stack, waits until all are ready, restarts parts that end, and stops everything."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
from paybill_embedded import DataDir, EmbeddedError, NatsServer
from paybill_embedded.child import require_program
from paybill_embedded.credentials import write_private
from paybill_embedded.progress import StallDetector, processor_time_s

from paybill_stack.clients import write_client_files
from paybill_stack.environment import (
    Addresses,
    StripeAccount,
    inherited_environment,
    replay_command,
    replay_input,
    service_command,
    service_environment,
    stripe_fake_command,
)
from paybill_stack.errors import FailureKind, StackError
from paybill_stack.health import not_ready
from paybill_stack.layout import SERVICES, STRIPE_FAKE, Layout
from paybill_stack.operator_key import ensure_operator_key
from paybill_stack.ports import NATS, POSTGRES, choose_ports
from paybill_stack.prepare import prepare
from paybill_stack.process import Process
from paybill_stack.servers import ExternalServers, Server, Servers
from paybill_stack.watchers import Watchers

VERSION = 1
"""Version of stack.json: a field may be added within a version, never removed or changed."""

_RESPONSE_TIMEOUT_S = 5.0
_POLL_S = 0.03
_REPORT_AFTER_S, _REPORT_EVERY_S = 5.0, 10.0
_NO_ANSWER = "no answer yet"
_SERVICE_STOP_S, _STRIPE_STOP_S = 10.0, 6.0
_CHECK_S = 0.5
_FIRST_DELAY_S, _MAX_DELAY_S, _STABLE_S = 0.5, 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a start.

    new_key: create a new operator key and revoke the old one. stall_s: time without progress after which the start of a
    part has failed; a start that makes progress may take any time. offboarding_delay_s: of the tenant service; its own
    default when None. stripe, providers: as in `Addresses`.
    """

    data_dir: Path
    external: ExternalServers = field(default_factory=ExternalServers)
    catalogue: Path | None = None
    blueprints: Path | None = None
    port_base: int | None = None
    new_key: bool = False
    stall_s: float = 60.0
    offboarding_delay_s: int | None = None
    stripe: StripeAccount | None = None
    providers: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the running stack. An external part has neither pid nor log."""

    name: str
    address: str
    pid: int | None
    log: Path | None


class Supervisor:
    """The stack, as children of this process. Use `async with`, in the main thread.

    report: is called with one line per event. show_key: is called with the operator's key as soon as this start has
    created it, because only its hash is stored. new_key: the same key, if this start created it.
    Raises StackError and EmbeddedError when it cannot start, and StackError when a part is no longer watched.
    """

    def __init__(
        self, options: Options, report: Callable[[str], None], show_key: Callable[[str], None] | None = None
    ) -> None:
        self.layout = Layout(options.data_dir.absolute())
        self.report = report
        self._show_key = show_key
        self.new_key: str | None = None
        self.startup_s = 0.0
        self._options = options
        self._data_dir = DataDir(options.data_dir)
        self._servers: Servers | None = None
        self._addresses: Addresses | None = None
        self._http = httpx.AsyncClient(trust_env=False, timeout=_RESPONSE_TIMEOUT_S)
        self._processes: dict[str, Process] = {}
        self._watchers = Watchers()
        self._in_threads: set[asyncio.Task[Any]] = set()

    @property
    def addresses(self) -> Addresses:
        """Addresses of all parts, once started."""
        if self._addresses is None:
            raise RuntimeError("the stack was not started")
        return self._addresses

    async def __aenter__(self) -> Self:
        """Starts everything; returns when every part is ready."""
        began = time.monotonic()
        self._data_dir.acquire()
        try:
            await self._start(began)
        except BaseException:
            await self.stop()
            raise
        self.startup_s = time.monotonic() - began
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops everything. Raises StackError when a watcher failed."""
        await self.stop()
        self._watchers.check()

    async def stop(self) -> None:
        """Stops the services, then the servers that they use; idempotent. Returns when every process has ended."""
        await self._watchers.stop()
        await asyncio.gather(*self._in_threads, return_exceptions=True)
        await asyncio.gather(
            *(self._processes[name].stop(_SERVICE_STOP_S) for name in SERVICES if name in self._processes)
        )
        if STRIPE_FAKE in self._processes:
            await self._processes[STRIPE_FAKE].stop(_STRIPE_STOP_S)
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._embedded.values()))
        await self._http.aclose()
        self.remove_stack_file()
        self._data_dir.release()

    def remove_stack_file(self) -> None:
        """Removes the file of addresses and process ids, if this supervisor wrote it."""
        if self._addresses is not None:
            self.layout.stack_file.unlink(missing_ok=True)

    def parts(self) -> list[Part]:
        """Returns all parts: servers first, then the processes that use them."""
        servers = {
            NATS: self.addresses.bus.url,
            POSTGRES: f"{self.addresses.databases.host}:{self.addresses.databases.port}",
        }
        rows = []
        for name, address in servers.items():
            server = self._embedded.get(name)
            rows.append(Part(name, address, server.pid if server else None, server.log if server else None))
        return rows + [
            Part(name, self.addresses.url(name), each.pid, each.log) for name, each in self._processes.items()
        ]

    async def replay(self) -> tuple[int, str, str]:
        """Replays all services in one process while they run; returns exit status, stdout and stderr."""
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *replay_command(SERVICES), stdin=pipe, stdout=pipe, stderr=pipe, env=inherited_environment()
        )
        try:
            output, errors = await child.communicate(replay_input(SERVICES, self.layout, self.addresses).encode())
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        return await child.wait(), output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")

    @property
    def _embedded(self) -> dict[str, Server]:
        return {} if self._servers is None else self._servers.embedded

    async def _start(self, began: float) -> None:
        require_program("setpriv")
        layout, options = self.layout, self._options
        self._options.external.validate()
        if options.stripe is not None:
            options.stripe.validate()
        prepare(layout)
        self.new_key = ensure_operator_key(layout.api_keys, datetime.now(UTC), replace=options.new_key)
        if self.new_key is not None and self._show_key is not None:
            self._show_key(self.new_key)
        ports = choose_ports(layout.ports, options.port_base, self.report)
        self._servers = Servers(options.external, layout, ports)
        catalogue = options.catalogue or (layout.plans if layout.plans.exists() else None)
        addresses = Addresses(
            self._servers.bus,
            self._servers.databases,
            ports,
            catalogue,
            options.blueprints,
            options.offboarding_delay_s,
            options.stripe,
            options.providers,
        )
        self._addresses = addresses
        first = [self._start_bus(began), self._start_databases(began)]
        if options.stripe is None:
            command = stripe_fake_command(layout, addresses)
            fake = Process(STRIPE_FAKE, command, inherited_environment(), layout.log(STRIPE_FAKE))
            self._processes[STRIPE_FAKE] = fake
            first.append(self._start_process(STRIPE_FAKE, began))
        await _all(*first)
        self._processes |= {
            name: Process(name, service_command(name), service_environment(name, layout, addresses), layout.log(name))
            for name in SERVICES
        }
        await _all(*(self._start_process(name, began) for name in SERVICES))
        self._write_stack_file()
        for name, process in self._processes.items():
            self._watchers.start(name, self._restart_process(process))
        for name, server in self._embedded.items():
            self._watchers.start(name, self._restart_server(name, server))
        nats = self._embedded.get(NATS)
        if isinstance(nats, NatsServer):
            self._watchers.start(str(layout.subscribers), self._apply_subscribers(nats))

    async def _start_bus(self, began: float) -> None:
        if NATS in self._embedded:
            await self._in_thread(self._embedded[NATS].start)
        if self._servers is not None:
            await self._servers.prepare_streams()
            write_client_files(self.layout, self._servers.bus)
        self.report(f"{NATS} is ready ({time.monotonic() - began:.1f} s)")

    async def _start_databases(self, began: float) -> None:
        if POSTGRES in self._embedded:
            await self._in_thread(self._embedded[POSTGRES].start)
        if self._servers is not None:
            await self._in_thread(self._servers.prepare_databases)
        self.report(f"{POSTGRES} is ready ({time.monotonic() - began:.1f} s)")

    async def _start_process(self, name: str, began: float) -> None:
        process = self._processes[name]
        await process.start()
        await self._wait_ready(process)
        self.report(f"{name} is ready ({time.monotonic() - began:.1f} s)")

    async def _wait_ready(self, process: Process) -> None:
        """Waits until its health check passes. Raises StackError when it ends or makes no progress."""
        path = "/healthz" if process.name == STRIPE_FAKE else "/readyz"
        began = time.monotonic()
        report_at = began + _REPORT_AFTER_S
        detector = StallDetector(self._options.stall_s, began)
        while (state := await self._state(f"{self.addresses.url(process.name)}{path}")) != "ok":
            if process.pid is None:
                raise StackError(
                    "service_failed",
                    f"{process.name} does not start ({_ending(await process.wait())})",
                    why=process.error_line(),
                    next=f"read {process.log}, correct the cause, and start again",
                )
            now = time.monotonic()
            if detector.stalled(now, partial(self._start_time_s, process, state), state):
                raise StackError(
                    "service_not_ready",
                    f"{process.name} is not ready after {now - began:.0f} s, "
                    f"and made no progress for {self._options.stall_s:.0f} s",
                    why=state,
                    next=f"read {process.log}",
                    kind=FailureKind.TIMEOUT,
                )
            if now > report_at:
                self.report(f"still waiting for {process.name}: {state} ({now - began:.0f} s)")
                report_at = now + _REPORT_EVERY_S
            await asyncio.sleep(_POLL_S)

    def _start_time_s(self, process: Process, state: str) -> float:
        """Returns the processor time of a start: of the process, and of PostgreSQL, in which its migrations run.

        0 for a process that answers: its loops use processor time, also when they only wait for another part.
        """
        database = self._embedded.get(POSTGRES)
        pids = (process.pid, database.pid if database else None) if state.startswith(_NO_ANSWER) else ()
        return sum(processor_time_s(pid) for pid in pids if pid is not None)

    async def _state(self, url: str) -> str:
        """Returns `ok`, or the parts that are not."""
        try:
            health = (await self._http.get(url)).json()
            return ", ".join(not_ready(health)) or str(health["status"])
        except (httpx.HTTPError, ValueError, KeyError, AttributeError) as error:
            return f"{_NO_ANSWER} ({type(error).__name__})"

    async def _restart_process(self, process: Process) -> None:
        """Restarts a process whenever it ends, with a growing delay while it keeps ending early."""
        delay_s = _FIRST_DELAY_S
        while True:
            began = time.monotonic()
            status = await process.wait()
            if time.monotonic() - began > _STABLE_S:
                delay_s = _FIRST_DELAY_S
            why = f": {process.error_line()}" if status > 0 else ""
            self.report(f"{process.name} ended ({_ending(status)}){why}; restarting in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)
            try:
                await process.start()
                await self._wait_ready(process)
                self._write_stack_file()
            except (StackError, EmbeddedError, OSError) as error:
                self.report(f"{process.name} is not ready again: {error}")
            else:
                self.report(f"{process.name} is ready again (pid {process.pid})")

    async def _restart_server(self, name: str, server: Server) -> None:
        """Restarts a server whenever it ends or takes no write; a failed start is retried with a growing delay."""
        delay_s = _CHECK_S
        while True:
            await asyncio.sleep(delay_s)
            stuck = isinstance(server, NatsServer) and await asyncio.to_thread(server.is_stuck)
            if server.running and not stuck:
                continue
            self.report(f"{name} {'takes no write after an error of its disk' if stuck else 'ended'}; restarting")
            try:
                if stuck:
                    await self._in_thread(server.stop)
                await self._in_thread(server.start)
            except EmbeddedError as error:
                delay_s = min(2 * delay_s, _MAX_DELAY_S)
                self.report(f"{error}; retrying in {delay_s:g} s")
            else:
                delay_s = _CHECK_S
                self.report(f"{name} is ready again (pid {server.pid})")

    async def _apply_subscribers(self, nats: NatsServer) -> None:
        """Applies each change of the list of subscribers to the running NATS; what fails is tried again."""
        applied, problem = (0, 0), ""
        while True:
            changed = _version(self.layout.subscribers)
            if changed != applied:
                try:
                    await self._in_thread(nats.reload)
                except EmbeddedError as error:
                    if str(error) != problem:
                        self.report(f"the list of subscribers is not applied: {error}")
                    problem = str(error)
                else:
                    applied, problem = changed, ""
            await asyncio.sleep(_CHECK_S)

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Runs `work` in a thread. A thread cannot be cancelled, so `stop` waits for it."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        self._in_threads.add(task)
        task.add_done_callback(self._in_threads.discard)
        await asyncio.shield(task)

    def _write_stack_file(self) -> None:
        services = {name: {"url": self.addresses.url(name), "pid": self._processes[name].pid} for name in SERVICES}
        content = {
            "version": VERSION,
            "pid": os.getpid(),
            "services": services,
            "nats": {
                "url": self.addresses.bus.url,
                "credentials": str(self.addresses.bus.credentials),
                "embedded": NATS in self._embedded,
            },
            "postgres": {"host": self.addresses.databases.host, "port": self.addresses.databases.port},
        }
        if STRIPE_FAKE in self._processes:
            pid = self._processes[STRIPE_FAKE].pid
            content["stripe_fake"] = {"url": self.addresses.url(STRIPE_FAKE), "pid": pid}
        write_private(self.layout.stack_file, json.dumps(content, indent=2) + "\n")


def _version(path: Path) -> tuple[int, int]:
    """Returns what differs after each replacement of a file: its time, and its inode for two at one time."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all concurrently; the first failure cancels the others and is raised unchanged."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
