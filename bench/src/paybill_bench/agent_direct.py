"""Peer: the same read and the same write with asyncpg alone, and one committed insert for each call.

In the process of the benchmark, without HTTP, keys, grants or schema.
"""

import json
import time
from collections.abc import Sequence

import asyncpg

READ = "SELECT id, customer_id, item, total FROM orders WHERE customer_id = $1 ORDER BY id LIMIT 10"
WRITE = "UPDATE orders SET total = $2 WHERE id = $1 RETURNING id, total"
_TABLE = "CREATE TABLE fact (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)"
_INSERT = "INSERT INTO fact (payload) VALUES ($1)"


class Direct:
    """Connections to the tenant's database, and to a database for the facts."""

    def __init__(self, tenant: asyncpg.Connection, facts: asyncpg.Connection) -> None:
        self._tenant, self._facts = tenant, facts

    async def prepare(self) -> None:
        """Creates the table of facts and prepares the statements."""
        await self._facts.execute(_TABLE)
        self._read = await self._tenant.prepare(READ)
        self._write = await self._tenant.prepare(WRITE)
        self._insert = await self._facts.prepare(_INSERT)

    async def read(self, customers: Sequence[str]) -> list[float]:
        """Returns milliseconds of each read of a customer's orders."""
        return [await self._timed(self._read, customer) for customer in customers]

    async def write(self, orders: Sequence[tuple[str, int]]) -> list[float]:
        """Returns milliseconds of each change of an order's total."""
        return [await self._timed(self._write, order, total) for order, total in orders]

    async def _timed(self, statement: asyncpg.prepared_stmt.PreparedStatement, *values: str | int) -> float:
        begin = time.perf_counter()
        rows = await statement.fetch(*values)
        await self._insert.fetch(json.dumps([dict(row) for row in rows]))
        return (time.perf_counter() - begin) * 1000
