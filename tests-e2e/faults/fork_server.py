"""Fork server: starts processes of services in a tenth of a second by forking a process that has imported everything.

Imports cost each process a second of one core, which would dominate a run that kills hundreds.
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
PRELOADED = (
    "paybill_tenant.app",
    "paybill_billing.app",
    "paybill_provisioner.app",
    "paybill_agent_gateway.app",
    "faults.probe",
)
_PR_SET_PDEATHSIG = 1


class ForkedProcess:
    """A process started by the fork server."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    @property
    def state(self) -> str:
        """Returns the state in /proc: `R`, `S` and so on, `T` when it is stopped; empty when it has ended."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def signal(self, number: signal.Signals) -> bool:
        """Returns whether the process existed to receive the signal."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    async def ended(self, timeout_s: float) -> None:
        """Returns when the process has ended; raises TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while self.state:  # noqa: ASYNC110  # the condition is in /proc
                await asyncio.sleep(0.02)


class ForkServer:
    """Starts processes inside a `with` block; all of them end with the block. log_dir: holds one file for each."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._started = 0

    def __enter__(self) -> Self:
        self._log_dir.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults", "fork-server"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test, which ends this process itself
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> ForkedProcess:
        """Starts a process of `python -m faults` with these arguments, in exactly this environment."""
        self._started += 1
        log = self._log_dir / f"{self._started:03d}-{arguments[0]}.log"
        request = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()
        reply = replies.readline()
        if not reply:
            raise RuntimeError("the fork server has ended; see its output")
        return ForkedProcess(int(reply), log)


def serve(run: Callable[[Sequence[str]], None]) -> None:
    """Forks for each line of standard input, until it ends."""
    for name in PRELOADED:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_child(request, run)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _run_child(request: dict[str, Any], run: Callable[[Sequence[str]], None]) -> None:
    """Runs the child process; never returns."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))  # no child outlives the fork server
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(str(request["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        run(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:  # noqa: BLE001  # its log has the traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
