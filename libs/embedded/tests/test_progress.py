"""Slow starts are told apart from starts that are stuck."""

import os
import subprocess
import sys
import time

import pytest
from paybill_embedded.progress import StallDetector, processor_time_s


def test_a_start_that_uses_the_processor_is_not_stalled() -> None:
    detector = StallDetector(60, began=0)

    assert not any(detector.stalled(now, lambda now=now: now / 60) for now in range(600))


def test_a_start_that_only_waits_is_stalled_after_the_limit() -> None:
    detector = StallDetector(60, began=0)

    stalled_at = next(now for now in range(600) if detector.stalled(now, lambda now=now: now / 200))
    assert stalled_at == 61


def test_a_new_state_is_progress_and_a_repeated_one_is_not() -> None:
    detector = StallDetector(60, began=0)
    states = {50: "relay has stopped", 100: "PostgreSQL is unreachable"}

    found = [now for now in range(200) if detector.stalled(now, float, states.get(now, "no answer yet"))]
    assert found[0] == 161


@pytest.mark.skipif(sys.platform != "linux", reason="processor times are read from /proc")
def test_the_processor_time_of_a_process_includes_that_of_its_children() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as process:
        deadline = time.monotonic() + 20
        while processor_time_s(process.pid) < 0.5 and time.monotonic() < deadline:
            time.sleep(0.02)
        used_s = processor_time_s(process.pid)
        os.killpg(process.pid, 9)

    assert used_s >= 0.5
    assert processor_time_s(process.pid) == 0
