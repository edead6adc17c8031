"""Inbox in PostgreSQL: handled ids and the position are written in the transaction of the handler's own changes.

inbox = PostgresInbox(pool, "crm")

@subscriber.on(TenantSuspended)
@once(inbox.transaction)
async def suspended(event: TenantSuspended, fact: Fact, connection: asyncpg.Connection) -> None: ...

Needs the extra `postgres`: pip install paybill-client[postgres].
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from paybill_contracts.envelope import Fact
from paybill_contracts.errors import RetryLaterError

from paybill_client.batches import Batch

TABLES = """
CREATE TABLE IF NOT EXISTS paybill_inbox (
    subscriber text NOT NULL,
    id uuid NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (subscriber, id)
);
CREATE TABLE IF NOT EXISTS paybill_position (
    subscriber text PRIMARY KEY,
    sequence bigint NOT NULL
);
"""
"""Tables of the inbox, for a migration; `PostgresInbox.create_tables` executes the same."""

_CLAIM = """
INSERT INTO paybill_inbox (subscriber, id, sequence)
SELECT $1, claimed.id, claimed.sequence FROM unnest($2::text[]::uuid[], $3::text[]::bigint[]) AS claimed (id, sequence)
ON CONFLICT DO NOTHING RETURNING id
"""
_ADVANCE = """
INSERT INTO paybill_position (subscriber, sequence) VALUES ($1, $2)
ON CONFLICT (subscriber) DO UPDATE SET sequence = greatest(paybill_position.sequence, excluded.sequence)
"""


class PostgresInbox:
    """The handled events of `name`, which must be different for each loop that reads them.

    Ids stay for ever: a consumer that is created again delivers the whole log again.
    """

    def __init__(self, pool: asyncpg.Pool, name: str) -> None:
        self._pool = pool
        self._name = name

    async def create_tables(self) -> None:
        """Creates the tables if they do not exist, in the first schema of the search path."""
        await self._pool.execute(TABLES)

    async def position(self) -> int:
        """Returns the position that the last batch stored, 0 before the first."""
        found = await self._pool.fetchval("SELECT sequence FROM paybill_position WHERE subscriber = $1", self._name)
        return int(found or 0)

    @asynccontextmanager
    async def transaction(self, fact: Fact) -> AsyncIterator[Any]:
        """Begins the transaction of one event; yields its connection, or None when the event was handled before.

        Raises RetryLaterError when the database is not available, which does not count as a failure of the event.
        """
        async with self._begin() as connection:
            yield connection if await self._claim(connection, [fact]) else None

    @asynccontextmanager
    async def batch(self, batch: Batch) -> AsyncIterator[tuple[Any, list[Fact]]]:
        """Begins the transaction of a batch; yields its connection, and the facts that were not handled before.

        It also stores the position of the batch. Raises RetryLaterError when the database is not available.
        """
        async with self._begin() as connection:
            new = await self._claim(connection, batch.facts)
            await connection.execute(_ADVANCE, self._name, batch.position)
            yield connection, new

    async def _claim(self, connection: Any, facts: "tuple[Fact, ...] | list[Fact]") -> list[Fact]:
        """Records the facts' ids; returns the facts whose id was not recorded, each id once."""
        ids, sequences = [fact.id for fact in facts], [str(fact.sequence) for fact in facts]
        claimed = {str(row["id"]) for row in await connection.fetch(_CLAIM, self._name, ids, sequences)}
        new = []
        for fact in facts:
            if fact.id in claimed:
                claimed.remove(fact.id)
                new.append(fact)
        return new

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[Any]:
        try:
            connection = await self._pool.acquire()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise RetryLaterError(f"PostgreSQL is not available: {error or type(error).__name__}") from error
        try:
            async with connection.transaction():
                yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if _is_lost(connection):
                raise RetryLaterError(f"the connection to PostgreSQL was lost: {error}") from error
            raise
        finally:
            await self._pool.release(connection)


def _is_lost(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has taken back a connection that was lost
        return True
