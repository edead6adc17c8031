"""Private directories that survive a power failure."""

import os
import shutil
from pathlib import Path


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
