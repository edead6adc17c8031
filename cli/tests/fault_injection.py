"""Injection of faults into a running stack, by its servers, files and provider, and questions to `paybill why`."""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import httpx
from paybill_cli.client.waiting import Deadline
from paybill_embedded.ports import LOOPBACK, free_port
from paybill_embedded.postgres import SUPERUSER
from paybill_stripe_fake.client import FakeControl

FOUND_WITHIN_S = 120
HTTP = httpx.Client(timeout=10)
WRONG_CLOCK = Path(__file__).parents[2] / "tests-e2e" / "faults" / "wrong_clock.py"


@dataclass(frozen=True)
class Injected:
    """A fault that is in effect. options: of the commands, such as the URL of a replica.

    repair_first: nothing is retried by itself, so the command helps only after the repair. command: a part of the next
    one, when it is not that of the kind.
    """

    tenant: str
    options: tuple[str, ...] = ()
    repair_first: bool = False
    command: str = ""


@dataclass(frozen=True)
class Bed:
    """A running stack, and one random variation of each fault. run: a command as its operator."""

    stack: Any
    run: Callable[..., Any]
    customers: Any
    fake: FakeControl
    random: Random

    def sign_up(self, plan: str = "starter") -> dict[str, Any]:
        """Returns a new tenant before its first payment."""
        return dict(self.customers.sign_up(plan))

    def pay(self, tenant: dict[str, Any]) -> None:
        """Pays at the tenant's checkout."""
        self.customers.pay(tenant["checkout_url"])

    def active(self, plan: str = "starter") -> dict[str, Any]:
        """Returns a new tenant that has paid and is active."""
        tenant = self.sign_up(plan)
        self.pay(tenant)
        self.wait(lambda: self.run("tenant", "show", tenant["slug"], "--json").data["status"] == "active", tenant)
        return tenant

    def account(self, tenant: dict[str, Any]) -> dict[str, Any]:
        """Returns the tenant's account at billing."""
        headers = {"Authorization": f"Bearer {self.stack.key}"}
        found = HTTP.get(f"{self.stack.url('billing')}/v1/tenants/{tenant['id']}/account", headers=headers)
        return dict(found.raise_for_status().json())

    def wait(self, condition: Callable[[], object], about: object) -> None:
        """Returns when the condition holds; fails after a minute."""
        deadline = Deadline(FOUND_WITHIN_S)
        while not condition():
            deadline.pause(str(about))

    def stripe(self, method: str, path: str, **parameters: object) -> dict[str, Any]:
        """Calls the API of the fake as the company would, beside Paybill."""
        sent = {"params" if method == "GET" else "data": parameters}
        done = HTTP.request(method, f"{self.stack.url('stripe_fake')}{path}", headers=self._stripe_headers, **sent)
        return dict(done.raise_for_status().json())

    @property
    def _stripe_headers(self) -> dict[str, str]:
        key = (self.stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
        return {"Authorization": f"Bearer {key}"}

    def price(self, tenant: dict[str, Any]) -> str:
        """Returns the provider's price that the tenant's checkout sells."""
        session = tenant["checkout_url"].rpartition("/")[2]
        return str(self.stripe("GET", f"/v1/checkout/sessions/{session}/line_items")["data"][0]["price"]["id"])

    def sql(self, database: str, *statements: str) -> list[Any]:
        """Runs statements as the superuser; returns the rows of the last one."""

        async def run() -> list[Any]:
            connection = await self._connect(database)
            try:
                return [list(await connection.fetch(statement)) for statement in statements][-1]
            finally:
                await connection.close()

        return asyncio.run(run())

    @contextmanager
    def locked(self, database: str, statement: str) -> Iterator[None]:
        """Holds a lock, in a transaction that stays open while the block runs."""
        with asyncio.Runner() as runner:
            connection = runner.run(self._connect(database))
            try:
                runner.run(connection.execute(f"BEGIN; {statement}"))
                yield
            finally:
                runner.run(connection.close())

    def _connect(self, database: str) -> Any:
        password = (self.stack.data_dir / "credentials" / "postgres-superuser").read_text().strip()
        return asyncpg.connect(
            host=LOOPBACK, port=self.postgres_port, user=SUPERUSER, password=password, database=database
        )

    @property
    def postgres_port(self) -> int:
        """The port of PostgreSQL."""
        return int(self._described["postgres"]["port"])

    @property
    def _described(self) -> dict[str, Any]:
        return dict(json.loads((self.stack.data_dir / "stack.json").read_text()))

    def pid(self, service: str) -> int:
        """Returns the process id of a service."""
        return int(self._described["services"][service]["pid"])

    def restart(self, service: str) -> None:
        """Ends a service, and returns when its next process, which reads files and settings again, is ready."""
        before = self.pid(service)
        os.kill(before, signal.SIGTERM)
        self.wait(lambda: self.pid(service) != before, service)

    def occupied(self, port: int) -> AbstractContextManager[socket.socket]:
        """Takes a port that has just become free, without accepting connections."""
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound() -> bool:
            try:
                taken.bind((LOOPBACK, port))
            except OSError:
                return False
            return True

        end = time.monotonic() + 60
        while not bound():
            assert time.monotonic() < end, f"port {port} does not become free"
            time.sleep(0.005)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # else the next server could bind it, too
        return taken

    @contextmanager
    def replica_with_wrong_clock(self, service: str, skew_s: int) -> Iterator[str]:
        """Runs a second process of a service; yields its URL."""
        variables = Path(f"/proc/{self.pid(service)}/environ").read_bytes().decode().split("\0")
        environment = dict(each.split("=", 1) for each in variables if each)
        port = free_port()
        log = self.stack.data_dir / "logs" / f"{service}-wrong-clock.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                [sys.executable, "-P", str(WRONG_CLOCK), service, str(skew_s)],
                env=environment | {"PAYBILL_HTTP_PORT": str(port)},
                stdout=output,
                stderr=output,
            ) as process,
        ):
            try:
                url = f"http://{LOOPBACK}:{port}"
                self.wait(lambda: process.poll() is not None or _is_ready(url), log)
                assert process.poll() is None, log.read_text()
                yield url
            finally:
                process.terminate()

    def why(self, injected: Injected) -> Any:
        """Asks for the causes of the tenant's state."""
        return self.run("why", injected.tenant, "--json", *injected.options)

    def why_when(self, injected: Injected, kind: str) -> Any:
        """Returns the explanation as soon as `kind` is the root cause."""
        deadline = Deadline(FOUND_WITHIN_S)
        while (kinds(done := self.why(injected)) or [""])[0] != kind:
            deadline.pause(f"{injected.tenant} has {kinds(done)}, not {kind}: {done.out}{done.err}")
        return done

    def wait_without(self, injected: Injected, kind: str) -> None:
        """Returns when `kind` is no cause any more."""
        deadline = Deadline(FOUND_WITHIN_S)
        while kind in kinds(done := self.why(injected)):
            deadline.pause(f"{injected.tenant} still has {kind}: {done.data['headline']}")

    def run_next(self, done: Any, injected: Injected) -> Any:
        """Runs the command that an explanation names."""
        words = shlex.split(done.data["next"])[1:]
        return self.run(*words, *injected.options, *(["--yes"] if "offboard" in words else []))


def kinds(done: Any) -> list[str]:
    """Returns the kinds of the causes, the root cause first."""
    return [cause["kind"] for cause in done.data["causes"]]


def _is_ready(url: str) -> bool:
    try:
        return HTTP.get(f"{url}/readyz").json()["status"] == "ok"
    except httpx.HTTPError:
        return False


Inject = Callable[[Bed], AbstractContextManager[Injected]]


@dataclass(frozen=True)
class Fault:
    """A kind of fault. cause: that must be first. command: a part of the next one. exit_code: of that command.

    inject: a context manager, whose end repairs the fault.
    """

    inject: Inject
    cause: str
    command: str
    exit_code: int = 0

    @property
    def name(self) -> str:
        """Name of the kind."""
        return str(getattr(self.inject, "__name__", self.cause))


@dataclass
class Record:
    """Seconds until the right cause was first, by fault."""

    found_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, fault: Fault, seconds: float) -> None:
        """Adds a measurement."""
        self.found_s.setdefault(fault.name, []).append(seconds)

    def lines(self) -> Sequence[str]:
        """Returns a line for each fault."""
        return [
            f"{name}: {len(each)} found, after {sorted(each)[len(each) // 2]:.1f} s (longest {max(each):.1f} s)"
            for name, each in self.found_s.items()
        ]
