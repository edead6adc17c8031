"""The hop of the benchmarks with a bug for every fact of one tenant; with an empty tenant id it works."""

import asyncio
import json
import sys
from pathlib import Path

from fastapi import APIRouter
from paybill_bench import hop
from paybill_bench.access import ServerAccess
from paybill_bench.facts import HopMetered
from paybill_runtime.app import Service
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_runtime.serving import serve
from paybill_runtime.settings import ServiceSettings


def subscriptions_with_bug(poison: str) -> Subscriptions:
    """Returns the hop's subscriptions, which fail for the tenant `poison`."""
    subscriptions = Subscriptions()

    @subscriptions.fact(HopMetered, writes=lambda event: [hop.HOPS.key(event.tenant_id)])
    def metered(unit: UnitOfWork, event: HopMetered, at: DecisionContext) -> None:
        if event.tenant_id == poison:
            raise ZeroDivisionError("share of an empty usage")
        hop.metered(unit, event, at)

    return subscriptions


async def main(access: ServerAccess, poison: str, api_keys_file: Path, port: int) -> int:
    """Runs until the service fails or the process is stopped; returns the exit code."""
    service = Service(
        name="tenant",
        settings=ServiceSettings,
        router=lambda _context: APIRouter(),
        states=(hop.HOPS,),
        subscriptions=subscriptions_with_bug(poison),
    )
    own = {"api_keys_file": api_keys_file, "http_port": port, "log_level": "CRITICAL"}
    await hop.create_tables(access)
    return await serve(service, hop.settings(access).model_copy(update=own))


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    sys.exit(
        asyncio.run(
            main(
                ServerAccess(**arguments["access"]),
                arguments["poison"],
                Path(arguments["api_keys_file"]),
                arguments["port"],
            )
        )
    )
