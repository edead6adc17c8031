"""Connections that know the built-in types which an earlier connection of the process has queried.

The driver knows almost no array type: on each new connection it queries the catalogue when a statement uses one. This
query takes PostgreSQL 20 ms, which is half of all its work for a service that starts.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import asyncpg

_FIRST_VARIABLE = 10_000
"""Types below this oid have the same oid in every server (FirstGenbkiObjectId in PostgreSQL's access/transam.h)."""

_types: dict[int, Any] = {}
_NO_QUERY = SimpleNamespace(name="none")  # a name means: no unnamed statement was replaced


class TypedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Connection that queries a built-in type once in the process."""

    async def _introspect_types(self, typeoids: Iterable[int], timeout: float | None) -> tuple[list[Any], Any]:  # noqa: ASYNC109  # the signature of the driver
        """Returns the rows that describe the types and their elements, and the statement of the query."""
        described: list[Any] = []
        statement: Any = _NO_QUERY
        for oid in typeoids:
            rows = _types.get(oid)
            if rows is None:
                rows, statement = await super()._introspect_types((oid,), timeout)
                if oid < _FIRST_VARIABLE:
                    _types[oid] = rows
            described += rows
        return described, statement
