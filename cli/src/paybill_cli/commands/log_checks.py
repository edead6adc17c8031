"""Checks of `paybill doctor --deep`: the database of each service against the whole log."""

from collections.abc import Callable, Iterator
from typing import Any

from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.commands.checks import Check, State, failed, ok
from paybill_cli.commands.replay import MEANINGS, advice, replayed, running_addresses
from paybill_cli.errors import CliError


def log_checks(stack: Stack, report: Callable[[str], None]) -> list[Check]:
    """Replays the log of one service after the other, and returns a failed check for each kind of fault.

    It only reads. report: called with what is being read. A stack on another machine is skipped, because its passwords
    are there.
    """
    from paybill_stack.layout import Layout
    from paybill_stack.servers import is_running

    layout = Layout(stack.data_dir.absolute())
    if not is_running(layout):
        found = f"no stack runs on {layout.root}; run this command where it runs"
        return [Check(name, "log", State.SKIPPED, found) for name in SERVICES]
    addresses = running_addresses(layout, stack.running())
    checks: list[Check] = []
    for number, name in enumerate(SERVICES, 1):
        report(f"reading the log of {name} ({number} of {len(SERVICES)})")
        try:
            reports = replayed([name], layout, addresses, rebuild=False)
        except CliError as error:
            checks.append(failed(name, "log", f"{error.message} ({error.why})", error.next))
        else:
            checks += _of_report(name, reports[0])
    return checks


def _of_report(name: str, report: dict[str, Any]) -> Iterator[Check]:
    if report["equal"]:
        yield ok(name, "log", f"{report['facts']} events: every table is equal to the log")
    first = {fault["kind"]: fault for fault in reversed(report["faults"])}
    for kind, fault in sorted(first.items()):
        found = f"{MEANINGS.get(kind, kind)}: {fault['message']}"
        yield failed(name, kind, found, advice([report]))
    if report["fault_count"] > len(first):
        yield failed(name, "log", f"{report['fault_count']} faults", f"paybill replay --verify --service {name}")
