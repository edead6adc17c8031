"""`paybill bench`: runs the benchmarks in a process of their own and prints the figures."""

import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("key", "value", "unit", "target", "met")


def bench(
    out: Output,
    name: Annotated[str, typer.Argument(help="Name of a benchmark; by default all run.", metavar="BENCHMARK")] = "all",
) -> None:
    """Compare throughput and latency with other implementations.

    Runs real servers in a temporary directory, and prints the target of each figure. No other load should run on the
    machine.

    Example: paybill bench pipeline --json
    """
    if find_spec("paybill_bench") is None:
        raise CliError(
            "bench_not_installed",
            "the benchmarks are not installed",
            why="they come with the source, in the package paybill-bench",
            next="in the source folder: make bench",
            exit_code=ExitCode.NOT_FOUND,
        )
    outcome = _measure(name)
    if "error" in outcome:
        error = outcome["error"]
        code = ExitCode.USAGE if error["code"] == "unknown_benchmark" else ExitCode.FAILED
        raise CliError(error["code"], error["message"], why=error["why"], next=error["next"], exit_code=code)
    if out.json:
        out.record("bench", outcome)
    else:
        machine = outcome["machine"]
        out.rows("bench", outcome["figures"], COLUMNS)
        out.info(f"{machine['cpu']}, {machine['cores']} cores, load before {machine['load']}, {machine['date']}")


def _measure(name: str) -> dict[str, Any]:
    """Runs `python -m paybill_bench`: progress goes to our stderr, the last line of stdout is a JSON document.

    The child has its own session, so that Ctrl-C in a terminal reaches it once: from here. SIGINT is blocked in it
    until its event loop runs, so that one that arrives while modules load ends it without a traceback.
    """
    from paybill_embedded.child import tied_to_us

    command = tied_to_us([sys.executable, "-P", "-m", "paybill_bench", name], signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            output, _ = child.communicate()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    try:
        outcome: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise CliError("bench_failed", f"the benchmarks ended with exit status {child.returncode}") from error
    return outcome
