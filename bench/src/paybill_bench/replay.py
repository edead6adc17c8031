"""`bench replay`: verification of a whole log, compared with only reading and validating the same facts."""

import asyncio
from collections.abc import Sequence

from paybill_contracts.envelope import read_fact
from paybill_embedded.nats import NatsServer
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.outbox import COUNT_UNPUBLISHED
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.verify import replay

from paybill_bench import hop
from paybill_bench.access import ServerAccess
from paybill_bench.facts import messages
from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import OUTPUT_SUBJECTS, BenchmarkError, median, process_log, started_servers

ROUNDS = 3
AMOUNT = 20_000


async def measure(progress: Progress) -> Sequence[Figure]:
    """Runs Paybill's hop on a log, then verifies its facts and state; three rounds, alternating with reading."""
    ours: list[float] = []
    reading: list[float] = []
    clock = asyncio.get_running_loop().time
    with started_servers() as servers:
        async with servers.bus(list(messages(AMOUNT))) as server:
            access = await servers.access(server)
            await process_log(server, access, "paybill_bench.hop", AMOUNT, servers.folder / "child.log", all_marked)
            database = Database(access.database_url, access.database_password, "bench")
            for number in range(1, ROUNDS + 1):
                begin = clock()
                report = await replay(hop.service(), hop.settings(access), database)
                ours.append(report.facts / (clock() - begin))
                if not report.equal or report.facts != AMOUNT:
                    raise BenchmarkError(f"the log and the state differ: {report.as_dict()}")
                begin = clock()
                reading.append(await _read(server) / (clock() - begin))
                progress(f"round {number}: replay {ours[-1]:,.0f} facts/s, reading and validating {reading[-1]:,.0f}")
            await database.close()
    return [
        Figure("replay.per_s", median(ours), "facts/s", least=20_000),
        Figure(
            "replay.vs_fetch", median([one / other for one, other in zip(ours, reading, strict=True)]), "x", least=0.5
        ),
        Figure("replay.fetch_per_s", median(reading), "facts/s"),
    ]


async def all_marked(access: ServerAccess) -> bool:
    """Returns True when the outbox has the stream sequence of each of its facts."""
    database = Database(access.database_url, access.database_password, "bench")
    async with database.transaction() as connection:
        pending = await connection.execute(COUNT_UNPUBLISHED)
        count: int = pending.scalar_one()
    await database.close()
    return count == 0


async def _read(server: NatsServer) -> int:
    client = await connect(server.url, "operator", server.password("operator"))
    consumer = OrderedConsumer(client, EVENTS, [OUTPUT_SUBJECTS], 1, batch=1000)
    count, left = 0, await consumer.pending()
    while count < left:
        for message in await consumer.fetch(10):
            read_fact(message.subject, message.headers, message.data, stream_sequence(message))
            count += 1
    await consumer.close()
    await client.close()
    return count
