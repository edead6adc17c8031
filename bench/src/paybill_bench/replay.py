"""`bench replay`: our verification of a whole log, beside no more than reading and validating the same facts."""

import asyncio
from collections.abc import Sequence

from paybill_contracts.envelope import read_fact
from paybill_embedded.nats import NatsServer
from paybill_runtime.database.pool import Database
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer, stream_sequence
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.verify import replay
from sqlalchemy import text

from paybill_bench import hop
from paybill_bench.facts import messages
from paybill_bench.figures import Figure, Say
from paybill_bench.lab import ANSWERS, BenchmarkError, answer_all, lab, median
from paybill_bench.place import Place

ROUNDS = 3
AMOUNT = 20_000


async def measure(say: Say) -> Sequence[Figure]:
    """Let our hop answer, then verify its answers and the state that they made; three times, in turn with reading."""
    ours: list[float] = []
    reading: list[float] = []
    clock = asyncio.get_running_loop().time
    with lab() as servers:
        async with servers.bus(list(messages(AMOUNT))) as server:
            place = await servers.place(server)
            await answer_all(server, place, "paybill_bench.hop", AMOUNT, servers.folder / "child.log", all_marked)
            database = Database(place.database_url, place.database_password, "bench")
            for number in range(1, ROUNDS + 1):
                begin = clock()
                report = await replay(hop.service(), hop.settings(place), database)
                ours.append(report.facts / (clock() - begin))
                if not report.equal or report.facts != AMOUNT:
                    raise BenchmarkError(f"the log and the state differ: {report.as_dict()}")
                begin = clock()
                reading.append(await _read(server) / (clock() - begin))
                say(f"round {number}: replay {ours[-1]:,.0f} facts/s, reading and validating {reading[-1]:,.0f}")
            await database.close()
    return [
        Figure("replay.per_s", median(ours), "facts/s", least=20_000),
        Figure(
            "replay.vs_fetch", median([one / other for one, other in zip(ours, reading, strict=True)]), "x", least=0.5
        ),
        Figure("replay.fetch_per_s", median(reading), "facts/s"),
    ]


async def all_marked(place: Place) -> bool:
    """Whether the outbox knows where each of its facts is in the log."""
    database = Database(place.database_url, place.database_password, "bench")
    async with database.transaction() as connection:
        waiting = await connection.execute(text("SELECT count(*) FROM chassis.outbox WHERE sequence IS NULL"))
        count: int = waiting.scalar_one()
    await database.close()
    return count == 0


async def _read(server: NatsServer) -> int:
    client = await connect(server.url, "operator", server.password("operator"))
    feed = OrderedConsumer(client, EVENTS, [ANSWERS], 1, batch=1000)
    count, left = 0, await feed.pending()
    while count < left:
        for message in await feed.fetch(10):
            read_fact(message.subject, message.headers, message.data, stream_sequence(message))
            count += 1
    await feed.close()
    await client.close()
    return count
