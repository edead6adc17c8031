"""Simulated power cuts: an ext4 file system in a file.

Its page cache is not in the file, so a copy of the file, taken while the writing server is stopped, equals the disk of
a
machine after a power cut.
"""

import os
import subprocess
import time
from pathlib import Path

DISK_BYTES = 2 * 1024**3
"""Sparse; the stream INTAKE reserves half of it."""


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.returncode}")


class Disk:
    """An ext4 file system in a file. Its journal is committed on fsync only, not by a timer."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self._image, self._copy = (folder / f"{name}{end}" for end in ("", ".img", ".copy"))
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", "-N", 8192, "-E", "lazy_itable_init=0", self._image)

    def mount(self) -> None:
        """Mounts the disk; the kernel frees the loop device when it is unmounted."""
        run("mount", "-t", "ext4", "-o", "loop,noatime,commit=300", self._image, self.path)

    def unmount(self) -> None:
        deadline = time.monotonic() + 5
        while os.path.ismount(self.path):
            try:
                run("umount", self.path)
            except OSError:  # an ending process still has a file open
                if time.monotonic() > deadline:
                    run("umount", "--lazy", self.path)
                    raise
                time.sleep(0.02)

    def take_snapshot(self) -> None:
        """Copies the device at one instant: repeats the copy if anything was written meanwhile."""
        before = None
        while before != (now := self._writes()):
            before = now
            run("cp", "--sparse=always", self._image, self._copy)

    def restore_snapshot(self) -> None:
        self.unmount()
        self._copy.rename(self._image)
        self.mount()

    def _writes(self) -> list[str]:
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        device = next(device for device, path, *_ in mounts if path == str(self.path))
        numbers = Path(f"/sys/class/block/{Path(device).name}/stat").read_text().split()
        return [numbers[4], numbers[8]]  # completed and in flight, by the kernel's Documentation/block/stat.rst
