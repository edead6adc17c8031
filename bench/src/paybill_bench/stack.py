"""The whole stack as users start it: `paybill up` on a new folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paybill_bench.deadlines import StallDetector
from paybill_bench.servers import BenchmarkError

_KEY = re.compile(r"pbk_[A-Za-z0-9]+_[A-Za-z0-9_-]{43}")
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A running stack. started_s: time from the command until it was ready."""

    started_s: float
    parts: Mapping[str, Any]
    operator_key: str


@contextmanager
def up(folder: Path, **environment: str) -> Iterator[RunningStack]:
    """Runs the stack of `folder` until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "up.log"
    begin = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "paybill_cli", "up", "--data-dir", str(folder)],
            stdout=output,
            stderr=output,
            env=dict(os.environ) | environment,
        )
        try:
            ready, progress = folder / "stack.json", StallDetector()
            while not ready.exists():
                if process.poll() is not None or progress.stalled(_logged_bytes(folder)):
                    raise BenchmarkError(f"the stack did not start: {log.read_text(encoding='utf-8')[-300:]}")
                time.sleep(_POLL_S)
            started_s = time.monotonic() - begin
            key = _KEY.search(log.read_text(encoding="utf-8"))
            yield RunningStack(started_s, json.loads(ready.read_text(encoding="utf-8")), key[0] if key else "")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_TIMEOUT_S)


def _logged_bytes(folder: Path) -> int:
    """Returns the size of all logs of a stack, which grow while it starts."""
    return sum(path.stat().st_size for path in (folder / "up.log", *(folder / "logs").glob("*")))
