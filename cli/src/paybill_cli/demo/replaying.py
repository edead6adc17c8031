"""Chapter 8: the log, folded through each service's own rules, is exactly what its tables hold."""

import asyncio
import json

from paybill_stack.layout import SERVICES

from paybill_cli.demo.scene import Scene


async def verify(scene: Scene) -> None:
    """`replay` of every service, beside the running ones."""
    scene.voice.chapter(8, "Everything that happened is replayed from the log and compared with the live tables")
    results = await asyncio.gather(*(scene.stack.run(service, "replay") for service in SERVICES))
    for service, (status, output, said) in zip(SERVICES, results, strict=True):
        try:
            report = json.loads(output)
            equal = status == 0 and report["equal"] is True
            seen = f"{report['facts']} facts, {report['aggregates']} aggregates, {report['fault_count']} faults"
            seen += "".join(f"; {fault['where']}: {fault['message']}" for fault in report["faults"][:3])
        except (ValueError, KeyError, TypeError):
            equal, seen = False, f"exit status {status}: {(said or output).strip()[-500:]}"
        scene.check(f"the {service} service's tables are what the log says", equal, seen)
