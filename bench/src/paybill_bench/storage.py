"""`bench storage`: bytes that a fact occupies in the stream, in its service's outbox, and in a subscriber's inbox.

They are the growth of the tables from the first half of the facts to the second. PostgreSQL vacuums in between, as it
does by itself in a longer run, so that the space of old versions of rows is used again.
"""

import asyncio
from collections.abc import Sequence

import asyncpg
from nats.aio.client import Client
from paybill_runtime.messaging.streams import EVENTS, connect

from paybill_bench.access import ServerAccess
from paybill_bench.deadlines import StallDetector
from paybill_bench.facts import messages
from paybill_bench.figures import Figure, Progress
from paybill_bench.replay import all_marked
from paybill_bench.servers import BenchmarkError, child, last_line, publish, started_servers, stored

HALF = 25_000
TENANTS = 5_000
SPREAD = 96
"""Facts of one size would leave a twelfth of each page empty, because nine of them fill it and ten do not fit."""
TABLES = {"outbox": ("outbox", "publication"), "inbox": ("inbox",)}
"""Tables of the runtime with a row for each fact: of its owner, and of a service that handles it."""

_SIZES = """
WITH tables AS (SELECT oid FROM pg_class WHERE relnamespace = 'chassis'::regnamespace AND relname = ANY($1))
SELECT relname, pg_relation_size(pg_class.oid) AS bytes FROM pg_class, tables
WHERE pg_class.oid = tables.oid OR pg_class.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = tables.oid)
ORDER BY 1
"""


async def measure(progress: Progress) -> Sequence[Figure]:
    """Runs Paybill's hop, which handles and records one fact each, and divides the growth by their number."""
    with started_servers() as servers:
        async with servers.bus() as server:
            access = await servers.access(server)
            steward = await connect(server.url, "steward", server.password("steward"))
            facts = list(messages(2 * HALF, tenants=TENANTS, spread=SPREAD))
            log = servers.folder / "child.log"
            with child("paybill_bench.hop", access.argument(), log=log) as process:
                sizes = []
                for half in (1, 2):
                    await publish(server, facts[(half - 1) * HALF : half * HALF])
                    stall = StallDetector()
                    while (done := await stored(steward)) < 2 * half * HALF or not await all_marked(access):
                        if process.poll() is not None or stall.stalled(done):
                            raise BenchmarkError(f"the hop stopped at {done}: {last_line(log)}")
                        await asyncio.sleep(0.1)
                    sizes.append(await _sizes(access))
            stream = await _stream_bytes(steward)
            await steward.close()
    tables: dict[str, float] = {}
    for group in TABLES:
        growth = {name: (size - sizes[0][group][name]) / HALF for name, size in sizes[1][group].items()}
        tables[group] = sum(growth.values())
        progress(f"{group}: " + ", ".join(f"{name} {size:.0f} B" for name, size in growth.items()))
    total = stream + sum(tables.values())
    return [
        Figure("storage.bytes_per_fact", total, "B in stream, outbox and an inbox"),
        Figure("storage.vs_stream", total / stream, "x", most=2),
        Figure("storage.stream_bytes", stream, "B"),
        *(Figure(f"storage.{name}_bytes", size, "B with indexes") for name, size in tables.items()),
    ]


async def _stream_bytes(steward: Client) -> float:
    state = (await steward.jetstream().stream_info(EVENTS)).state
    return state.bytes / state.messages


async def _sizes(access: ServerAccess) -> dict[str, dict[str, int]]:
    """Vacuums, and returns the bytes of the tables and indexes of each group."""
    connection = await asyncpg.connect(access.database_url, password=access.database_password)
    sizes: dict[str, dict[str, int]] = {}
    for group, tables in TABLES.items():
        for table in tables:
            await connection.execute(f"VACUUM chassis.{table}")
        sizes[group] = dict(await connection.fetch(_SIZES, list(tables)))
    await connection.close()
    return sizes
