"""The hop of the benchmarks with a bug that the facts of one tenant meet, each of them; named none, it is mended."""

import asyncio
import json
import sys
from pathlib import Path

from fastapi import APIRouter
from paybill_bench import hop
from paybill_bench.access import ServerAccess
from paybill_bench.facts import HopMetered
from paybill_runtime.app import Running, Service, serving
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.settings import ServiceSettings
from paybill_runtime.telemetry import configure


def hearing(poison: str) -> Subscriptions:
    """As the hop hears, but for the tenant `poison`."""
    hears = Subscriptions()

    @hears.fact(HopMetered, writes=lambda event: [hop.HOPS.key(event.tenant_id)])
    def metered(unit: UnitOfWork, event: HopMetered, at: DecisionContext) -> None:
        if event.tenant_id == poison:
            raise ZeroDivisionError("the usage of nobody, a share of")
        hop.metered(unit, event, at)

    return hears


async def main(place: ServerAccess, poison: str, api_keys_file: Path, port: int) -> None:
    """For ever."""
    service = Service("tenant", ServiceSettings, (hop.HOPS,), lambda _context: APIRouter(), hearing(poison))
    settings = hop.settings(place).model_copy(update={"api_keys_file": api_keys_file, "http_port": port})
    await hop.create_tables(place)
    async with Running(service, settings) as running, serving(running):
        await running.failed.wait()


if __name__ == "__main__":
    configure("tenant", "CRITICAL")
    told = json.loads(sys.argv[1])
    asyncio.run(main(ServerAccess(**told["place"]), told["poison"], Path(told["api_keys_file"]), told["port"]))
