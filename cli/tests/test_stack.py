"""Tests of `paybill up` as a process that is started, read, interrupted and killed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from paybill_bench.process_statistics import ENDED, process_tree
from paybill_embedded import EmbeddedError, NatsServer, PostgresServer
from paybill_runtime.http.auth import KeyRing
from paybill_stack import supervisor
from paybill_stack.layout import Layout
from paybill_stack.supervisor import Options, Supervisor

pytestmark = pytest.mark.e2e

STARTS_WITHIN_S = 60
SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")


class Up:
    """A `paybill up` and its child processes."""

    def __init__(self, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paybill_cli", "up", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.descendants = []

    def ready(self):
        """Returns the object that it prints when the stack is ready."""
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=STARTS_WITHIN_S)[1]
        self.descendants = process_tree(self.process.pid)[1:]
        return json.loads(line)["data"]

    def messages_until(self, text):
        """Returns its messages up to the line that contains `text`."""
        lines = []
        while not lines or text not in lines[-1]:
            lines.append(self.process.stderr.readline())
            assert lines[-1], f"it ended without the message {text!r}: {lines}"
        return lines

    def end(self, number=signal.SIGTERM):
        """Sends the signal; returns the exit code once all its processes have ended."""
        self.process.send_signal(number)
        self.process.communicate(timeout=STARTS_WITHIN_S)
        assert _gone(self.descendants), "processes still run"
        return self.process.returncode


@contextmanager
def up(*arguments, **environment) -> Iterator[Up]:
    run = Up(*arguments, **environment)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


def refused(*arguments):
    """Returns exit code and error of an `up` that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "paybill_cli", "up", "--json", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=STARTS_WITHIN_S,
    )
    assert not done.stdout
    error = json.loads(done.stderr.splitlines()[-1])["data"]
    assert error["next"]
    return done.returncode, error


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ENDED:
        return False


def eventually(condition: Callable[[], bool], within_s: float = 60) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def _gone(pids):
    return eventually(lambda: not any(map(_lives, pids)))


def _part(stack, name):
    return next(part for part in stack["parts"] if part["name"] == name)


def _status(stack, path, key):
    request = Request(_part(stack, "tenant")["address"] + path, headers={"Authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urlopen(request, timeout=5) as answer:  # noqa: S310
            return answer.status
    except HTTPError as error:
        return error.code


def test_a_stack_prints_its_addresses_and_keeps_them_over_a_restart(tmp_path):
    data_dir = tmp_path / "data"
    with up("--json", "--data-dir", data_dir) as first:
        stack = first.ready()
        written = json.loads((data_dir / "stack.json").read_text())
        key = stack["operator_key"]
        allowed = _status(stack, "/v1/tenants", key)
        denied = _status(stack, "/v1/tenants", key[:-1] + "~")
        code = first.end(signal.SIGINT)
    (data_dir / "plans.yaml").write_text("not a catalogue, and not read any more")
    with up("--json", "--data-dir", data_dir) as second:
        again = second.ready()
        still_allowed = _status(again, "/v1/tenants", key)
        second.end()

    assert [part["name"] for part in stack["parts"]] == ["nats", "postgres", "stripe-fake", *SERVICES]
    assert {name: each["url"] for name, each in written["services"].items()} == {
        name: _part(stack, name)["address"] for name in SERVICES
    }
    assert (written["version"], written["pid"]) == (1, first.process.pid)
    assert (allowed, denied, still_allowed, code) == (200, 401, 200, 0)
    assert "operator_key" not in again
    assert [part["address"] for part in again["parts"]] == [part["address"] for part in stack["parts"]]
    assert not (data_dir / "stack.json").exists()


def test_a_killed_service_is_restarted_and_a_killed_supervisor_ends_all_processes(tmp_path):
    with up("--json", "--data-dir", tmp_path) as run:
        stack = run.ready()
        pid = _part(stack, "billing")["pid"]
        os.kill(pid, signal.SIGKILL)
        ended = run.messages_until("billing ended")[-1]
        run.messages_until("billing is ready again")
        nats = _part(stack, "nats")["pid"]
        os.kill(nats, signal.SIGKILL)
        run.messages_until("nats is ready again")
        written = json.loads((tmp_path / "stack.json").read_text())
        code, error = refused("--data-dir", tmp_path)
        descendants = process_tree(run.process.pid)[1:]
        run.process.kill()
        all_ended = _gone(descendants)
    with up("--json", "--data-dir", tmp_path) as after_the_crash:
        after_the_crash.ready()
        after_the_crash.end()

    assert "killed by SIGKILL" in ended
    assert written["services"]["billing"]["pid"] not in {pid, None}
    assert (code, error["code"]) == (6, "data_dir_in_use")
    assert str(run.process.pid) in error["what"]
    assert len(descendants) > 6
    assert all_ended


class FailingServer:
    """A server that was killed, and whose first starts fail."""

    def __init__(self, failures):
        self.failures = failures
        self.starts = 0
        self.pid = None

    @property
    def running(self):
        return self.starts > self.failures

    def start(self):
        self.starts += 1
        if not self.running:
            raise EmbeddedError("postgres_failed", "PostgreSQL ended with status -9", "read its log")


async def test_a_server_whose_start_fails_is_retried_with_growing_delay(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_CHECK_S", 0.01)
    messages = []
    ready = asyncio.Event()

    def report(line):
        messages.append(line)
        if "ready again" in line:
            ready.set()

    server = FailingServer(3)
    restarting = asyncio.create_task(Supervisor(Options(tmp_path), report)._restart_server("postgres", server))
    async with asyncio.timeout(60):
        await ready.wait()
    restarting.cancel()

    assert server.starts == 4
    assert [line.rpartition(" in ")[2] for line in messages if "retrying" in line] == ["0.02 s", "0.04 s", "0.08 s"]


def test_a_watcher_that_fails_stops_the_stack_with_the_reason(tmp_path):
    with up("--json", "--data-dir", tmp_path) as run:
        run.ready()
        subscribers = Layout(tmp_path).subscribers
        subscribers.unlink(missing_ok=True)
        subscribers.symlink_to(subscribers)  # cannot be read: "Too many levels of symbolic links"

        _, messages = run.process.communicate(timeout=STARTS_WITHIN_S)

    error = json.loads(messages.splitlines()[-1])["data"]
    assert run.process.returncode == 1
    assert (error["code"], error["what"]) == (
        "watcher_failed",
        f"{subscribers} is no longer watched, so the stack was stopped",
    )
    assert error["why"].startswith("OSError: ")
    assert _gone(run.descendants)


def _unknown_provider(folder: Path) -> list[str]:
    """Returns the option with which billing does not start: no installed package has this provider."""
    (folder / "gold.json").write_text("{}")
    return ["--provider", f"gold={folder / 'gold.json'}"]


def test_a_service_that_cannot_start_is_named_with_the_reason(tmp_path):
    code, error = refused("--data-dir", tmp_path / "data", *_unknown_provider(tmp_path))

    assert (code, error["code"]) == (1, "service_failed")
    assert "billing does not start" in error["what"]
    assert "no installed package provides it" in error["why"]
    assert "billing.log" in error["next"]
    assert not (tmp_path / "data" / "stack.json").exists()


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_the_operators_key_is_printed_even_when_the_start_fails(tmp_path, options):
    command = [*options, "--data-dir", tmp_path / "data", *_unknown_provider(tmp_path)]

    with up(*command) as run:
        output, messages = run.process.communicate(timeout=STARTS_WITHIN_S)

    printed = json.loads(messages.splitlines()[2])["data"]["operator_key"] if options else output.strip()
    key = printed.removeprefix("export PAYBILL_API_KEY=")
    assert run.process.returncode == 1
    assert KeyRing(tmp_path / "data" / "api-keys.json").find(key, datetime.now(UTC)).name == "operator"


def test_a_named_port_that_is_taken_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = refused("--data-dir", tmp_path, "--port-base", min(port, 65_000))

    assert (code, error["code"]) == (1, "port_taken")
    assert refused("--data-dir", tmp_path, "--port-base", 80)[0] == 2


def test_an_unwritable_data_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")

    code, error = refused("--data-dir", tmp_path / "file" / "data")

    assert (code, error["code"]) == (1, "data_dir_unwritable")
    assert "--data-dir" in error["next"]


def test_external_servers_replace_the_embedded_ones(tmp_path):
    external, data_dir = tmp_path / "external", tmp_path / "data"
    with NatsServer(external) as nats, PostgresServer(external) as postgres:
        url = postgres.url("postgres")
        credentials = external / "credentials"
        (credentials / "nats-steward").write_text(nats.password("steward"))
        options = ("--nats-url", nats.url, "--nats-credentials-dir", credentials, "--database-url", url)
        password_file = str(postgres.password_file("postgres"))
        with up("--json", "--data-dir", data_dir, *options, PAYBILL_DATABASE_PASSWORD_FILE=password_file) as run:
            stack = run.ready()
            status = _status(stack, "/v1/tenants", stack["operator_key"])
            code = run.end()
        embedded = [name for name in ("nats", "postgres") if (data_dir / name).exists()]
        alone, error = refused("--data-dir", data_dir, "--nats-url", nats.url)
        denied, denied_error = refused("--data-dir", data_dir, "--database-url", url)
        leaking, _ = refused("--data-dir", data_dir, "--database-url", url.replace("postgres@", "postgres:secret@"))
    stopped, unreachable = refused("--data-dir", data_dir, *options[:4])

    assert (status, code) == (200, 0)
    assert not embedded
    assert (alone, leaking, stopped) == (2, 2, 10)
    assert "--nats-credentials-dir" in error["what"]
    assert (denied, denied_error["code"]) == (5, "database_unusable")
    assert unreachable["code"] == "nats_unreachable"


def test_a_pipe_gets_plain_rows_and_a_second_ctrl_c_ends_all_processes(tmp_path):
    with up("--data-dir", tmp_path) as run:
        messages = run.messages_until("ready after")
        descendants = process_tree(run.process.pid)[1:]
        run.process.send_signal(signal.SIGINT)
        messages += run.messages_until("Ctrl-C again")
        began = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        output, _ = run.process.communicate(timeout=STARTS_WITHIN_S)
        took_s = time.monotonic() - began
        all_ended = _gone(descendants)
    rows = output.splitlines()

    assert rows[0].startswith("export PAYBILL_API_KEY=pbk_")
    assert rows[1] == "name\taddress\tpid\tlog"
    assert [row.split("\t")[0] for row in rows[2:]] == ["nats", "postgres", "stripe-fake", *SERVICES]
    assert "\x1b" not in output + "".join(messages)
    assert (run.process.returncode, all_ended) == (130, True)
    assert took_s < 5
