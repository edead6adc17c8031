"""The data directory, held by one process at a time."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from paybill_embedded.errors import EmbeddedError, writing


class DataDir:
    """The folder with all state of `paybill up`.

    The lock is the kernel's and ends with the process, so one that a crash left behind holds nobody up. Children do
    not inherit it. The file only says who holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> Self:
        """Make the folder (0700) if need be and lock it.

        Raises EmbeddedError: data_dir_unwritable, data_dir_in_use.
        """
        with writing(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise EmbeddedError(
                "data_dir_in_use",
                f"the data directory {self.path} is in use by process {holder}",
                f"stop that one first (kill {holder}) or choose another with --data-dir",
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        self._lock = lock
        return self

    def release(self) -> None:
        """Let others have it; the file stays, for removing it would let two processes lock two files."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
