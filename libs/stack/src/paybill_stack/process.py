"""Runs one of our programs as a child process that never outlives this process, and finds the error in its log."""

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
_MAX_ERROR_LENGTH = 300

# `ValueError: no`, `configuration: no`: the form of last lines of tracebacks and of our own programs.
_ERROR = re.compile(r"[A-Za-z_][\w.-]*: ")


class Process:
    """A program that can be started repeatedly. `log` (0600) gets its output, and is replaced above 10 MB."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it. Call this from the main thread: the kernel ends the child with the thread that started it."""
        descriptor = self._open_log()
        try:
            self._log_start = os.fstat(descriptor).st_size
            self._process = await asyncio.create_subprocess_exec(
                *tied_to_us(self._command, signal.SIGKILL),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which stops the child
            )
        finally:
            os.close(descriptor)

    async def wait(self) -> int:
        """Waits for its end and returns the exit status; negative for the signal that ended it."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self, timeout_s: float) -> None:
        """Terminates it, and kills it after `timeout_s`. Returns when it has ended."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def error_line(self) -> str:
        """Returns the line of this run's output that most likely names the error."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - _TAIL_BYTES))
                return error_line(file.read().decode("utf-8", "replace"))
        except OSError as error:
            return f"its log cannot be read: {error}"

    def _open_log(self) -> int:
        private_dir(self.log.parent)
        with writing(self.log):
            if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
                self.log.unlink()
            return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def error_line(output: str) -> str:
    """Returns the last line that is formed like an error, else the last logged error, else the last line."""
    error, logged, last = "", "", ""
    for line in filter(None, map(str.strip, output.splitlines())):
        entry = _log_entry(line)
        if entry is None:
            last = line
            error = line if _ERROR.match(line) else error
            continue
        last = str(entry.get("message", ""))
        if entry.get("level") in {"error", "critical"}:
            cause = str(entry.get("error", "")).strip().rpartition("\n")[2]
            logged = ": ".join(filter(None, (last, cause)))
    return (error or logged or last or "it wrote nothing")[:_MAX_ERROR_LENGTH]


def _log_entry(line: str) -> dict[str, object] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
