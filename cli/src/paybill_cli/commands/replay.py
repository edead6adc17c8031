"""`paybill replay`: folds the log through the rules of each service and compares the result with its tables."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from paybill_cli.client.stack import SERVICES, LocalStack, Stack
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_stack.environment import Addresses
    from paybill_stack.layout import Layout

COLUMNS = ("service", "verdict", "facts", "from_outbox", "aggregates", "fault_count")

MEANINGS = {
    "altered_fact": "an event in the log differs from the recorded decision",
    "altered_outbox": "the outbox differs from the event that its service signed",
    "cannot_fold": "the events of an aggregate contradict each other in their order",
    "different_state": "a table differs from the log",
    "gap": "events of an aggregate are missing",
    "lost_fact": "an event that was confirmed is missing in the log",
    "misplaced_fact": "an event has another sequence in the log than was confirmed",
    "missing_outbox_row": "the outbox lacks an event that its service decided",
    "missing_row": "a table lacks a row that the log requires",
    "swapped_facts": "two events of an aggregate are in the wrong order",
    "unexpected_row": "a table has a row that no event explains",
    "unknown_fact": "the log contains an event that its service never recorded",
    "unreadable_fact": "an event cannot be read",
    "wrong_inbox": "the inbox was changed, so that an event may be handled twice or never",
    "wrong_position": "a service's position in the log was changed, so that it may skip events",
}
"""Meaning of each kind of fault."""
_OF_TABLES = {"different_state", "missing_row", "unexpected_row"}
"""Faults that a rebuild corrects when there are no others: log and outbox agree."""
_OF_DATABASE = {"altered_outbox", "missing_outbox_row", "wrong_inbox", "wrong_position"}
"""Faults of the database of a service; its log is complete."""


def replay(
    out: Output,
    stack: LocalStack,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild/--verify", help="Rewrite the tables from the log; the stack must be stopped."),
    ] = False,
    service: Annotated[
        list[str] | None, typer.Option("--service", help="Only this service; the option can be repeated.")
    ] = None,
) -> None:
    """Replay the log and compare the result with the live state.

    Exit code 9 when they differ. If the stack is stopped, its servers are started for the replay, and stopped again.

    Example: paybill replay --verify
    """
    from paybill_stack.layout import Layout

    names = service or list(SERVICES)
    for name in names:
        if name not in SERVICES:
            raise usage(f"there is no service {name}; choose one of {', '.join(SERVICES)}", code="unknown_service")
    layout = Layout(stack.data_dir.absolute())
    with ExitStack() as block, out.progress("reading the log") as progress:
        servers = _servers(layout, Stack(data_dir=stack.data_dir), progress.update, rebuild=rebuild)
        addresses = block.enter_context(servers)
        progress.update(f"folding the log: {', '.join(names)}")
        reports = replayed(names, layout, addresses, rebuild=rebuild)
    _show(out, reports)


def _show(out: Output, reports: list[dict[str, Any]]) -> None:
    rows = [report | {"verdict": _verdict(report)} for report in reports]
    different = [report["service"] for report in reports if not report["equal"]]
    if out.json:
        out.record("replay", {"equal": not different, "services": rows})
    else:
        out.rows("replay", rows, COLUMNS)
        for report in reports:
            for fault in report["faults"]:
                meaning = MEANINGS.get(fault["kind"], fault["kind"])
                out.line("replay.fault", fault, f"{report['service']}: {meaning}: {fault['where']}: {fault['message']}")
            hidden = report["fault_count"] - len(report["faults"])
            if hidden > 0:
                out.info(f"{report['service']}: {hidden} more faults are not shown")
    if different:
        raise CliError(
            "verification_failed",
            f"the log and the state of {', '.join(different)} differ",
            next=advice(reports),
            exit_code=ExitCode.VERIFICATION_FAILED,
        )
    out.info(f"{sum(report['facts'] for report in reports)} events: every table is equal to the log")


def advice(reports: list[dict[str, Any]]) -> str:
    """Returns the next safe step: a rebuild only when nothing but tables differs from the log and the outbox."""
    kinds = {report["service"]: {fault["kind"] for fault in report["faults"]} for report in reports}
    others = [name for name, found in kinds.items() if found - _OF_TABLES]
    if not others:
        return "if the log is complete, stop the stack and run: paybill replay --rebuild"
    names = ", ".join(others)
    if all(found <= _OF_TABLES | _OF_DATABASE for found in kinds.values()):
        return f"do not rebuild; stop the stack and restore the database of {names} as docs/restoring.md describes"
    return f"do not rebuild; keep copies of the log and the database of {names}, then follow docs/restoring.md"


def _verdict(report: dict[str, Any]) -> str:
    if not report["equal"]:
        return "DIFFERENT"
    return "rebuilt" if report["rebuilt"] else "equal"


def replayed(names: list[str], layout: "Layout", addresses: "Addresses", *, rebuild: bool) -> list[dict[str, Any]]:
    """Replays services in one process; returns their reports. Raises CliError when one cannot be replayed."""
    from paybill_stack.environment import inherited_environment, replay_command, replay_input

    child = subprocess.run(
        replay_command(names, rebuild=rebuild),
        input=replay_input(names, layout, addresses),
        env=inherited_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    reports: list[dict[str, Any]] = [json.loads(line) for line in child.stdout.splitlines()]
    if child.returncode in {ExitCode.OK, ExitCode.VERIFICATION_FAILED}:
        return reports
    last = [line for line in child.stderr.splitlines() if line.strip()][-1:]
    raise CliError(
        "replay_failed",
        f"{names[len(reports)]} could not be replayed",
        why=last[0] if last else f"exit status {child.returncode}",
        next="paybill doctor",
        exit_code=ExitCode.UNREACHABLE if child.returncode == ExitCode.UNREACHABLE else ExitCode.FAILED,
    )


@contextmanager
def _servers(layout: "Layout", stack: Stack, report: Callable[[str], None], *, rebuild: bool) -> "Iterator[Addresses]":
    """Provides NATS and PostgreSQL: of the running stack, or started for as long as the block runs."""
    from paybill_stack.servers import embedded_servers, is_running

    if is_running(layout):
        if rebuild:
            raise CliError(
                "stack_runs",
                f"the stack on {layout.root} runs",
                why="running services write to the same tables",
                next="stop `paybill up`, then: paybill replay --rebuild",
                exit_code=ExitCode.CONFLICT,
            )
        yield running_addresses(layout, stack.running())
        return
    if not (layout.root / "postgres").exists():
        raise CliError(
            "stack_not_running",
            f"no stack runs on {layout.root}",
            why="the directory contains no embedded database that could be started",
            next="paybill up",
            exit_code=ExitCode.UNREACHABLE,
        )
    with embedded_servers(layout, report) as addresses:
        yield addresses


def running_addresses(layout: "Layout", stack: dict[str, Any]) -> "Addresses":
    """Returns the addresses of the servers of a running stack, from the file that it wrote."""
    from paybill_stack.access import BusAccess, DatabaseAccess
    from paybill_stack.environment import Addresses

    urls = {name: stack["services"][name]["url"] for name in SERVICES}
    return Addresses(
        BusAccess(stack["nats"]["url"], Path(stack["nats"]["credentials"])),
        DatabaseAccess(stack["postgres"]["host"], stack["postgres"]["port"], layout.credentials),
        {name: urlsplit(url).port or 0 for name, url in urls.items()},
    )
