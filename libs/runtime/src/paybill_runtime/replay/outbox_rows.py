"""What a service decided, as its outbox tells it in one view of the database, read beside the log and never whole."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple, Self
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult

PART = 2000
"""Rows that are held at a time."""

_COLUMNS = "SELECT event_id::text, aggregate, revision, subject, sequence, headers, payload FROM chassis.outbox "
_CONFIRMED = text(f"{_COLUMNS} WHERE sequence IS NOT NULL ORDER BY sequence")
_WAITING = text(f"{_COLUMNS} WHERE sequence IS NULL ORDER BY position")
_NAMED = text(f"{_COLUMNS} WHERE event_id = ANY(CAST(:ids AS uuid[]))")
_NEWEST = text("SELECT coalesce(max(sequence), 0), coalesce(max(position), 0) FROM chassis.outbox")


class Decided(NamedTuple):
    """A row of the outbox. sequence: its place in the stream, None until that is confirmed."""

    id: str
    aggregate: str
    revision: int
    subject: str
    sequence: int | None
    headers: str
    payload: bytes

    def is_in(self, subject: str, headers: Mapping[str, str], payload: bytes) -> bool:
        """Whether a message says exactly this. What the publisher of a batch adds to the headers is not looked at."""
        if self.payload != payload or self.subject != subject:
            return False
        try:
            mine = self.head()
        except ValueError:
            return False
        # On its way a value loses the spaces around it, and its line breaks.
        return mine.items() <= headers.items() or all(
            _plain(value) == _plain(headers.get(name, "")) for name, value in mine.items()
        )

    def head(self) -> dict[str, str]:
        """The headers. Raises ValueError when the row does not hold any."""
        head = orjson.loads(self.headers)
        if not isinstance(head, dict) or set(map(type, head.values())) != {str}:
            raise ValueError("its headers are no texts by name")
        return head


def _plain(value: str) -> str:
    return " ".join(value.split())


class Outbox:
    """The outbox in the view of `connection`, which has to stay open meanwhile. `open` comes first."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._ahead: deque[Decided] = deque()
        self._confirmed: AsyncResult[Any]
        self.newest_sequence = 0
        self.newest_position = 0

    async def open(self) -> Self:
        """From here on, what is decided is not seen."""
        newest = (await self._connection.execute(_NEWEST)).one()
        self.newest_sequence, self.newest_position = newest
        self._confirmed = await self._stream(_CONFIRMED)
        return self

    async def upto(self, sequence: int) -> AsyncIterator[list[Decided]]:
        """What was confirmed up to this place in the stream and has not been given yet, in order, in parts."""
        while True:
            part = []
            while self._ahead and (self._ahead[0].sequence or 0) <= sequence:
                part.append(self._ahead.popleft())
            if part:
                yield part
            if self._ahead:
                return
            self._ahead.extend(map(Decided._make, await self._confirmed.fetchmany(PART)))
            if not self._ahead:
                return

    async def named(self, ids: Iterable[str]) -> dict[str, Decided]:
        """Those of these events that this service decided."""
        asked = [id_ for id_ in map(_uuid, ids) if id_ is not None]
        if not asked:
            return {}
        rows = await self._connection.execute(_NAMED, {"ids": asked})
        return {row[0]: Decided._make(row) for row in rows}

    async def waiting(self) -> AsyncIterator[Decided]:
        """What is not confirmed yet, in the order in which it was decided."""
        rows = await self._stream(_WAITING)
        async for row in rows:
            yield Decided._make(row)

    async def _stream(self, query: TextClause) -> AsyncResult[Any]:
        return await self._connection.stream(query, execution_options={"yield_per": PART})


def _uuid(id_: str) -> UUID | None:
    try:
        return UUID(id_)
    except ValueError:
        return None
