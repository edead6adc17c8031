"""Starts every part of the stack, waits until all are ready, starts again what dies, and stops everything."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_embedded import DataDir, EmbeddedError
from paybill_embedded.child import require_program
from paybill_embedded.credentials import write_private

from paybill_stack.environment import (
    Addresses,
    inherited,
    service_command,
    service_environment,
    stripe_fake_command,
)
from paybill_stack.layout import SERVICES, STRIPE_FAKE, Layout
from paybill_stack.operator_key import operator_key
from paybill_stack.ports import NATS, POSTGRES, choose_ports
from paybill_stack.prepare import prepare
from paybill_stack.process import Process
from paybill_stack.servers import Given, Server, Servers

VERSION = 1
"""Of stack.json: a field may be added within a version, never removed or changed."""

_READY_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 5.0
_POLL_S = 0.03
_SAY_AFTER_S = 5.0
_SERVICE_STOP_S, _STRIPE_STOP_S = 10.0, 6.0
_WATCH_S = 0.5
_FIRST_DELAY_S, _LONGEST_DELAY_S, _STEADY_S = 0.5, 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the person at the keyboard decides. new_key: make another operator's key and end the old one."""

    data_dir: Path
    given: Given = field(default_factory=Given)
    catalogue: Path | None = None
    blueprints: Path | None = None
    port_base: int | None = None
    new_key: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the table of what runs where. Without pid and log it is not ours."""

    name: str
    address: str
    pid: int | None
    log: Path | None


class Supervisor:
    """The stack, as children of this process. Use `async with`, in the main thread.

    tell: is given a line for each thing worth knowing. new_key: the operator's key, if it was made just now.
    Raises CliError and EmbeddedError when it cannot start.
    """

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self.layout = Layout(options.data_dir.absolute())
        self.tell = tell
        self.new_key: str | None = None
        self.took_s = 0.0
        self._options = options
        self._data_dir = DataDir(options.data_dir)
        self._servers: Servers | None = None
        self._at: Addresses | None = None
        self._http = httpx.AsyncClient(trust_env=False, timeout=_ANSWER_TIMEOUT_S)
        self._processes: dict[str, Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._in_threads: set[asyncio.Task[Any]] = set()

    @property
    def at(self) -> Addresses:
        """Where everything is, once it was started."""
        if self._at is None:
            raise RuntimeError("the stack was not started")
        return self._at

    async def __aenter__(self) -> Self:
        """Start everything; returns when every part is ready."""
        began = time.monotonic()
        self._data_dir.acquire()
        try:
            await self._start(began)
        except BaseException:
            await self.stop()
            raise
        self.took_s = time.monotonic() - began
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        await self.stop()

    async def stop(self) -> None:
        """Services first, then what they use; returns when every process is gone. Doing it twice is no error."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, *self._in_threads, return_exceptions=True)
        self._keepers.clear()
        await asyncio.gather(*(self._processes[name].stop(_SERVICE_STOP_S) for name in SERVICES if self._processes))
        if self._processes:
            await self._processes[STRIPE_FAKE].stop(_STRIPE_STOP_S)
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._embedded.values()))
        await self._http.aclose()
        self.forget()
        self._data_dir.release()

    def forget(self) -> None:
        """Remove the file that says what runs where, if it is ours."""
        if self._at is not None:
            self.layout.stack_file.unlink(missing_ok=True)

    def parts(self) -> list[Part]:
        """What runs where: what is used first, then who uses it."""
        given = {NATS: self.at.bus.url, POSTGRES: f"{self.at.databases.host}:{self.at.databases.port}"}
        rows = []
        for name, address in given.items():
            server = self._embedded.get(name)
            rows.append(Part(name, address, server.pid if server else None, server.log if server else None))
        return rows + [Part(name, self.at.url(name), each.pid, each.log) for name, each in self._processes.items()]

    async def run(self, service: str, *arguments: str) -> tuple[int, str, str]:
        """Run a sub-command of a service beside it; exit status, output, and what it said besides."""
        command = service_command(service, *arguments)
        environment = service_environment(service, self.layout, self.at)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
        try:
            output, said = await child.communicate()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        return await child.wait(), output.decode("utf-8", "replace"), said.decode("utf-8", "replace")

    @property
    def _embedded(self) -> dict[str, Server]:
        return {} if self._servers is None else self._servers.embedded

    async def _start(self, began: float) -> None:
        require_program("setpriv")
        layout, options = self.layout, self._options
        self._options.given.check()
        prepare(layout)
        self.new_key = operator_key(layout.api_keys, datetime.now(UTC), new=options.new_key)
        ports = choose_ports(layout.ports, options.port_base, self.tell)
        self._servers = Servers(options.given, layout, ports)
        catalogue = options.catalogue or (layout.plans if layout.plans.exists() else None)
        at = Addresses(self._servers.bus, self._servers.databases, ports, catalogue, options.blueprints)
        self._at = at
        self._processes = {
            STRIPE_FAKE: Process(STRIPE_FAKE, stripe_fake_command(layout, at), inherited(), layout.log(STRIPE_FAKE)),
            **{
                name: Process(name, service_command(name), service_environment(name, layout, at), layout.log(name))
                for name in SERVICES
            },
        }
        await _all(self._bus_up(began), self._databases_up(began), self._up(STRIPE_FAKE, began))
        await _all(*(self._up(name, began) for name in SERVICES))
        self._write_stack_file()
        self._keepers = [asyncio.create_task(self._keep(process)) for process in self._processes.values()]
        self._keepers += [asyncio.create_task(self._keep_server(*each)) for each in self._embedded.items()]

    async def _bus_up(self, began: float) -> None:
        if NATS in self._embedded:
            await self._in_thread(self._embedded[NATS].start)
        if self._servers is not None:
            await self._servers.prepare_streams()
        self.tell(f"{NATS} is ready ({time.monotonic() - began:.1f} s)")

    async def _databases_up(self, began: float) -> None:
        if POSTGRES in self._embedded:
            await self._in_thread(self._embedded[POSTGRES].start)
        if self._servers is not None:
            await self._in_thread(self._servers.prepare_databases)
        self.tell(f"{POSTGRES} is ready ({time.monotonic() - began:.1f} s)")

    async def _up(self, name: str, began: float) -> None:
        process = self._processes[name]
        await process.start()
        await self._ready(process)
        self.tell(f"{name} is ready ({time.monotonic() - began:.1f} s)")

    async def _ready(self, process: Process) -> None:
        """Wait until it says so itself. Raises CliError when it ended, or does not in time."""
        path = "/healthz" if process.name == STRIPE_FAKE else "/readyz"
        began = time.monotonic()
        said = False
        while (state := await self._state(f"{self.at.url(process.name)}{path}")) != "ok":
            if process.pid is None:
                raise CliError(
                    "service_failed",
                    f"{process.name} does not start ({_how(await process.ended())})",
                    why=process.gist(),
                    next=f"read {process.log}, mend what it says, and start again",
                )
            waited_s = time.monotonic() - began
            if waited_s > _READY_TIMEOUT_S:
                raise CliError(
                    "service_not_ready",
                    f"{process.name} is not ready after {waited_s:.0f} s",
                    why=state,
                    next=f"read {process.log}",
                    exit_code=ExitCode.TIMEOUT,
                )
            if waited_s > _SAY_AFTER_S and not said:
                self.tell(f"still waiting for {process.name}: {state}")
                said = True
            await asyncio.sleep(_POLL_S)

    async def _state(self, url: str) -> str:
        """`ok`, or what is not."""
        try:
            answer = (await self._http.get(url)).json()
            wrong = [f"{name} is {state}" for name, state in answer.get("checks", {}).items() if state != "ok"]
            return ", ".join(wrong) or str(answer["status"])
        except (httpx.HTTPError, ValueError, KeyError, AttributeError) as error:
            return f"no answer yet ({type(error).__name__})"

    async def _keep(self, process: Process) -> None:
        """Start it again whenever it ends, later and later while it does not last."""
        delay_s = _FIRST_DELAY_S
        while True:
            began = time.monotonic()
            status = await process.ended()
            if time.monotonic() - began > _STEADY_S:
                delay_s = _FIRST_DELAY_S
            why = f": {process.gist()}" if status > 0 else ""
            self.tell(f"{process.name} ended ({_how(status)}){why}; it is started again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            await process.start()
            try:
                await self._ready(process)
            except CliError as error:
                self.tell(error.what)
            else:
                self.tell(f"{process.name} is ready again (pid {process.pid})")
                self._write_stack_file()

    async def _keep_server(self, name: str, server: Server) -> None:
        """Start it again whenever it ends. One that ends while it starts is tried again soon, then later and later."""
        delay_s = _WATCH_S
        while True:
            await asyncio.sleep(delay_s)
            if server.running:
                continue
            self.tell(f"{name} ended; it is started again")
            try:
                await self._in_thread(server.start)
            except EmbeddedError as error:
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
                self.tell(f"{error}; it is tried again in {delay_s:g} s")
            else:
                delay_s = _WATCH_S
                self.tell(f"{name} is ready again (pid {server.pid})")

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """A thread cannot be cancelled: `stop` waits for what was begun."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        self._in_threads.add(task)
        task.add_done_callback(self._in_threads.discard)
        await asyncio.shield(task)

    def _write_stack_file(self) -> None:
        services = {name: {"url": self.at.url(name), "pid": self._processes[name].pid} for name in SERVICES}
        content = {
            "version": VERSION,
            "pid": os.getpid(),
            "services": services,
            "nats": {"url": self.at.bus.url, "credentials": str(self.at.bus.credentials)},
            "postgres": {"host": self.at.databases.host, "port": self.at.databases.port},
            "stripe_fake": {"url": self.at.url(STRIPE_FAKE), "pid": self._processes[STRIPE_FAKE].pid},
        }
        write_private(self.layout.stack_file, json.dumps(content, indent=2) + "\n")


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """All at once; the first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
