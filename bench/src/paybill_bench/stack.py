"""The whole stack as its users start it: `paybill up` on a folder of its own."""

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

from paybill_bench.lab import BenchmarkError

_KEY = re.compile(r"pbk_[A-Za-z0-9]+_[A-Za-z0-9_-]{43}")
_PATIENCE_S = 60.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Up:
    """A stack that is ready. started_s: from the command to that."""

    started_s: float
    parts: Mapping[str, Any]
    operator_key: str


@contextmanager
def up(folder: Path, **environment: str) -> Iterator[Up]:
    """The stack of `folder` for as long as the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "up.log"
    begin = time.monotonic()
    with told.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "paybill_cli", "up", "--data-dir", str(folder)],
            stdout=output,
            stderr=output,
            env=dict(os.environ) | environment,
        )
        try:
            ready = folder / "stack.json"
            while not ready.exists():
                if process.poll() is not None or time.monotonic() - begin > _PATIENCE_S:
                    raise BenchmarkError(f"the stack does not start: {told.read_text(encoding='utf-8')[-300:]}")
                time.sleep(_POLL_S)
            taken = time.monotonic() - begin
            key = _KEY.search(told.read_text(encoding="utf-8"))
            yield Up(taken, json.loads(ready.read_text(encoding="utf-8")), key[0] if key else "")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE_S)
