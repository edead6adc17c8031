"""`paybill replay`: every service folds the log through its own rules and compares with its live tables."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from paybill_embedded import DataDir, EmbeddedError
from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.environment import Addresses, service_command, service_environment
from paybill_stack.layout import STRIPE_FAKE, Layout
from paybill_stack.ports import choose_ports
from paybill_stack.servers import Given, Servers

from paybill_cli.context import SERVICES, STACK_FILE, DataDirectory, Stack
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

COLUMNS = ("service", "verdict", "facts", "from_outbox", "aggregates", "fault_count")

MEANS = {
    "altered_fact": "a fact in the log is not what was decided",
    "cannot_fold": "the facts of one thing do not make sense in their order",
    "different_state": "a table differs from what the log says",
    "gap": "facts of one thing are missing in between",
    "lost_fact": "a fact that was confirmed is not in the log",
    "misplaced_fact": "a fact is elsewhere in the log than was confirmed",
    "missing_row": "a table lacks what the log says exists",
    "swapped_facts": "two facts of one thing stand in the wrong order",
    "unexpected_row": "a table holds what no fact explains",
    "unknown_fact": "the log holds a fact that its service never decided",
    "unreadable_fact": "a fact cannot be read",
}
"""Each kind of fault, in words."""


def replay(
    out: Output,
    data_dir: DataDirectory = Path(".paybill"),
    rebuild: Annotated[
        bool, typer.Option("--rebuild/--verify", help="Write the tables anew from the log; the stack must not run.")
    ] = False,
    service: Annotated[list[str] | None, typer.Option("--service", help="Only this one; can be given again.")] = None,
) -> None:
    """Fold the log and compare it with the live state.

    Exit code 9 when they differ. A stack that does not run is started as far as is needed, and stopped again.

    Example: paybill replay --verify
    """
    names = service or list(SERVICES)
    for name in names:
        if name not in SERVICES:
            raise CliError(
                "unknown_service",
                f"there is no service {name}",
                next=f"one of {', '.join(SERVICES)}",
                exit_code=ExitCode.NOT_FOUND,
            )
    layout = Layout(data_dir.absolute())
    with ExitStack() as open_, out.progress("reading the log") as progress:
        at = open_.enter_context(_servers(layout, Stack(data_dir=data_dir), progress.now, rebuild=rebuild))
        progress.now(f"folding the log: {', '.join(names)}")
        reports = _reports(names, layout, at, rebuild=rebuild)
    _show(out, reports)


def _show(out: Output, reports: list[dict[str, Any]]) -> None:
    """The verdict first; then each fault, in words."""
    rows = [report | {"verdict": _verdict(report)} for report in reports]
    different = [report["service"] for report in reports if not report["equal"]]
    if out.json:
        out.record("replay", {"equal": not different, "services": rows})
    else:
        out.rows("replay", rows, COLUMNS)
        for report in reports:
            for fault in report["faults"]:
                words = MEANS.get(fault["kind"], fault["kind"])
                out.line("replay.fault", fault, f"{report['service']}: {words}: {fault['where']}: {fault['message']}")
            hidden = report["fault_count"] - len(report["faults"])
            if hidden > 0:
                out.say(f"{report['service']}: {hidden} more faults are not shown")
    if different:
        raise CliError(
            "verification_failed",
            f"the log and the state of {', '.join(different)} differ",
            next="if the log is whole, stop the stack and run: paybill replay --rebuild",
            exit_code=ExitCode.VERIFICATION_FAILED,
        )
    out.say(f"{sum(report['facts'] for report in reports)} facts: every table is exactly what the log says")


def _verdict(report: dict[str, Any]) -> str:
    if not report["equal"]:
        return "DIFFERENT"
    return "rebuilt" if report["rebuilt"] else "equal"


def _reports(names: list[str], layout: Layout, at: Addresses, *, rebuild: bool) -> list[dict[str, Any]]:
    """What each service found; all at the same time, as processes of their own."""
    arguments = ("replay", "--rebuild") if rebuild else ("replay",)
    children = {
        name: subprocess.Popen(
            service_command(name, *arguments),
            env=service_environment(name, layout, at),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    try:
        return [_report(name, child) for name, child in children.items()]
    finally:
        for child in children.values():
            child.kill()
            child.wait()


def _report(name: str, child: subprocess.Popen[str]) -> dict[str, Any]:
    output, said = child.communicate()
    if child.returncode in {ExitCode.OK, ExitCode.VERIFICATION_FAILED}:
        report: dict[str, Any] = json.loads(output.splitlines()[-1])
        return report
    last = [line for line in said.splitlines() if line.strip()][-1:]
    raise CliError(
        "replay_failed",
        f"{name} could not be replayed",
        why=last[0] if last else f"exit status {child.returncode}",
        next="paybill doctor",
        exit_code=ExitCode.UNREACHABLE if child.returncode == ExitCode.UNREACHABLE else ExitCode.FAILED,
    )


@contextmanager
def _servers(layout: Layout, stack: Stack, tell: Any, *, rebuild: bool) -> Iterator[Addresses]:
    """NATS and PostgreSQL of a stack: those that run, else its own, started for as long as the block runs."""
    if (layout.root / STACK_FILE).exists() and not _abandoned(layout):
        if rebuild:
            raise CliError(
                "stack_runs",
                f"the stack on {layout.root} runs",
                why="tables cannot be written anew under services that write them too",
                next="stop `paybill up`, then: paybill replay --rebuild",
                exit_code=ExitCode.CONFLICT,
            )
        yield _running(layout, stack.running())
        return
    if not (layout.root / "postgres").exists():
        raise CliError(
            "stack_not_running",
            f"no stack runs on {layout.root}",
            why="and it has no database of its own that could be started",
            next="paybill up",
            exit_code=ExitCode.UNREACHABLE,
        )
    try:
        with DataDir(layout.root), ExitStack() as started:
            ports = choose_ports(layout.ports, None, tell)
            servers = Servers(Given(), layout, ports)
            for name, server in servers.embedded.items():
                tell(f"starting {name}")
                started.callback(server.stop)
                server.start()
            yield Addresses(servers.bus, servers.databases, ports)
    except EmbeddedError as error:
        code = ExitCode.CONFLICT if error.code == "data_dir_in_use" else ExitCode.FAILED
        raise CliError(error.code, error.message, next=error.next_step, exit_code=code) from error


def _abandoned(layout: Layout) -> bool:
    """Whether whoever wrote the stack's file is gone without removing it: then nobody holds the folder."""
    try:
        with DataDir(layout.root):
            return True
    except EmbeddedError as error:
        if error.code == "data_dir_in_use":
            return False
        raise CliError(error.code, error.message, next=error.next_step) from error


def _running(layout: Layout, stack: dict[str, Any]) -> Addresses:
    urls = {name: stack["services"][name]["url"] for name in SERVICES} | {STRIPE_FAKE: stack["stripe_fake"]["url"]}
    return Addresses(
        BusAccess(stack["nats"]["url"], Path(stack["nats"]["credentials"])),
        DatabaseAccess(stack["postgres"]["host"], stack["postgres"]["port"], layout.credentials),
        {name: urlsplit(url).port or 0 for name, url in urls.items()},
    )
