"""Folding the log through a service's own rules, and comparing what comes out with its live tables.

The log, the outbox and the tables are each read once, in parts, so that a log of any length fits: what is kept is the
state of each aggregate. The database shows one view of itself meanwhile, which keeps PostgreSQL from vacuuming.
"""

from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.event import canonical
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.app import Service
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.errors import ConfigurationError, reason
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.alignment import Alignment
from paybill_runtime.replay.histories import Histories
from paybill_runtime.replay.outbox_rows import Outbox
from paybill_runtime.replay.report import Report
from paybill_runtime.settings import ServiceSettings, read_secret

PART = 1000
"""Messages, and rows of a table, that are held at a time."""
SILENCE_S = 10.0

_OWNERS = text(
    "SELECT DISTINCT owner FROM chassis.lease WHERE owner <> '' AND "
    "EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = lease.owner)"
)
_LOCK = text("SELECT name FROM chassis.lease ORDER BY name FOR UPDATE")
_NEWEST = text("SELECT coalesce(max(position), 0) FROM chassis.outbox")


class LogUnavailableError(Exception):
    """The stream does not answer: nothing is known about the log."""


async def replay(service: Service, settings: ServiceSettings, database: Database, *, rebuild: bool = False) -> Report:
    """Verify the tables of `service` against the log; with `rebuild`, write them anew from it.

    The service may run during a verification; for a rebuild it has to be stopped (ConfigurationError). Raises
    LogUnavailableError when the stream stops answering.
    """
    report = Report(service.name)
    histories = Histories(service.states, report)
    client = await connect(settings.nats_url, settings.nats_user, read_secret(settings.nats_password_file), wait_s=5)
    try:
        async with database.snapshot() as connection:
            outbox = await Outbox(connection).open()
            alignment = Alignment(outbox, histories, report)
            async for messages in _log(client, service.name):
                await alignment.take(messages)
            await alignment.finish()
            histories.finish()
            if not (rebuild and report.equal):
                await _compare(connection, service.states, histories, report)
                return report
    finally:
        await client.close()
    await _rebuild(database, service.states, histories, outbox.newest_position)
    report.rebuilt = True
    return report


async def _log(client: Client, context: str) -> AsyncIterator[Sequence[Msg]]:
    """Every message of this context that the stream holds now. Raises LogUnavailableError."""
    feed = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{context}.>"], 1, batch=PART)
    try:
        left = await feed.pending()
        while left > 0:
            messages = await feed.fetch(SILENCE_S)
            if not messages:
                raise LogUnavailableError("the stream does not answer")
            left -= len(messages)
            yield messages
        await feed.close()
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        # By their kind they could be PostgreSQL's, whose view is open around this.
        raise LogUnavailableError(reason(error)) from error


async def _compare(
    connection: AsyncConnection, states: Sequence[AnyStored], histories: Histories, report: Report
) -> None:
    for stored in states:
        query = text(f"SELECT id, revision, state::text FROM {stored.table.name} ORDER BY id")  # noqa: S608  # our code
        rows = await connection.stream(query, execution_options={"yield_per": PART})
        async for id_, revision, state in rows:
            where = f"{stored.kind}/{id_}"
            kept = revision, canonical(orjson.loads(state)).decode()
            folded = histories.take(where)
            if folded is None:
                report.add("unexpected_row", where, "the table has a row that no fact explains")
            elif kept != folded:
                report.add("different_state", where, _difference(kept, folded))
    for where in sorted(histories.left()):
        report.add("missing_row", where, "the log says that it exists, but the table has no row")


def _difference(kept: tuple[int, str], folded: tuple[int, str]) -> str:
    """Which fields differ; the values may be sealed or long, so only their names are told."""
    if kept[0] != folded[0]:
        return f"the table is at revision {kept[0]}, the log at {folded[0]}"
    live, true = orjson.loads(kept[1]), orjson.loads(folded[1])
    if not isinstance(live, dict):
        return "the state in the table is no object"
    names = sorted(name for name in live.keys() | true.keys() if live.get(name) != true.get(name))
    return f"the field{'s' if len(names) > 1 else ''} {', '.join(names)} differ from the log"


async def _rebuild(database: Database, states: Sequence[AnyStored], histories: Histories, newest_position: int) -> None:
    """Write all states anew in one transaction, while nobody owns anything."""
    async with database.transaction() as connection:
        await connection.execute(_LOCK)
        owners = (await connection.execute(_OWNERS)).scalars().all()
        if owners:
            raise ConfigurationError(f"{', '.join(owners)} still runs; stop it, then rebuild")
        if (await connection.execute(_NEWEST)).scalar_one() != newest_position:
            raise ConfigurationError("something was decided since the log was read; rebuild again")
        for stored in states:
            table = stored.table.name
            await connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608  # a name in our code
            names = iter(sorted(name for name in histories.left() if name.startswith(f"{stored.kind}/")))
            while part := list(islice(names, PART)):
                await connection.execute(_insert(table), _columns(part, histories))


def _insert(table: str) -> TextClause:
    return text(
        f"INSERT INTO {table} (id, revision, state) "  # noqa: S608  # as above
        "SELECT n.id, n.revision, n.state::jsonb FROM unnest(CAST(:ids AS text[]), "
        "CAST(:revisions AS bigint[]), CAST(:states AS text[])) AS n (id, revision, state)"
    )


def _columns(names: Sequence[str], histories: Histories) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"ids": [], "revisions": [], "states": []}
    for name in names:
        folded = histories.take(name)
        if folded is None:
            raise ConfigurationError(f"the state of {name} cannot be written down; nothing was rebuilt")
        for column, value in zip(columns.values(), (name.partition("/")[2], *folded), strict=True):
            column.append(value)
    return columns
