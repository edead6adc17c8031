"""Runs a service and records when it calls named functions: `python call_recorder.py NAMES OUTPUT MODULE [ARG ...]`.

NAMES holds one `module.qualified_name` a line, or `*` for every function of Paybill. OUTPUT receives one line per call:
CLOCK_MONOTONIC in nanoseconds, a space, the name.
"""

import runpy
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any


class CallRecorder:
    """Profile function that writes calls of the named functions to a file."""

    def __init__(self, names: set[str], output: Path) -> None:
        self._names = names
        self._output = output.open("a", buffering=1, encoding="utf-8")
        self._known: dict[CodeType, str] = {}

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Records one event of `sys.setprofile`."""
        if event != "call":
            return
        code = frame.f_code
        name = self._known.get(code)
        if name is None:
            module = frame.f_globals.get("__name__", "")
            name = f"{module}.{code.co_qualname}".replace(".<locals>", "")
            if name not in self._names and not (self._names == {"*"} and name.startswith("paybill_")):
                name = ""
            self._known[code] = name
        if name:
            self._output.write(f"{time.monotonic_ns()} {name}\n")


if __name__ == "__main__":
    names, output, module, *arguments = sys.argv[1:]
    recorder = CallRecorder(set(Path(names).read_text(encoding="utf-8").split()), Path(output))
    sys.argv = [module, *arguments]
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    runpy.run_module(module, run_name="__main__")
