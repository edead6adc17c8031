"""Servers end with the process that started them, and not earlier."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from paybill_embedded import NatsServer, PostgresServer
from paybill_embedded.child import Child, tied_to_us
from paybill_embedded.lock import sole_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")


def _parent(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a separate Python process in its own session that runs `program`."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


START_BOTH = """
    import pathlib, signal, sys, time
    from paybill_embedded import NatsServer, PostgresServer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data = pathlib.Path(sys.argv[1])
    nats, postgres = NatsServer(data).start(), PostgresServer(data).start()
    print(nats.pid, postgres.pid, flush=True)
    time.sleep(60)
"""


def _lives(pid):
    """Returns whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _alive(pids):
    return [pid for pid in pids if _lives(pid)]


def _all_gone(pids, within_s=60):
    deadline = time.monotonic() + within_s
    while _alive(pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _alive(pids)


def _with_children(pid):
    """Returns `pid` and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.mark.e2e
def test_no_server_outlives_a_parent_that_was_killed(tmp_path):
    with _parent(START_BOTH, str(tmp_path)) as parent:
        nats, postgres = map(int, parent.stdout.readline().split())
        family = [nats, *_with_children(postgres)]
        assert len(_alive(family)) > 3
        parent.kill()

    assert _all_gone(family)
    with NatsServer(tmp_path), PostgresServer(tmp_path):
        pass


@pytest.mark.e2e
def test_a_killed_parent_can_be_replaced_at_once_on_the_same_data(tmp_path):
    for _ in range(3):
        with _parent(START_BOTH, str(tmp_path)) as parent:
            parent.stdout.readline()
            parent.kill()
    with PostgresServer(tmp_path) as server:
        assert server.running


@pytest.mark.e2e
def test_a_parent_that_exits_ends_its_servers(tmp_path):
    with _parent(START_BOTH.replace("time.sleep(60)", ""), str(tmp_path)) as parent:
        pids = list(map(int, parent.stdout.readline().split()))

    assert _all_gone(pids)


@pytest.mark.e2e
def test_ctrl_c_in_the_terminal_reaches_only_the_parent(tmp_path):
    with _parent(START_BOTH, str(tmp_path)) as parent:
        pids = list(map(int, parent.stdout.readline().split()))
        os.killpg(parent.pid, signal.SIGINT)
        time.sleep(0.2)
        left = _alive(pids)
        parent.kill()

    assert left == pids
    assert _all_gone(pids)


def test_a_server_outlives_the_thread_that_started_it(tmp_path):
    server = NatsServer(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    time.sleep(0.1)

    assert server.running
    server.stop()


def test_a_child_whose_parent_died_before_prctl_does_not_start(tmp_path):
    command = tied_to_us(["touch", str(tmp_path / "started")], signal.SIGKILL)
    subprocess.run(command, check=True)
    assert (tmp_path / "started").exists()
    (tmp_path / "started").unlink()
    subprocess.run(["sh", "-c", '"$@"; true', "a parent between us", *command], check=True)

    assert not (tmp_path / "started").exists()


def _run(folder, command):
    with sole_server(folder / "server") as lock:
        return Child(command, folder / "logs" / "server.log", lock)


FORK = """
    import os, pathlib, signal, sys
    from paybill_embedded import NatsServer
    first = NatsServer(pathlib.Path(sys.argv[1], "first")).start()
    forked = os.fork()
    if forked == 0:
        signal.alarm(10)
        with NatsServer(pathlib.Path(sys.argv[1], "second")) as second:
            os._exit(7 if second.running else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]), first.running)
    first.stop()
"""


def test_a_forked_process_can_start_servers(tmp_path):
    with _parent(FORK, str(tmp_path)) as parent:
        assert parent.stdout.readline() == "7 True\n"


def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    child = _run(tmp_path, ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
    assert child.wait_until(lambda: "ready" in child.output(), 5)
    child.stop((signal.SIGTERM, 0.1))

    assert child.exit_status == -signal.SIGKILL


def test_no_environment_variable_reaches_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c fsync=off")
    child = _run(tmp_path, ["env"])
    child.wait()

    assert "PGOPTIONS" not in child.output()
    assert "LC_ALL=C" in child.output()
