"""Replay: folds the log through a service's own rules, and compares the result with its tables or rebuilds them.

The log, the outbox and the tables are each read once, in parts, so that a log of any length fits in memory: only the
state of each aggregate is kept. The database is read in one snapshot, which keeps PostgreSQL from vacuuming meanwhile.
"""

from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any, Protocol

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.event import canonical
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.errors import ConfigurationError, reason
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.replay.alignment import Alignment
from paybill_runtime.replay.histories import Histories
from paybill_runtime.replay.outbox_rows import OutboxSnapshot
from paybill_runtime.replay.report import Report
from paybill_runtime.settings import ServiceSettings, read_secret

PART = 1000
"""Messages, and rows of a table, that are in memory at a time."""
ANSWER_TIMEOUT_S = 10.0

_OWNERS = text(
    "SELECT DISTINCT owner FROM chassis.lease WHERE owner <> '' AND "
    "EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = lease.owner)"
)
_LOCK = text("SELECT name FROM chassis.lease ORDER BY name FOR UPDATE")
_NEWEST = text("SELECT coalesce(max(position), 0) FROM chassis.outbox")


class LogUnavailableError(Exception):
    """The stream does not answer, so that the log cannot be verified."""


class Replayed(Protocol):
    """The name and the states of a service; `Service` has them."""

    @property
    def name(self) -> str:
        """The name of the service."""

    @property
    def states(self) -> Sequence[AnyStored]:
        """The kinds of aggregates of the service."""


async def replay(service: Replayed, settings: ServiceSettings, database: Database, *, rebuild: bool = False) -> Report:
    """Verifies the tables of `service` against the log; with `rebuild`, writes them again from it.

    The service may run during a verification; for a rebuild it must be stopped (ConfigurationError). Raises
    LogUnavailableError when the stream does not answer.
    """
    report = Report(service.name)
    histories = Histories(service.states, report)
    client = await connect(settings.nats_url, settings.nats_user, read_secret(settings.nats_password_file), wait_s=5)
    try:
        async with database.snapshot() as connection:
            outbox = await OutboxSnapshot(connection).open()
            alignment = Alignment(outbox, histories, report)
            async for messages in _log(client, service.name):
                await alignment.add(messages)
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


async def _log(client: Client, service: str) -> AsyncIterator[Sequence[Msg]]:
    """Yields every message of this service in the stream. Raises LogUnavailableError."""
    consumer = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{service}.>"], 1, batch=PART)
    try:
        remaining = await consumer.pending()
        while remaining > 0:
            messages = await consumer.fetch(ANSWER_TIMEOUT_S)
            if not messages:
                raise LogUnavailableError("the stream does not answer")
            remaining -= len(messages)
            yield messages
        await consumer.close()
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        # Their types could also be errors of PostgreSQL, whose snapshot is open.
        raise LogUnavailableError(reason(error)) from error


async def _compare(
    connection: AsyncConnection, states: Sequence[AnyStored], histories: Histories, report: Report
) -> None:
    for stored in states:
        query = text(f"SELECT id, revision, state::text FROM {stored.table.name} ORDER BY id")  # noqa: S608  # our code
        rows = await connection.stream(query, execution_options={"yield_per": PART})
        async for id_, revision, state in rows:
            name = f"{stored.kind}/{id_}"
            stored_state = revision, canonical(orjson.loads(state)).decode()
            folded = histories.pop(name)
            if folded is None:
                report.add("unexpected_row", name, "the table has a row without facts in the log")
            elif stored_state != folded:
                report.add("different_state", name, _difference(stored_state, folded))
    for name in sorted(histories.remaining()):
        report.add("missing_row", name, "the log has facts of it, but the table has no row")


def _difference(table: tuple[int, str], folded: tuple[int, str]) -> str:
    """Returns the names of the fields that differ; values may be sealed or long."""
    if table[0] != folded[0]:
        return f"the table is at revision {table[0]}, the log at {folded[0]}"
    live, expected = orjson.loads(table[1]), orjson.loads(folded[1])
    if not isinstance(live, dict):
        return "the state in the table is not an object"
    names = sorted(name for name in live.keys() | expected.keys() if live.get(name) != expected.get(name))
    return f"the field{'s' if len(names) > 1 else ''} {', '.join(names)} differ from the log"


async def _rebuild(database: Database, states: Sequence[AnyStored], histories: Histories, newest_position: int) -> None:
    """Writes all states again in one transaction, while no process owns a lease."""
    async with database.transaction() as connection:
        await connection.execute(_LOCK)
        owners = (await connection.execute(_OWNERS)).scalars().all()
        if owners:
            raise ConfigurationError(f"{', '.join(owners)} still runs; stop it, then rebuild again")
        if (await connection.execute(_NEWEST)).scalar_one() != newest_position:
            raise ConfigurationError("a fact was decided after the log was read; rebuild again")
        for stored in states:
            table = stored.table.name
            await connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608  # a name in our code
            names = iter(sorted(name for name in histories.remaining() if name.startswith(f"{stored.kind}/")))
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
        folded = histories.pop(name)
        if folded is None:
            raise ConfigurationError(f"the state of {name} cannot be stored; nothing was rebuilt")
        for column, value in zip(columns.values(), (name.partition("/")[2], *folded), strict=True):
            column.append(value)
    return columns
