"""Free space on the disks of a data directory."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system with a folder of the data directory."""

    folder: Path
    free_bytes: int


def fullest_disk(data_dir: Path) -> Disk | None:
    """Returns the disk with the least free space: folders of the directory may be on disks of their own.

    None when the directory does not exist on this machine.
    """
    if not data_dir.exists():
        return None
    folders = [data_dir, *sorted(each for each in data_dir.iterdir() if each.is_dir())]
    by_device = {each.stat().st_dev: each for each in reversed(folders)}
    disks = [Disk(folder, shutil.disk_usage(folder).free) for folder in by_device.values()]
    return min(disks, key=lambda disk: disk.free_bytes)
