"""Replay: folds the log through a service's own rules, and compares the result with its tables or rebuilds them.

Two readers work at the same time, on one snapshot of the database: one reads the log and compares each message with the
outbox; the other folds the outbox, sorted by aggregate and revision, and compares each state with its row. Where the
log has exactly the outbox's content, both fold the same facts; the aggregates of the rest are folded again. Each reader
keeps a page, so that memory grows neither with the log nor with the number of aggregates.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.errors import ConfigurationError, reason
from paybill_runtime.messaging.known_keys import KeyDirectory
from paybill_runtime.messaging.ordered_consumer import OrderedConsumer
from paybill_runtime.messaging.streams import EVENTS, connect
from paybill_runtime.messaging.voided_facts import VoidedFacts
from paybill_runtime.replay.alignment import Alignment, Deviations
from paybill_runtime.replay.comparison import Comparison, compare, corrected, fold
from paybill_runtime.replay.evidence import Evidence, check_inbox, check_positions, read_positions
from paybill_runtime.replay.folding import Folded, Folding
from paybill_runtime.replay.outbox_rows import NEWEST_POSITION, OutboxSnapshot
from paybill_runtime.replay.report import Faults, Report
from paybill_runtime.security.signing_identity import load_root
from paybill_runtime.settings import read_secret

PART = 1000
"""Messages that are in memory at a time."""
ANSWER_TIMEOUT_S = 10.0

_OWNERS = text(
    "SELECT DISTINCT owner FROM chassis.lease WHERE owner <> '' AND "
    "EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = lease.owner)"
)
_LOCK = text("SELECT name FROM chassis.lease ORDER BY name FOR UPDATE")


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


class LogAccess(Protocol):
    """Access to the log; `ServiceSettings` has it."""

    @property
    def nats_url(self) -> str:
        """The address of NATS."""

    @property
    def nats_user(self) -> str:
        """The user, who may read the stream."""

    @property
    def nats_password_file(self) -> Path | None:
        """The file with the password."""

    @property
    def identity_dir(self) -> Path:
        """The folder with the steward's public root key."""

    @property
    def signed_from_sequence(self) -> int:
        """The first sequence at which every fact has a signature."""


CompareSnapshot = Callable[[str, int], Awaitable[Comparison | None]]
"""Compares the tables with the outbox, in the snapshot with this id and with this newest position, in another process.

Returns None when that process cannot, or when it is not worth its start."""


async def replay(
    service: Replayed,
    access: LogAccess,
    database: Database,
    *,
    rebuild: bool = False,
    other_process: CompareSnapshot | None = None,
) -> Report:
    """Verifies the tables of `service` against the log; with `rebuild`, writes them again from it.

    The service may run during a verification; for a rebuild it must be stopped (ConfigurationError). Raises
    LogUnavailableError when the stream does not answer.
    """
    report = Report(service=service.name)
    client = await connect(access.nats_url, access.nats_user, read_secret(access.nats_password_file), wait_s=5)
    try:
        async with database.snapshot() as connection:
            outbox = await OutboxSnapshot(connection).open()
            voided = await _voided(client, access)
            alignment = Alignment(outbox, report, voided, Evidence(database, service.states))
            positions = await read_positions(connection)
            await check_inbox(connection, report)
            async with _comparing(service.states, database, outbox, other_process) as comparing:
                async for messages in _log(client, service.name):
                    await alignment.add(messages)
                await alignment.finish()
                first = await comparing
            comparison = await corrected(connection, service.states, alignment.deviations, first)
        await check_positions(client, positions, report)
    finally:
        await client.close()
    report.facts -= comparison.unreadable
    report.aggregates = comparison.aggregates
    report.include(comparison.faults)
    if not (rebuild and report.equal):
        report.include(comparison.differences)
        return report
    await _rebuild(database, service.states, outbox.newest_position)
    report.rebuilt = True
    return report


async def compare_snapshot(states: Sequence[AnyStored], database: Database, snapshot: str) -> Comparison:
    """Compares the tables with the outbox in a snapshot that another transaction opened."""
    async with database.snapshot() as connection:
        await connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        return await compare(connection, states, Deviations())


@asynccontextmanager
async def _comparing(
    states: Sequence[AnyStored], database: Database, outbox: OutboxSnapshot, other_process: CompareSnapshot | None
) -> AsyncIterator["asyncio.Task[Comparison]"]:
    """Compares the tables with the outbox during the block, if possible in another process."""

    async def work() -> Comparison:
        found = await other_process(outbox.id, outbox.newest_position) if other_process is not None else None
        return found if found is not None else await compare_snapshot(states, database, outbox.id)

    task = asyncio.create_task(work())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _voided(client: Client, access: LogAccess) -> VoidedFacts:
    """Reads keys, and which facts are void. Raises LogUnavailableError."""
    voided = VoidedFacts(KeyDirectory(load_root(access.identity_dir), access.signed_from_sequence))
    try:
        await voided.load(client)
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        raise LogUnavailableError(reason(error)) from error
    return voided


async def _log(client: Client, service: str) -> AsyncIterator[Sequence[Msg]]:
    """Yields every message of this service in the stream. Raises LogUnavailableError."""
    consumer = OrderedConsumer(client, EVENTS, [f"paybill.events.*.{service}.>"], 1, batch=PART)
    try:
        async for messages in consumer.existing(ANSWER_TIMEOUT_S):
            yield messages
        await consumer.close()
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        # Their types could also be errors of PostgreSQL, whose snapshot is open.
        raise LogUnavailableError(reason(error)) from error


async def _rebuild(database: Database, states: Sequence[AnyStored], newest_position: int) -> None:
    """Writes all states again in one transaction, while no process owns a lease."""
    async with database.transaction() as connection:
        await require_stopped(connection)
        if (await connection.execute(NEWEST_POSITION)).scalar_one() != newest_position:
            raise ConfigurationError("a fact was decided after the log was read; rebuild again")
        await write(connection, states)


async def require_stopped(connection: AsyncConnection) -> None:
    """Locks all leases. Raises ConfigurationError when a process owns one."""
    await connection.execute(_LOCK)
    owners = (await connection.execute(_OWNERS)).scalars().all()
    if owners:
        raise ConfigurationError(f"{', '.join(owners)} still runs; stop it, then rebuild again")


async def write(connection: AsyncConnection, states: Sequence[AnyStored]) -> None:
    """Writes the tables of `states` from the outbox. Raises ConfigurationError when a fact cannot be folded."""
    for stored in states:
        await connection.execute(text(f"DELETE FROM {stored.table.name}"))  # noqa: S608  # a name in our code
    faults = Faults()
    async for page in fold(connection, Folding(states, Deviations(), faults)):
        await _insert(connection, states, page)
    if faults.fault_count:
        fault = faults.faults[0]
        raise ConfigurationError(f"{fault.where} cannot be rebuilt ({fault.message}); nothing was rebuilt")


async def _insert(connection: AsyncConnection, states: Sequence[AnyStored], page: Sequence[Folded]) -> None:
    for stored in states:
        rows = [(folded.id, folded.revision, folded.state) for folded in page if folded.stored is stored]
        if rows:
            ids, revisions, documents = map(list, zip(*rows, strict=True))
            await connection.execute(
                _insertion(stored.table.name), {"ids": ids, "revisions": revisions, "states": documents}
            )


def _insertion(table: str) -> TextClause:
    return text(
        f"INSERT INTO {table} (id, revision, state) "  # noqa: S608  # as above
        "SELECT n.id, n.revision, n.state::jsonb FROM unnest(CAST(:ids AS text[]), "
        "CAST(:revisions AS bigint[]), CAST(:states AS text[])) AS n (id, revision, state)"
    )
