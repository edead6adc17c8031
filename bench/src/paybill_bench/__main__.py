"""`python -m paybill_bench [NAME]`: measures, prints progress on stderr and one JSON document on stdout."""

import asyncio
import json
import signal
import sys
from typing import Any

from paybill_bench.figures import BENCHMARKS, benchmark, machine
from paybill_bench.servers import BenchmarkError


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _measure(name: str) -> dict[str, Any]:
    # `paybill bench` blocks SIGINT while modules load. It stays blocked until the event loop handles it: an interrupt
    # inside the constructor of the loop leaves an object whose destructor prints a traceback.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    await asyncio.sleep(0)  # ends here if an interrupt arrived before
    if name not in {"all", *BENCHMARKS}:
        return _error("unknown_benchmark", f"there is no benchmark {name}", next=f"one of {', '.join(BENCHMARKS)}")
    before = machine()
    figures: list[dict[str, Any]] = []
    try:
        for each in BENCHMARKS if name == "all" else (name,):
            _report(f"{each}: {BENCHMARKS[each]}")
            figures += [figure.as_dict() for figure in await benchmark(each)(_report)]
    except BenchmarkError as error:
        return _error("bench_failed", "a benchmark did not complete", why=str(error))
    return {"machine": before, "figures": figures}


def _error(code: str, message: str, *, why: str = "", next: str = "") -> dict[str, Any]:  # noqa: A002  # a key of the JSON
    return {"error": {"code": code, "message": message, "why": why, "next": next}}


def main(arguments: list[str]) -> int:
    """Prints {machine, figures}, or {error: {code, message, why, next}}; returns the exit code."""
    try:
        outcome = asyncio.run(_measure(arguments[0] if arguments else "all"))
    except KeyboardInterrupt:
        return 130
    print(json.dumps(outcome), flush=True)
    return 1 if "error" in outcome else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
