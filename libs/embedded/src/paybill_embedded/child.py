"""A server process that is our direct child and never outlives us."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paybill_embedded.credentials import private_dir
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.lock import name_holder

_LOG_LIMIT_BYTES = 10 * 1024 * 1024
_POLL_S = 0.005

# Nothing of our environment reaches the servers: PGPORT, PGOPTIONS or GOFLAGS of a developer would change what they do.
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

# The kernel sends the parent-death signal when the *thread* that forked ends, so all children are started by one
# thread that lives as long as the process does.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-starter")


def _renew_starter() -> None:
    """A forked copy of this process has no starter thread; give it its own."""
    global _starter  # noqa: PLW0603 - one starter per process, and a fork is a new process
    _starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-starter")


os.register_at_fork(after_in_child=_renew_starter)


def tied_to_us(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """`command`, made to get `death_signal` when this process dies, however it dies.

    setpriv asks the kernel for it after the fork, so no Python code runs between fork and exec (unsafe with threads).
    The shell ends the race with a parent that died before that: its child then has another parent. Both exec, so the
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

    log: where its output goes (0600), begun anew at a start that finds it above 10 MB. lock: the descriptor of
    `lock.sole_server`, which the server and its own children keep open.
    """

    def __init__(self, command: Sequence[str], log: Path, lock: int) -> None:
        private_dir(log.parent)
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.unlink()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self._log = log
            self._log_start = os.fstat(descriptor).st_size
            self._process = _starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=(lock,),
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in a terminal goes to us alone, and we stop the child
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
        """None while it runs; else the exit status, negative for the signal that ended it."""
        return self._process.poll()

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self._process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `ready` came true before the process ended or the time was over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.exit_status is not None:
                return False
            if ready():
                return True
            time.sleep(_POLL_S)
        return False

    def stop(self, *signals: tuple[signal.Signals, float]) -> None:
        """End it: each signal is given its seconds to work, then the next; at last SIGKILL. Returns when it is gone."""
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
        """What this run has written so far, at most the last 16 KiB."""
        with self._log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - 16 * 1024))
            return file.read().decode("utf-8", "replace")
