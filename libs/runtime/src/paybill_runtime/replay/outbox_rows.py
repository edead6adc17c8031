"""Outbox rows in one snapshot of the database, read in pages: in the order of the log, or by aggregate and revision."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Self
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.arrays import texts
from paybill_runtime.database.pool import fetch_rows
from paybill_runtime.decisions.outbox_headers import FactColumns, complete

PAGE = 2000
"""Rows that are in memory at a time."""

# Pages are found by an index, from the last row of the page before: no sort, and no cursor that stays open.
_COLUMNS = (
    "SELECT event_id::text, aggregate, revision, tenant, subject, recorded_at, sequence, headers, payload, position "
)
_BY_SEQUENCE = (
    f"{_COLUMNS} FROM chassis.publication JOIN chassis.outbox USING (position) WHERE sequence IS NOT NULL "
    f"AND (sequence, position) > ($1::bigint, $2::bigint) ORDER BY sequence, position LIMIT {PAGE}"
)
_OUTBOX = f"{_COLUMNS} FROM chassis.outbox LEFT JOIN chassis.publication USING (position)"
_BY_ID = f"{_OUTBOX} WHERE event_id = ANY($1::text[]::uuid[])"
_AFTER = f"(aggregate, revision) > ($1::text, $2::bigint) ORDER BY aggregate, revision LIMIT {PAGE}"
_BY_REVISION = f"{_OUTBOX} WHERE {_AFTER}"
_OF_AGGREGATES = f"{_OUTBOX} WHERE aggregate = ANY($3::text[]) AND {_AFTER}"
_UNCONFIRMED = (
    "SELECT position, event_id::text FROM chassis.publication JOIN chassis.outbox USING (position) "  # noqa: S608
    f"WHERE sequence IS NULL AND position > $1::bigint ORDER BY position LIMIT {PAGE}"
)
NEWEST_POSITION = text("SELECT coalesce(max(position), 0) FROM chassis.outbox")
_NEWEST = text(
    "SELECT (SELECT coalesce(max(sequence), 0) FROM chassis.publication WHERE sequence IS NOT NULL), "
    "(SELECT coalesce(max(position), 0) FROM chassis.outbox), pg_export_snapshot()"
)


class OutboxRow(NamedTuple):
    """A row of the outbox. sequence: in the stream, None until the stream confirmed it."""

    id: str
    aggregate: str
    revision: int
    tenant: str | None
    subject: str
    recorded_at: datetime
    sequence: int | None
    headers: str
    payload: bytes
    position: int = 0

    def matches(self, subject: str, headers: Mapping[str, str], payload: bytes) -> bool:
        """Returns whether a message equals this row, apart from headers that the relay adds."""
        if self.payload != payload or self.subject != subject:
            return False
        try:
            own = self.parse_headers()
        except ValueError:
            return False
        # NATS strips spaces around values and line breaks.
        return own.items() <= headers.items() or all(
            _normalised(value) == _normalised(headers.get(name, "")) for name, value in own.items()
        )

    def parse_headers(self) -> dict[str, str]:
        """Returns the headers. Raises ValueError when they are malformed."""
        return complete(self.headers, FactColumns._make(self[:6]))


def _normalised(value: str) -> str:
    return " ".join(value.split())


class OutboxSnapshot:
    """The outbox in the snapshot of `connection`, in the order of the log. Call `open` first.

    id: of the snapshot, with which another transaction reads the same state while this one is open.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._ahead: deque[OutboxRow] = deque()
        self._last = (0, 0)
        self.newest_sequence = 0
        self.newest_position = 0
        self.id = ""

    async def open(self) -> Self:
        """Starts the snapshot."""
        newest = (await self._connection.execute(_NEWEST)).one()
        self.newest_sequence, self.newest_position, self.id = newest
        return self

    async def up_to(self, sequence: int) -> AsyncIterator[list[OutboxRow]]:
        """Yields further rows that were confirmed up to this sequence, in order and in parts."""
        while True:
            part = []
            while self._ahead and (self._ahead[0].sequence or 0) <= sequence:
                part.append(self._ahead.popleft())
            if part:
                yield part
            if self._ahead:
                return
            self._ahead.extend(await _page(self._connection, _BY_SEQUENCE, *self._last))
            if not self._ahead:
                return
            self._last = self._ahead[-1].sequence or 0, self._ahead[-1].position

    async def by_id(self, ids: Iterable[str]) -> dict[str, OutboxRow]:
        """Returns the rows of these events, by id."""
        uuids = [id_ for id_ in map(_uuid, ids) if id_ is not None]
        return {row.id: row for row in await _page(self._connection, _BY_ID, texts(uuids))} if uuids else {}

    async def unconfirmed(self) -> AsyncIterator[str]:
        """Yields the ids of the rows that are not confirmed yet, in the order of their positions."""
        position = 0
        while rows := await fetch_rows(self._connection, _UNCONFIRMED, position):
            for _, id_ in rows:
                yield id_
            position = rows[-1][0]


async def by_revision(
    connection: AsyncConnection, aggregates: Sequence[str] | None = None
) -> AsyncIterator[list[OutboxRow]]:
    """Yields pages of all rows, or of those of some aggregates, in the order of aggregate and revision."""
    after: tuple[str, int] = ("", 0)
    while True:
        more = () if aggregates is None else (list(aggregates),)
        rows = await _page(connection, _BY_REVISION if aggregates is None else _OF_AGGREGATES, *after, *more)
        if not rows:
            return
        yield rows
        after = rows[-1].aggregate, rows[-1].revision


async def _page(connection: AsyncConnection, statement: str, *values: object) -> list[OutboxRow]:
    return list(map(OutboxRow._make, await fetch_rows(connection, statement, *values)))


def _uuid(id_: str) -> UUID | None:
    try:
        return UUID(id_)
    except ValueError:
        return None
