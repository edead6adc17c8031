"""Chapter 8: each service folds the log through its own rules and compares the result with its tables."""

import asyncio
import json

from paybill_stack.layout import SERVICES

from paybill_cli.demo.session import DemoSession


async def verify(session: DemoSession) -> None:
    """Runs `replay` of every service while the services run."""
    session.printer.chapter(8, "The log is replayed and compared with the live tables")
    results = await asyncio.gather(*(session.stack.run(service, "replay") for service in SERVICES))
    for service, (status, output, errors) in zip(SERVICES, results, strict=True):
        try:
            report = json.loads(output)
            equal = status == 0 and report["equal"] is True
            observed = f"{report['facts']} events, {report['aggregates']} aggregates, {report['fault_count']} faults"
            observed += "".join(f"; {fault['where']}: {fault['message']}" for fault in report["faults"][:3])
        except (ValueError, KeyError, TypeError):
            equal, observed = False, f"exit status {status}: {(errors or output).strip()[-500:]}"
        session.check(f"the {service} service's tables are equal to the log", equal, observed)
