"""Servers with what an earlier version left: the stream EVENTS and the databases of its services.

`recorded_log` holds the stream (323 facts of 8 tenants) and a dump of each service's database, taken from a stack that
ran sign-ups, payments, plan changes, a plan migration, licences, usage, invoices and offboarding.
"""

import gzip
import json
from pathlib import Path

import asyncpg
from paybill_embedded.nats import NatsServer
from paybill_embedded.postgres import PostgresServer
from paybill_runtime.messaging.streams import connect, ensure

RECORDED = Path(__file__).with_name("recorded_log")
FACTS = {"tenant": 54, "billing": 179, "provisioner": 90}
"""Recorded facts by the service that published them: all services of that version."""


async def restore(postgres: PostgresServer, nats: NatsServer) -> None:
    """Restores the databases of the services, and publishes the recorded facts."""
    for service in FACTS:
        await execute(postgres, service, recorded(f"{service}.sql"))
    steward = await connect(nats.url, "steward", nats.password("steward"))
    await ensure(steward)
    await steward.close()
    publishers = {name: await connect(nats.url, name, nats.password(name)) for name in FACTS}
    for line in recorded("events.jsonl").splitlines():
        fact = json.loads(line)
        headers = {name: value for name, value in fact["headers"].items() if not name.startswith("Nats-Expected")}
        context = fact["subject"].split(".")[3]
        stored = (
            await publishers[context].jetstream().publish(fact["subject"], fact["payload"].encode(), headers=headers)
        )
        assert stored.seq == fact["sequence"]
    for publisher in publishers.values():
        await publisher.close()


async def execute(postgres: PostgresServer, service: str, script: str) -> None:
    """Runs SQL as a service, in its database."""
    connection = await asyncpg.connect(postgres.url(service), password=postgres.password(service))
    try:
        await connection.execute(script)
    finally:
        await connection.close()


def recorded(name: str) -> str:
    """Returns the text of a recorded file."""
    return gzip.decompress((RECORDED / f"{name}.gz").read_bytes()).decode()
