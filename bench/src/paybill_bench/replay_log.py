"""Log, outbox and tables with many aggregates, written in bulk: the service would take minutes to decide them."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from uuid import uuid4

import asyncpg
from nats.aio.client import Client
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_embedded.nats import NatsServer
from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.outbox_headers import compact
from paybill_runtime.messaging.nats_patches import encode_headers, publish_batch
from paybill_runtime.messaging.streams import connect

from paybill_bench import hop
from paybill_bench.access import ServerAccess
from paybill_bench.facts import NOW, HopNoted, Message, tenant, usage
from paybill_bench.servers import BenchmarkError

_PART = 10_000
_BATCH = 500
_OUTBOX = ("position", "event_id", "aggregate", "revision", "tenant", "subject", "headers", "payload", "recorded_at")


@dataclass(frozen=True, slots=True)
class _Aggregate:
    """An aggregate with its only fact. state: in stored form."""

    fact: Fact
    message: Message
    state: str


async def write_aggregates(server: NatsServer, access: ServerAccess, count: int) -> None:
    """Writes `count` aggregates of the hop with one fact each, as the hop would have left them."""
    database = Database(access.database_url, access.database_password, "bench")
    await migrate(database, access.nats_user)
    await database.close()
    await hop.create_tables(access)
    connection = await asyncpg.connect(access.database_url, password=access.database_password)
    client = await connect(server.url, access.nats_user, access.nats_password)
    aggregates = _aggregates(count)
    first = 1
    while part := list(islice(aggregates, _PART)):
        await asyncio.gather(_publish(client, [each.message for each in part]), _copy(connection, part, first))
        first += len(part)
    await client.close()
    await connection.execute("ANALYZE")
    await connection.close()


async def _publish(client: Client, messages: Sequence[Message]) -> None:
    """Publishes atomic batches as the relay does."""
    for start in range(0, len(messages), _BATCH):
        part, id_ = messages[start : start + _BATCH], uuid4().hex
        heads = [
            each.headers | {"Nats-Batch-Id": id_, "Nats-Batch-Sequence": str(place)}
            for place, each in enumerate(part, start=1)
        ]
        await publish_batch(
            client,
            [
                (each.subject, encode_headers(head), each.payload)
                for each, head in zip(part[:-1], heads[:-1], strict=True)
            ],
        )
        last = heads[-1] | {"Nats-Batch-Commit": "1"}
        answer = json.loads((await client.request(part[-1].subject, part[-1].payload, 10, headers=last)).data)
        if "error" in answer:
            raise BenchmarkError(f"the log refused the facts: {answer['error']}")


async def _copy(connection: asyncpg.Connection, part: Sequence[_Aggregate], first: int) -> None:
    rows = [
        (
            position,
            each.fact.id,
            each.fact.aggregate,
            each.fact.revision,
            each.fact.event.tenant,
            each.message.subject,
            compact(each.message.headers),
            each.message.payload,
            each.fact.time,
        )
        for position, each in enumerate(part, start=first)
    ]
    await connection.copy_records_to_table("outbox", schema_name="chassis", columns=_OUTBOX, records=rows)
    await connection.copy_records_to_table(
        "publication", schema_name="chassis", records=[(row[0], row[0]) for row in rows]
    )
    states = [(each.fact.event.tenant, each.fact.revision, each.state) for each in part]
    await connection.copy_records_to_table("hops", columns=("id", "revision", "state"), records=states)


def _aggregates(count: int) -> Iterator[_Aggregate]:
    for number in range(count):
        id_ = tenant(number, count)
        event = HopNoted(**usage(number, id_))
        cause, trace = str(uuid4()), f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"
        fact = Fact(event, str(uuid4()), NOW, 1, Origin(cause, cause, "service:tenant", trace))
        message = Message(subject_of(event), headers_of(fact), encode(event))
        yield _Aggregate(fact, message, hop.HOPS.document(hop.evolve(None, event)))
