"""Tests of a start of the stack that is slow, or hangs."""

import os
import signal
import threading
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import pytest
from paybill_bench.process_statistics import ENDED
from paybill_stack import supervisor
from paybill_stack.errors import StackError
from paybill_stack.layout import SERVICES
from paybill_stack.supervisor import Options, Supervisor

pytestmark = pytest.mark.e2e


def _services():
    """Returns the process ids of the services that this process has started; the stack of the session is no child."""
    names = {f"paybill_{name.replace('-', '_')}" for name in SERVICES}
    found = []
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    for pid in map(int, chain.from_iterable(children)):
        with suppress(*ENDED):
            if names & set(Path(f"/proc/{pid}/cmdline").read_text().split("\0")):
                found.append(pid)
    return found


@contextmanager
def slowed(pause_s, run_s, for_s=60):
    """Stops the services for `pause_s`, lets them run for `run_s`, and so on for `for_s` or until the block ends."""
    ended = threading.Event()

    def slow():
        pauses = 0
        while not ended.wait(run_s) and pauses * (pause_s + run_s) < for_s:
            if not (stopped := _services()):
                continue
            pauses += 1
            _send(stopped, signal.SIGSTOP)
            ended.wait(pause_s)
            _send(stopped, signal.SIGCONT)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _send(pids, number):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def test_a_start_that_takes_longer_than_the_limit_is_awaited_while_it_makes_progress(tmp_path):
    keys, messages = [], []
    with slowed(pause_s=0.12, run_s=0.015, for_s=8):
        async with Supervisor(Options(tmp_path, stall_s=5), messages.append, keys.append) as stack:
            startup_s, new_key = stack.startup_s, stack.new_key

    assert startup_s > 5
    assert keys == [new_key]
    assert any(line.startswith("still waiting for ") for line in messages)


async def test_a_start_without_progress_ends_with_the_reason(tmp_path):
    keys = []
    with slowed(pause_s=4, run_s=0.05), pytest.raises(StackError) as raised:
        async with Supervisor(Options(tmp_path, stall_s=1), lambda _: None, keys.append):
            pass

    assert raised.value.code == "service_not_ready"
    assert "made no progress for 1 s" in raised.value.message
    assert len(keys) == 1


async def test_services_that_hang_for_ever_are_named_while_they_are_awaited(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_REPORT_AFTER_S", 1)
    monkeypatch.setattr(supervisor, "_SERVICE_STOP_S", 1)
    messages = []
    with slowed(pause_s=60, run_s=0.05), pytest.raises(StackError) as raised:
        async with Supervisor(Options(tmp_path, stall_s=3), messages.append):
            pass

    waited = [line for line in messages if line.startswith("still waiting for ")]
    assert {line.split()[3].rstrip(":") for line in waited} == set(SERVICES)
    assert raised.value.code == "service_not_ready"
    assert raised.value.message.split()[0] in SERVICES
