"""Kernel locks: one `paybill up` per data directory, one server per folder in it, one writer of a file.

The kernel releases a lock when the processes that hold it end, so a crash leaves no stale lock. The files at most name
the holder, and are never removed: otherwise two processes could hold locks on two files of one name.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from paybill_embedded.errors import EmbeddedError, writing

_LEFTOVER_TIMEOUT_S = 2.0


class DataDir:
    """The folder with all state of `paybill up`, locked by this process; its children do not inherit the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> Self:
        """Creates the folder (0700) if it does not exist, and locks it.

        Raises EmbeddedError: data_dir_unwritable, data_dir_in_use.
        """
        with writing(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            lock = _open(self.path / "lock")
        if not _locked(lock):
            holder = _holder(lock)
            os.close(lock)
            raise EmbeddedError(
                "data_dir_in_use",
                f"the data directory {self.path} is in use by process {holder}",
                f"stop it first (kill {holder}) or choose another with --data-dir",
            )
        name_holder(lock, os.getpid())
        self._lock = lock
        return self

    def release(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def sole_server(home: Path) -> Iterator[int]:
    """Returns the lock of the server with its data in `home`, as a descriptor that the server inherits.

    Two servers on one folder destroy its data. All processes of a server share the descriptor, so the lock is held
    until the last of them has ended, also when the first was killed. Waits for a server that is stopping.
    Raises EmbeddedError: <name of home>_running, and data_dir_unwritable for any OSError of the block.
    """
    with writing(home):
        lock = _open(home.with_name(f"{home.name}.lock"))
        try:
            deadline = time.monotonic() + _LEFTOVER_TIMEOUT_S
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"{home.name}_running",
                        f"another server (process {_holder(lock)}) works on {home}",
                        f"stop it (kill {_holder(lock)}) or choose another data directory",
                    )
                time.sleep(0.02)
            yield lock
        finally:
            os.close(lock)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Excludes other processes and threads that change `path`, and waits for them; the lock is a file beside it."""
    with writing(path.parent):
        lock = _open(path.with_name(f"{path.name}.lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def name_holder(lock: int, pid: int) -> None:
    """Writes the holder's process id into the lock file."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{pid}\n".encode("ascii"), 0)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> str:
    return os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
