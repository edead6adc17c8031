"""Fixtures: the command in this process, and one real stack for the whole run."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from paybill_cli.main import main
from paybill_stripe_fake.client import FakeControl

# Tests are imported by path, and not as a package: this makes their samples importable.
sys.path.append(str(Path(__file__).parent))


@dataclass(frozen=True)
class Done:
    """Result of a command."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Data of its only JSON envelope."""
        return json.loads(self.out)["data"]

    @property
    def rows(self) -> list[list[str]]:
        """Its tab separated rows, without the header."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]

    @property
    def error(self) -> dict[str, Any]:
        """Error of a command with --json."""
        envelope = json.loads(self.err.splitlines()[-1])
        assert (envelope["version"], envelope["kind"]) == (1, "error")
        return dict(envelope["data"])


Run = Callable[..., Done]


@pytest.fixture
def paybill(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in this process, with additional environment variables, and no context of an earlier command."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    for name in [name for name in os.environ if name.startswith("PAYBILL_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object, **environment: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name, value in environment.items():
                patch.setenv(name, value)
            code = copy_context().run(main, [str(argument) for argument in arguments])
        return Done(code, out.getvalue(), err.getvalue())

    return run


@dataclass(frozen=True)
class RealStack:
    """A running stack, and the key of its operator."""

    data_dir: Path
    key: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the messages of `paybill up` name."""
        return {"PAYBILL_DATA_DIR": str(self.data_dir), "PAYBILL_API_KEY": self.key}

    def url(self, service: str) -> str:
        """Returns the address of a service."""
        written = json.loads((self.data_dir / "stack.json").read_text())
        return str((written["services"] | {"stripe_fake": written["stripe_fake"]})[service]["url"])


@pytest.fixture(scope="session")
def run_stack() -> Callable[..., AbstractContextManager[RealStack]]:
    """Returns `run_stack(data_dir, *arguments)`, for modules that need a stack of their own."""
    return _running_stack


@pytest.fixture(scope="session")
def real_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    """Runs `paybill up` once for the whole session."""
    with _running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@contextmanager
def _running_stack(data_dir: Path, *arguments: object) -> Iterator[RealStack]:
    """Runs `paybill up` with these arguments while the block runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYBILL_")}
    command = [sys.executable, "-m", "paybill_cli", "up", "--json", "--data-dir", str(data_dir), *map(str, arguments)]
    with (
        (data_dir / "messages").open("w") as messages,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (data_dir / "messages").read_text()
        try:
            yield RealStack(data_dir, json.loads(line)["data"].get("operator_key", ""))
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture
def on_stack(paybill: Run, real_stack: RealStack) -> Run:
    """Runs a command on the real stack, as its operator."""

    def run(*arguments: object, **environment: str) -> Done:
        return paybill(*arguments, **(real_stack.environment | environment))

    return run


class Customers:
    """Creates tenants on the real stack, and pays for them."""

    def __init__(self, on_stack: Run, stack: RealStack) -> None:
        self._run = on_stack
        self._stack = stack

    def sign_up(self, plan: str = "starter") -> dict[str, Any]:
        """Returns a new tenant before its first payment."""
        slug = f"t{next(_numbers)}"
        done = self._run(*create(slug, plan=plan), "--json")
        assert done.code == 0, done.err
        return dict(done.data)

    def pay(self, checkout_url: str) -> None:
        """Pays like the customer at the checkout."""
        with self.fake() as fake:
            fake.pay_checkout(checkout_url.rpartition("/")[2])

    def fake(self) -> FakeControl:
        """Returns a control of the Stripe fake."""
        key = (self._stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
        return FakeControl(self._stack.url("stripe_fake"), key)


_numbers = count(1)


def create(slug: str, plan: str = "starter", region: str = "eu-central") -> list[str]:
    """Returns the arguments that request a tenant."""
    return ["tenant", "create", slug, "--plan", plan, "--region", region, "--email", "ops@acme.example"]


@pytest.fixture
def customers(on_stack: Run, real_stack: RealStack) -> Customers:
    """Signs up tenants on the real stack."""
    return Customers(on_stack, real_stack)
