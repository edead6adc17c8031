"""Server processes that are direct children of this process and never outlive it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from paybill_embedded.credentials import private_dir
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.lock import name_holder
from paybill_embedded.progress import StallDetector, processor_time_s

_LOG_LIMIT_BYTES = 10 * 1024 * 1024
_POLL_S = 0.005

# No variable of this process reaches the servers: PGPORT, PGOPTIONS or GOFLAGS of a developer would change their
# behaviour.
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

# The kernel sends the parent-death signal when the *thread* that forked ends. So one thread starts all children, and it
# runs as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-starter")


def _renew_starter() -> None:
    """A forked copy of this process has no starter thread; this creates one."""
    global _starter  # noqa: PLW0603 - one starter per process, and a fork is a new process
    _starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-starter")


os.register_at_fork(after_in_child=_renew_starter)


def tied_to_us(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """Wraps `command` so that it gets `death_signal` when this process dies for any reason.

    setpriv requests the signal after the fork, so no Python code runs between fork and exec (unsafe with threads).
    The shell covers a parent that died before that: the child then has another parent, and exits. Both exec, so the
    process id stays the server's.
    """
    if sys.platform != "linux":
        return list(command)
    setpriv = ["setpriv", "--pdeathsig", signal.Signals(death_signal).name.removeprefix("SIG"), "--"]
    return [*setpriv, "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()), *command]


def require_program(name: str) -> None:
    """Raises program_missing when `name`, part of every Debian, is not on PATH."""
    if shutil.which(name, path=ENVIRONMENT["PATH"]) is None:
        raise EmbeddedError(
            "program_missing", f"the program {name} is not on PATH", "install the package util-linux and start again"
        )


class Child:
    """One run of a server.

    log: file of its output (0600), truncated at a start that finds it above 10 MB. lock: the descriptor of
    `lock.sole_server`, which the server and its own children keep open. log_start: where the output of this run begins.
    """

    def __init__(self, command: Sequence[str], log: Path, lock: int) -> None:
        private_dir(log.parent)
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.unlink()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self._log = log
            self.log_start = os.fstat(descriptor).st_size
            self._process = _starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=(lock,),
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which stops the child
            ).result()
            name_holder(lock, self._process.pid)
        finally:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Returns None while it runs; else the exit status, negative for the signal that ended it."""
        return self._process.poll()

    def wait(self) -> int:
        """Waits for the process to end; returns its exit status."""
        return self._process.wait()

    def wait_until(self, ready: Callable[[], bool], stall_s: float) -> bool:
        """Returns whether `ready` came true before the process ended, or made no progress for `stall_s`."""
        detector = StallDetector(stall_s, time.monotonic())
        processor_s = partial(processor_time_s, self.pid)
        while not detector.stalled(time.monotonic(), processor_s):
            if self.exit_status is not None:
                return False
            if ready():
                return True
            time.sleep(_POLL_S)
        return False

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if the process still runs."""
        self._process.send_signal(number)

    def stop(self, *signals: tuple[signal.Signals, float]) -> None:
        """Sends each signal in turn and waits its seconds; finally SIGKILL. Returns when the process has ended."""
        for number, patience_s in signals:
            if self.exit_status is not None:
                return
            self._process.send_signal(number)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        self._process.kill()
        self._process.wait()

    def output(self) -> str:
        """Returns the output of this run, at most the last 16 KiB."""
        with self._log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_start, end - 16 * 1024))
            return file.read().decode("utf-8", "replace")
