"""`paybill up` as a person runs it: a process that is started, read, interrupted and killed."""

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
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from paybill_embedded import EmbeddedError, NatsServer, PostgresServer
from paybill_stack import supervisor
from paybill_stack.supervisor import Options, Supervisor

STARTS_WITHIN_S = 60
SERVICES = ("tenant", "billing", "provisioner")


class Up:
    """A `paybill up` and all that it started."""

    def __init__(self, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paybill_cli", "up", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.family = []

    def ready(self):
        """What it prints when all is ready: with --json one object."""
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=STARTS_WITHIN_S)[1]
        self.family = _descendants(self.process.pid)
        return json.loads(line)["data"]

    def said_until(self, words):
        """Its talk up to the line that holds `words`."""
        lines = []
        while not lines or words not in lines[-1]:
            lines.append(self.process.stderr.readline())
            assert lines[-1], f"it ended without saying {words!r}: {lines}"
        return lines

    def end(self, number=signal.SIGTERM):
        """Its exit code after the signal, once all its processes are gone."""
        self.process.send_signal(number)
        self.process.communicate(timeout=STARTS_WITHIN_S)
        assert _gone(self.family), "processes are left"
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
    """Exit code and error of an `up` that cannot start."""
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


def _descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def eventually(true: Callable[[], bool], within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


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


def test_a_stack_says_where_it_runs_and_survives_a_restart(tmp_path):
    data_dir = tmp_path / "data"
    with up("--json", "--data-dir", data_dir) as first:
        stack = first.ready()
        written = json.loads((data_dir / "stack.json").read_text())
        key = stack["operator_key"]
        allowed = _status(stack, "/v1/tenants", key)
        denied = _status(stack, "/v1/tenants", key[:-1] + "~")
        code = first.end(signal.SIGINT)
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


def test_a_killed_service_is_started_again_and_a_killed_supervisor_takes_everything_along(tmp_path):
    with up("--json", "--data-dir", tmp_path) as run:
        stack = run.ready()
        pid = _part(stack, "billing")["pid"]
        os.kill(pid, signal.SIGKILL)
        ended = run.said_until("billing ended")[-1]
        run.said_until("billing is ready again")
        nats = _part(stack, "nats")["pid"]
        os.kill(nats, signal.SIGKILL)
        run.said_until("nats is ready again")
        written = json.loads((tmp_path / "stack.json").read_text())
        code, error = refused("--data-dir", tmp_path)
        family = _descendants(run.process.pid)
        run.process.kill()
        nobody_left = _gone(family)
    with up("--json", "--data-dir", tmp_path) as after_the_crash:
        after_the_crash.ready()
        after_the_crash.end()

    assert "killed by SIGKILL" in ended
    assert written["services"]["billing"]["pid"] not in {pid, None}
    assert (code, error["code"]) == (6, "data_dir_in_use")
    assert str(run.process.pid) in error["what"]
    assert len(family) > 6
    assert nobody_left


class Reluctant:
    """A server that was killed, and is killed again while it starts."""

    def __init__(self, times):
        self.times = times
        self.tries = 0
        self.pid = None

    @property
    def running(self):
        return self.tries > self.times

    def start(self):
        self.tries += 1
        if not self.running:
            raise EmbeddedError("postgres_failed", "PostgreSQL ended with status -9", "read its log")


async def test_a_server_that_is_killed_while_it_starts_is_tried_again_soon_then_later_and_later(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_WATCH_S", 0.01)
    said = []
    ready = asyncio.Event()

    def tell(line):
        said.append(line)
        if "ready again" in line:
            ready.set()

    server = Reluctant(3)
    keeping = asyncio.create_task(Supervisor(Options(tmp_path), tell)._keep_server("postgres", server))
    async with asyncio.timeout(5):
        await ready.wait()
    keeping.cancel()

    assert server.tries == 4
    assert [line.rpartition(" in ")[2] for line in said if "tried again" in line] == ["0.02 s", "0.04 s", "0.08 s"]


def test_a_service_that_cannot_start_is_named_with_the_reason(tmp_path):
    plans = tmp_path / "plans.yaml"
    plans.write_text("product: x\nplans: []\n")

    code, error = refused("--data-dir", tmp_path / "data", "--catalogue", plans)

    assert (code, error["code"]) == (1, "service_failed")
    assert "billing does not start" in error["what"]
    assert "plans.yaml:2" in error["why"]
    assert "billing.log" in error["next"]
    assert not (tmp_path / "data" / "stack.json").exists()


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = refused("--data-dir", tmp_path, "--port-base", min(port, 65_000))

    assert (code, error["code"]) == (1, "port_taken")
    assert refused("--data-dir", tmp_path, "--port-base", 80)[0] == 2


def test_a_data_directory_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")

    code, error = refused("--data-dir", tmp_path / "file" / "data")

    assert (code, error["code"]) == (1, "data_dir_unwritable")
    assert "--data-dir" in error["next"]


def test_servers_of_somebody_else_replace_the_embedded_ones(tmp_path):
    theirs, data_dir = tmp_path / "theirs", tmp_path / "data"
    with NatsServer(theirs) as nats, PostgresServer(theirs) as postgres:
        url = postgres.url("postgres")
        given = ("--nats-url", nats.url, "--nats-credentials-dir", theirs / "credentials", "--database-url", url)
        password_file = str(postgres.password_file("postgres"))
        with up("--json", "--data-dir", data_dir, *given, PAYBILL_DATABASE_PASSWORD_FILE=password_file) as run:
            stack = run.ready()
            status = _status(stack, "/v1/tenants", stack["operator_key"])
            code = run.end()
        embedded = [name for name in ("nats", "postgres") if (data_dir / name).exists()]
        alone, error = refused("--data-dir", data_dir, "--nats-url", nats.url)
        stranger, said = refused("--data-dir", data_dir, "--database-url", url)
        leaking, _ = refused("--data-dir", data_dir, "--database-url", url.replace("postgres@", "postgres:secret@"))
    nobody, unreachable = refused("--data-dir", data_dir, *given[:4])

    assert (status, code) == (200, 0)
    assert not embedded
    assert (alone, leaking, nobody) == (2, 2, 10)
    assert "--nats-credentials-dir" in error["what"]
    assert (stranger, said["code"]) == (5, "database_unusable")
    assert unreachable["code"] == "nats_unreachable"


def test_a_pipe_gets_plain_rows_and_a_second_ctrl_c_ends_everything_at_once(tmp_path):
    with up("--data-dir", tmp_path) as run:
        talk = run.said_until("ready after")
        family = _descendants(run.process.pid)
        run.process.send_signal(signal.SIGINT)
        talk += run.said_until("Ctrl-C again")
        began = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        output, _ = run.process.communicate(timeout=STARTS_WITHIN_S)
        took_s = time.monotonic() - began
        nobody_left = _gone(family)
    rows = output.splitlines()

    assert rows[0] == "name\taddress\tpid\tlog"
    assert [row.split("\t")[0] for row in rows[1:7]] == ["nats", "postgres", "stripe-fake", *SERVICES]
    assert rows[7].startswith("export PAYBILL_API_KEY=pbk_")
    assert "\x1b" not in output + "".join(talk)
    assert (run.process.returncode, nobody_left) == (130, True)
    assert took_s < 1
