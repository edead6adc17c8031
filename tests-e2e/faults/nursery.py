"""Starts processes of services in a tenth of a second: one process has imported everything, and forks.

Each would otherwise spend a second of one core on imports, and a run that kills hundreds would measure nothing else.
"""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parents[1]
PRELOADED = ("paybill_tenant.app", "paybill_billing.app", "paybill_provisioner.app", "faults.probe")
_PR_SET_PDEATHSIG = 1


class Fork:
    """A process that the nursery made."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    @property
    def state(self) -> str:
        """As in /proc: `R`, `S` and so on, `T` when it is stopped; empty when it has ended."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def signal(self, number: signal.Signals) -> bool:
        """Whether it was there to get it."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    async def ended(self, timeout_s: float) -> None:
        """Return when it is gone; TimeoutError when it is not in time."""
        async with asyncio.timeout(timeout_s):
            while self.state:  # noqa: ASYNC110  # what it waits for is in /proc
                await asyncio.sleep(0.02)


class Nursery:
    """Makes processes; use `with`. They all end with the block, however it ends. log_dir: a file for each."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._made = 0

    def __enter__(self) -> Self:
        self._log_dir.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults", "nursery"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test, which ends this in its own time
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Fork:
        """A process that does what `python -m faults` does with these arguments, in exactly this environment."""
        self._made += 1
        log = self._log_dir / f"{self._made:03d}-{arguments[0]}.log"
        wish = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        asking, telling = self._process.stdin, self._process.stdout
        assert asking is not None
        assert telling is not None
        asking.write(json.dumps(wish).encode() + b"\n")
        asking.flush()
        answer = telling.readline()
        if not answer:
            raise RuntimeError("the nursery has ended; its output says why")
        return Fork(int(answer), log)


def serve(run: Callable[[Sequence[str]], None]) -> None:
    """Fork for each line of the standard input, until it ends."""
    for name in PRELOADED:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        wish = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be(wish, run)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _be(wish: dict[str, Any], run: Callable[[Sequence[str]], None]) -> None:
    """The life of a child: it never returns."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))  # none outlives the nursery
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(str(wish["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(wish["environment"])
        run(wish["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:  # noqa: BLE001  # whatever it is, its log says it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
