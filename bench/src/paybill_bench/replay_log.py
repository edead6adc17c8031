"""Log, outbox and tables with many aggregates, written in bulk: the service would take minutes to decide them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from uuid import uuid4

import asyncpg
from paybill_contracts.envelope import Fact, Origin, headers_of, subject_of
from paybill_contracts.event import encode
from paybill_embedded.nats import NatsServer
from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.outbox_headers import compact

from paybill_bench import hop
from paybill_bench.access import ServerAccess
from paybill_bench.facts import NOW, HopNoted, Message, metered, tenant
from paybill_bench.servers import publish

_PART = 10_000
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
    aggregates = _aggregates(count)
    first = 1
    while part := list(islice(aggregates, _PART)):
        await asyncio.gather(
            publish(server, [each.message for each in part], access.nats_user), _copy(connection, part, first)
        )
        first += len(part)
    await connection.execute("ANALYZE")
    await connection.close()


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
        event = HopNoted(**dict(metered(number, id_)))
        cause, trace = str(uuid4()), f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"
        fact = Fact(event, str(uuid4()), NOW, 1, Origin(cause, cause, "service:tenant", trace))
        message = Message(subject_of(event), headers_of(fact), encode(event))
        yield _Aggregate(fact, message, hop.HOPS.document(hop.evolve(None, event)))
