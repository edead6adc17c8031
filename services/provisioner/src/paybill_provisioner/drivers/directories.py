"""Private directories that survive a power failure."""

import errno
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from paybill_runtime.jobs.kinds import RetryAfter

_TRANSIENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a disk that is full, or that the operating system has made read-only."""


@asynccontextmanager
async def waits_for_disk() -> AsyncIterator[None]:
    """Turns the error of a disk without room into a wait. It is also a decorator of async functions."""
    try:
        yield
    except OSError as error:
        if error.errno not in _TRANSIENT:
            raise
        raise RetryAfter(None, f"the disk of the driver refuses: {error.strerror} ({error.filename})") from error


def make_private(base: Path, *names: str) -> Path:
    """Creates `base` and the nested directories `names` with mode 0700 where missing, and returns the last one."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = base
    for name in names:
        directory /= name
        if not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)
            sync(directory.parent)
    return directory


def sync(directory: Path) -> None:
    """Writes the entries of `directory` to disk (fsync)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(directory: Path) -> None:
    """Removes a directory with everything in it, and its parent's entry from disk. Idempotent."""
    if directory.exists():
        shutil.rmtree(directory)
        sync(directory.parent)
