"""`paybill bench`: our figures beside our peers', measured here and now."""

from importlib.util import find_spec
from typing import Annotated, Any

import typer

from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("key", "value", "unit", "target", "met")


async def bench(
    out: Output,
    name: Annotated[str, typer.Argument(help="Which; all when none is named.")] = "all",
) -> None:
    """Measure, and compare with peers and targets.

    Runs real servers in a temporary folder; nothing else should use the machine meanwhile.

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
    from paybill_bench.figures import BENCHMARKS, benchmark, machine
    from paybill_bench.servers import BenchmarkError

    if name not in {"all", *BENCHMARKS}:
        raise usage(f"there is no benchmark {name}", code="unknown_benchmark", next=f"one of {', '.join(BENCHMARKS)}")
    before = machine()
    rows: list[dict[str, Any]] = []
    try:
        for one in BENCHMARKS if name == "all" else (name,):
            out.say(f"{one}: {BENCHMARKS[one]}")
            rows += [figure.as_dict() for figure in await benchmark(one)(out.say)]
    except BenchmarkError as error:
        raise CliError("bench_failed", "a benchmark did not come to its end", why=str(error)) from error
    if out.json:
        out.record("bench", {"machine": before, "figures": rows})
    else:
        out.rows("bench", rows, COLUMNS)
        out.say(f"{before['cpu']}, {before['cores']} cores, load before {before['load']}, {before['date']}")
