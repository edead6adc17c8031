"""Folders for our eyes only, that are still there after a power cut."""

import os
from pathlib import Path


def make_private(base: Path, *names: str) -> Path:
    """`base` and one folder in another below it, each 0700 when it is made here; the last one."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = base
    for name in names:
        folder /= name
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            sync(folder.parent)
    return folder


def sync(folder: Path) -> None:
    """Return when the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
