"""A disk whose power can be cut: an ext4 file system in a file.

Its page cache is not in the file, so a copy of the file, taken while the server that writes there stands still, is the
disk that a machine without power would come back with.
"""

import os
import signal
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
    """An ext4 file system in a file. Its journal is committed when somebody calls fsync, and not by the clock."""

    def __init__(self, folder: Path, name: str) -> None:
        self.place, self._image, self._copy = (folder / f"{name}{end}" for end in ("", ".img", ".copy"))
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", "-N", 8192, "-E", "lazy_itable_init=0", self._image)

    def mount(self) -> None:
        """The kernel frees the loop device by itself as soon as it is unmounted."""
        run("mount", "-t", "ext4", "-o", "loop,noatime,commit=300", self._image, self.place)

    def unmount(self) -> None:
        deadline = time.monotonic() + 5
        while os.path.ismount(self.place):
            try:
                run("umount", self.place)
            except OSError:  # a process on its way out still has a file open
                if time.monotonic() > deadline:
                    run("umount", "--lazy", self.place)
                    raise
                time.sleep(0.02)

    def keep_what_reached_it(self) -> None:
        """Copy the device as it is at one instant: again, if anything was written to it meanwhile."""
        before = None
        while before != (now := self._writes()):
            before = now
            run("cp", "--sparse=always", self._image, self._copy)

    def lose_the_rest(self) -> None:
        self.unmount()
        self._copy.rename(self._image)
        self.mount()

    def _writes(self) -> list[str]:
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        device = next(device for device, place, *_ in mounts if place == str(self.place))
        numbers = Path(f"/sys/class/block/{Path(device).name}/stat").read_text().split()
        return [numbers[4], numbers[8]]  # done and under way, by the kernel's Documentation/block/stat.rst


def with_children(pid: int) -> list[int]:
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def hold(pids: list[int]) -> None:
    """Stop these processes and their children; returns when no thread of theirs runs, or writes, any more."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # before its children, so that it starts no others
        for each in with_children(pid)[1:]:
            os.kill(each, signal.SIGSTOP)
    threads = [thread for pid in pids for each in with_children(pid) for thread in Path(f"/proc/{each}/task").iterdir()]
    deadline = time.monotonic() + 10
    while any(_moves(thread) for thread in threads):
        if time.monotonic() > deadline:
            raise TimeoutError(f"these do not stand still: {[str(thread) for thread in threads if _moves(thread)]}")
        time.sleep(0.001)


def _moves(thread: Path) -> bool:
    """Neither stopped nor gone. A child that ended just before stays a zombie: its parent stands still, too."""
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"T", "Z", "X"}
