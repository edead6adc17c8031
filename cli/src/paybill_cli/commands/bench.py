"""`paybill bench`: runs the benchmarks in a process of their own and prints the figures of each when it is done."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("key", "value", "unit", "target", "met")

Record = dict[str, Any]


def bench(
    out: Output,
    name: Annotated[str, typer.Argument(help="Name of a benchmark; by default all run.", metavar="BENCHMARK")] = "all",
) -> None:
    """Compare throughput and latency with other implementations.

    Runs real servers in a temporary directory, and prints each benchmark's figures with their targets when it is done;
    with --json one document at the end. If a benchmark fails, the others still run. No other load should run on the
    machine.

    Example: paybill bench pipeline --json
    """
    if find_spec("paybill_bench") is None:
        raise CliError(
            "bench_not_installed",
            "the benchmarks are not installed",
            why="they come with the source, in the package paybill-bench",
            next=f'in the source folder: make bench ARGS="{name}"',
            exit_code=ExitCode.NOT_FOUND,
        )
    records: list[Record] = []

    def add(record: Record) -> None:
        if "unknown" in record:
            raise usage(f"there is no benchmark {name}", code="unknown_benchmark", next=record["error"])
        records.append(record)
        if not out.json:
            _show(out, record)

    status = _run(name, add)
    if out.json and records:
        out.record("bench", _document(records))
    failed = {record["benchmark"]: record["error"] for record in records if "error" in record}
    if failed:
        raise CliError(
            "bench_failed",
            f"{len(failed)} of {len(records)} benchmarks did not complete",
            why="; ".join(f"{benchmark}: {error}" for benchmark, error in failed.items()),
        )
    if status != 0:
        raise CliError("bench_failed", f"the benchmarks ended with exit status {status}")


def _show(out: Output, record: Record) -> None:
    machine = record["machine"]
    if "figures" in record:
        out.rows("bench", record["figures"], COLUMNS)
    out.info(f"{machine['cpu']}, {machine['cores']} cores, load before {machine['load']}, {machine['date']}")


def _document(records: Sequence[Record]) -> Record:
    """Returns the machine before the first benchmark, the figures of all, and the state of each."""
    return {
        "machine": records[0]["machine"],
        "figures": [figure for record in records for figure in record.get("figures", [])],
        "benchmarks": [
            {
                "name": record["benchmark"],
                "date": record["machine"]["date"],
                "load": record["machine"]["load"],
                "error": record.get("error"),
            }
            for record in records
        ],
    }


def _run(name: str, add: Callable[[Record], None]) -> int:
    """Runs `python -m paybill_bench` and passes on each record; returns the exit status.

    Its progress goes to our stderr. It has its own session, so that Ctrl-C in a terminal reaches it once: from here.
    SIGINT is blocked in it until its event loop runs, so that one that arrives while modules load ends it without a
    traceback.
    """
    from paybill_embedded.child import tied_to_us

    command = tied_to_us([sys.executable, "-P", "-m", "paybill_bench", name], signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for line in child.stdout or ():
                add(json.loads(line))
            return child.wait()
        except BaseException:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
