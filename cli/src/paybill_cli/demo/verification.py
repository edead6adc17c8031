"""Chapter 9: the log is folded through the rules of each service and compared with its tables."""

import json

from paybill_stack.layout import SERVICES

from paybill_cli.demo.session import DemoSession


async def verify(session: DemoSession) -> None:
    """Replays every service while the services run."""
    session.printer.chapter(9, "The log is replayed and compared with the live tables")
    status, output, errors = await session.stack.replay()
    reports = {report["service"]: report for report in map(json.loads, output.splitlines())}
    for service in SERVICES:
        report = reports.get(service)
        if report is None:
            equal, observed = False, f"exit status {status}: {(errors or output).strip()[-500:]}"
        else:
            equal = report["equal"] is True
            observed = f"{report['facts']} events, {report['aggregates']} aggregates, {report['fault_count']} faults"
            observed += "".join(f"; {fault['where']}: {fault['message']}" for fault in report["faults"][:3])
        session.check(f"the {service} service's tables are equal to the log", equal, observed)
