"""Outbox rows in one snapshot of the database, read in parts and in the order of the log."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple, Self
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult

PART = 2000
"""Rows that are in memory at a time."""

_COLUMNS = "SELECT event_id::text, aggregate, revision, subject, sequence, headers, payload FROM chassis.outbox "
_CONFIRMED = text(f"{_COLUMNS} WHERE sequence IS NOT NULL ORDER BY sequence")
_UNCONFIRMED = text(f"{_COLUMNS} WHERE sequence IS NULL ORDER BY position")
_BY_ID = text(f"{_COLUMNS} WHERE event_id = ANY(CAST(:ids AS uuid[]))")
_NEWEST = text("SELECT coalesce(max(sequence), 0), coalesce(max(position), 0) FROM chassis.outbox")


class OutboxRow(NamedTuple):
    """A row of the outbox. sequence: in the stream, None until the stream confirmed it."""

    id: str
    aggregate: str
    revision: int
    subject: str
    sequence: int | None
    headers: str
    payload: bytes

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
        headers = orjson.loads(self.headers)
        if not isinstance(headers, dict) or set(map(type, headers.values())) != {str}:
            raise ValueError("its headers are not an object of strings")
        return headers


def _normalised(value: str) -> str:
    return " ".join(value.split())


class OutboxSnapshot:
    """The outbox in the snapshot of `connection`, which has to stay open. Call `open` first."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._ahead: deque[OutboxRow] = deque()
        self._confirmed: AsyncResult[Any]
        self.newest_sequence = 0
        self.newest_position = 0

    async def open(self) -> Self:
        """Starts the snapshot."""
        newest = (await self._connection.execute(_NEWEST)).one()
        self.newest_sequence, self.newest_position = newest
        self._confirmed = await self._stream(_CONFIRMED)
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
            self._ahead.extend(map(OutboxRow._make, await self._confirmed.fetchmany(PART)))
            if not self._ahead:
                return

    async def by_id(self, ids: Iterable[str]) -> dict[str, OutboxRow]:
        """Returns the rows of these events, by id."""
        uuids = [id_ for id_ in map(_uuid, ids) if id_ is not None]
        if not uuids:
            return {}
        rows = await self._connection.execute(_BY_ID, {"ids": uuids})
        return {row[0]: OutboxRow._make(row) for row in rows}

    async def unconfirmed(self) -> AsyncIterator[OutboxRow]:
        """Yields the rows that are not confirmed yet, in the order of their positions."""
        rows = await self._stream(_UNCONFIRMED)
        async for row in rows:
            yield OutboxRow._make(row)

    async def _stream(self, query: TextClause) -> AsyncResult[Any]:
        return await self._connection.stream(query, execution_options={"yield_per": PART})


def _uuid(id_: str) -> UUID | None:
    try:
        return UUID(id_)
    except ValueError:
        return None
