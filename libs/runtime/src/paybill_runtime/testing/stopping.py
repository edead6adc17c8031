"""Stops processes with SIGSTOP, and waits until the kernel has stopped each of their threads."""

import os
import signal
import time
from pathlib import Path


def with_children(pid: int) -> list[int]:
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def stop_processes(pids: list[int]) -> None:
    """Stops these processes and their children; returns when none of their threads runs or writes any more."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # before its children, so that it starts no others
        for each in with_children(pid)[1:]:
            os.kill(each, signal.SIGSTOP)
    threads = [thread for pid in pids for each in with_children(pid) for thread in Path(f"/proc/{each}/task").iterdir()]
    deadline = time.monotonic() + 10
    while any(_is_running(thread) for thread in threads):
        if time.monotonic() > deadline:
            raise TimeoutError(f"these were not stopped: {[str(thread) for thread in threads if _is_running(thread)]}")
        time.sleep(0.001)


def _is_running(thread: Path) -> bool:
    """Returns whether a thread is neither stopped nor ended. An ended child of a stopped parent stays a zombie."""
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"T", "Z", "X"}
