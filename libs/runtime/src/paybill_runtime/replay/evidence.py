"""Evidence in the database about facts that only the log has, and about the positions of its consumers.

A fact, its outbox row and its state are committed before the relay publishes the fact. What the database has of a fact
without an outbox row therefore shows whether the row was deleted, or the service never decided the fact.
"""

from collections.abc import Mapping, Sequence

from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.decisions.restore_guard import LogStateMismatchError
from paybill_runtime.messaging.stream_identity import check_stream_identity
from paybill_runtime.messaging.streams import EVENTS
from paybill_runtime.replay.report import Faults

_EXISTS = text("SELECT 1 FROM chassis.outbox WHERE event_id::text = :id")
_DECIDED = text(
    "SELECT 1 WHERE EXISTS (SELECT FROM chassis.publication WHERE sequence = :sequence) "
    "OR EXISTS (SELECT FROM chassis.outbox WHERE aggregate = :aggregate AND revision > :revision)"
)
_POSITIONS = text(
    "SELECT sequence, message::text, min(partition) FROM chassis.position "
    "WHERE stream = :stream AND sequence > 0 GROUP BY sequence, message ORDER BY sequence"
)

_INBOX = text(
    "SELECT (SELECT count(*) FROM chassis.inbox), (SELECT coalesce(sum(handled), 0)::bigint FROM chassis.position)"
)

Position = tuple[int, str | None, int]
"""A sequence, the id of the message there, and the first partition with this position."""


class Evidence:
    """Finds what the database has of a fact, as of now: a fact in the log was committed before it was published."""

    def __init__(self, database: Database, states: Sequence[AnyStored]) -> None:
        self._database = database
        self._tables = {stored.kind: stored.table.name for stored in states}

    async def has_row(self, id_: str) -> bool:
        """Returns whether the outbox has a row of this fact."""
        async with self._database.reading() as connection:
            return (await connection.execute(_EXISTS, {"id": id_})).first() is not None

    async def was_decided(self, headers: Mapping[str, str], sequence: int) -> bool:
        """Returns whether this service decided the fact, although the outbox has no row of it.

        True when its publication is recorded, or when a later fact or the state of its aggregate includes its revision.
        """
        aggregate, revision = headers.get("pb-aggregate", ""), headers.get("pb-revision", "")
        if not revision.isascii() or not revision.isdecimal() or len(revision) > 15:  # noqa: PLR2004  # a bigint
            return False
        values = {"sequence": sequence, "aggregate": aggregate, "revision": int(revision)}
        kind, _, id_ = aggregate.partition("/")
        async with self._database.reading() as connection:
            if (await connection.execute(_DECIDED, values)).first() is not None:
                return True
            if kind not in self._tables:
                return False
            query = text(f"SELECT 1 FROM {self._tables[kind]} WHERE id = :id AND revision >= :revision")  # noqa: S608
            state = await connection.execute(query, {"id": id_, "revision": int(revision)})
            return state.first() is not None


async def read_positions(connection: AsyncConnection) -> list[Position]:
    """Returns the positions of the service in the log."""
    return [(row[0], row[1], row[2]) for row in await connection.execute(_POSITIONS, {"stream": EVENTS})]


async def check_inbox(connection: AsyncConnection, faults: Faults) -> None:
    """Reports an inbox that has more or fewer rows than messages were handled."""
    rows, handled = (await connection.execute(_INBOX)).one()
    if rows != handled:
        change = f"{handled - rows} deleted" if rows < handled else f"{rows - handled} added"
        faults.add(
            "wrong_inbox",
            "inbox",
            f"{handled} messages were handled, but the inbox has {rows} rows: at least {change} by something else",
        )


async def check_positions(client: Client, positions: Sequence[Position], faults: Faults) -> None:
    """Reports each position whose message is not at its sequence: it was changed, and facts may have been skipped."""
    for sequence, message, partition in positions:
        try:
            await check_stream_identity(client, EVENTS, sequence, message)
        except LogStateMismatchError:
            faults.add(
                "wrong_position",
                f"partition {partition}",
                f"the position is {sequence}, but the log does not have message {message} there",
            )
