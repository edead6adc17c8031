"""One of our own programs as a child process that never outlives us, and what its log says when it fails."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from paybill_embedded.child import tied_to_us
from paybill_embedded.credentials import private_dir
from paybill_embedded.errors import writing

LOG_LIMIT_BYTES = 10 * 1024 * 1024
_TAIL_BYTES = 32 * 1024
_LONGEST_GIST = 300

# `ValueError: no`, `configuration: no`: how tracebacks and our own programs end. A library may add lines behind it.
_ERROR = re.compile(r"[A-Za-z_][\w.-]*: ")


class Process:
    """A program that can be started again and again. `log` (0600) gets its output, and begins anew above 10 MB."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it. Call this from the main thread: the kernel ends it with the thread that started it."""
        descriptor = self._open_log()
        try:
            self._log_start = os.fstat(descriptor).st_size
            self._process = await asyncio.create_subprocess_exec(
                *tied_to_us(self._command, signal.SIGKILL),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal goes to us alone, and we stop it
            )
        finally:
            os.close(descriptor)

    async def ended(self) -> int:
        """The exit status, once it has ended; negative for the signal that ended it."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self, patience_s: float) -> None:
        """End it in an orderly way, and after `patience_s` in any way. Returns when it is gone."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), patience_s)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def gist(self) -> str:
        """The one line of this run's output that tells most about why it failed."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - _TAIL_BYTES))
            return gist(file.read().decode("utf-8", "replace"))

    def _open_log(self) -> int:
        private_dir(self.log.parent)
        with writing(self.log):
            if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
                self.log.unlink()
            return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def gist(output: str) -> str:
    """The line that tells most: the last that looks like an error, else the last logged error, else the last line."""
    error, logged, last = "", "", ""
    for line in filter(None, map(str.strip, output.splitlines())):
        entry = _entry(line)
        if entry is None:
            last = line
            error = line if _ERROR.match(line) else error
            continue
        last = str(entry.get("message", ""))
        if entry.get("level") in {"error", "critical"}:
            cause = str(entry.get("error", "")).strip().rpartition("\n")[2]
            logged = ": ".join(filter(None, (last, cause)))
    return (error or logged or last or "it wrote nothing")[:_LONGEST_GIST]


def _entry(line: str) -> dict[str, object] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
