"""`python -m paybill_bench [NAME]`: prints progress on stderr, and a JSON record on stdout after each benchmark."""

import asyncio
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from paybill_bench.figures import BENCHMARKS, Measure, benchmark, load_warning, machine
from paybill_bench.servers import BenchmarkError


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


async def measure_each(
    names: Iterable[str], emit: Callable[[dict[str, Any]], None], find: Callable[[str], Measure] = benchmark
) -> bool:
    """Runs the benchmarks and emits a record after each; returns whether all completed.

    A record is {benchmark, machine, figures}, or {benchmark, machine, error}: a failure does not end the others.
    """
    complete = True
    for name in names:
        _report(f"{name}: {BENCHMARKS.get(name, '')}")
        environment = machine()
        if warning := load_warning(environment):
            _report(warning)
        record: dict[str, Any] = {"benchmark": name, "machine": environment}
        try:
            record["figures"] = [figure.as_dict() for figure in await find(name)(_report)]
        except Exception as error:  # noqa: BLE001  # recorded and shown; figures of the others are not lost
            complete = False
            cause = _cause(error)
            record["error"] = str(cause) or type(cause).__name__
            _report(record["error"] if isinstance(cause, BenchmarkError) else traceback.format_exc())
        emit(record)
    return complete


def _cause(error: Exception) -> Exception:
    """Returns the first error of a group of tasks, or the error itself."""
    return _cause(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


async def _run(name: str) -> int:
    # `paybill bench` blocks SIGINT while modules load. It stays blocked until the event loop handles it: an interrupt
    # inside the constructor of the loop leaves an object whose destructor prints a traceback.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    await asyncio.sleep(0)  # ends here if an interrupt arrived before
    if name not in {"all", *BENCHMARKS}:
        _print({"benchmark": name, "unknown": True, "error": f"one of {', '.join(BENCHMARKS)}"})
        return 1
    return 0 if await measure_each(BENCHMARKS if name == "all" else (name,), _print) else 1


def main(arguments: list[str]) -> int:
    """Runs one benchmark or all; returns the exit code."""
    try:
        return asyncio.run(_run(arguments[0] if arguments else "all"))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
