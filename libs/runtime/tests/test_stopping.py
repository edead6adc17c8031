"""Stopping stops the given processes, and does not wait for others."""

import subprocess
import sys

from paybill_runtime.testing import stop_processes
from paybill_runtime.testing.stopping import with_children


def test_a_zombie_child_does_not_delay_the_stop() -> None:
    program = """if True:
        import os, subprocess, time
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not collected yet
        print(child.pid, flush=True)
        time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        try:
            stop_processes([parent.pid])

            assert child in with_children(parent.pid)
        finally:
            parent.kill()
