"""What cuts the power stops what it is to stop, and waits for nothing else."""

import subprocess
import sys

from power import hold, with_children


def test_a_child_that_has_ended_does_not_keep_a_cut_waiting() -> None:
    program = """if True:
        import os, subprocess, time
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
        print(child.pid, flush=True)
        time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        try:
            hold([parent.pid])

            assert child in with_children(parent.pid)
        finally:
            parent.kill()
