"""`bench storage`: bytes that a fact occupies in the stream, in its service's outbox, and in a subscriber's inbox."""

from collections.abc import Sequence

import asyncpg
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.streams import EVENTS, connect

from paybill_bench.access import ServerAccess
from paybill_bench.facts import messages
from paybill_bench.figures import Figure, Progress
from paybill_bench.replay import all_marked
from paybill_bench.servers import process_log, started_servers

AMOUNT = 50_000
TENANTS = 5_000
TABLES = {"outbox": ("outbox", "publication"), "inbox": ("inbox",)}
"""Tables of the runtime with a row for each fact: of its owner, and of a service that handles it."""


async def measure(progress: Progress) -> Sequence[Figure]:
    """Runs Paybill's hop, which handles and records one fact each, and divides the sizes by their number."""
    with started_servers() as servers:
        async with servers.bus(list(messages(AMOUNT, tenants=TENANTS))) as server:
            access = await servers.access(server)
            await process_log(server, access, "paybill_bench.hop", AMOUNT, servers.folder / "child.log", all_marked)
            stream = await _stream_bytes(server)
            tables = await _table_bytes(access, progress)
    total = stream + sum(tables.values())
    return [
        Figure("storage.bytes_per_fact", total, "B in stream, outbox and an inbox"),
        Figure("storage.vs_stream", total / stream, "x", most=2),
        Figure("storage.stream_bytes", stream, "B"),
        *(Figure(f"storage.{name}_bytes", size, "B with indexes") for name, size in tables.items()),
    ]


async def _stream_bytes(server: NatsServer) -> float:
    client = await connect(server.url, "operator", server.password("operator"))
    state = (await client.jetstream().stream_info(EVENTS)).state
    await client.close()
    return state.bytes / state.messages


async def _table_bytes(access: ServerAccess, progress: Progress) -> dict[str, float]:
    """Returns the sizes as they are after the run: nothing is vacuumed before."""
    connection = await asyncpg.connect(access.database_url, password=access.database_password)
    sizes: dict[str, float] = {}
    for name, tables in TABLES.items():
        rows = await connection.fetch(_SIZES, list(tables))
        sizes[name] = sum(row["bytes"] for row in rows) / AMOUNT
        for row in rows:
            progress(f"{row['relname']}: {row['bytes'] / AMOUNT:.0f} B per fact")
    await connection.close()
    return sizes


_SIZES = """
WITH tables AS (SELECT oid FROM pg_class WHERE relnamespace = 'chassis'::regnamespace AND relname = ANY($1))
SELECT relname, pg_relation_size(pg_class.oid) AS bytes FROM pg_class, tables
WHERE pg_class.oid = tables.oid OR pg_class.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = tables.oid)
ORDER BY 1
"""
