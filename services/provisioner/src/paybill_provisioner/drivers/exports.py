"""A tenant's rows as a file: gzipped JSON lines, the same bytes for the same rows, there whole or not at all."""

import asyncio
import gzip
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from paybill_contracts.provisioner import Export

from paybill_provisioner.domain.blueprints import TENANT_COLUMN
from paybill_provisioner.drivers import folders
from paybill_provisioner.drivers.server import Connection
from paybill_provisioner.drivers.spaces import Space, ident

FOLDER = "exports"
_ROWS_AT_ONCE = 500
_BYTES = ' COLLATE "C"'

# Every table that is there, not only those of the blueprint of today. The order is that of the key, byte by byte.
_TABLES = """
SELECT c.relname AS name,
       (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> $2) AS columns,
       (SELECT array_agg((a.attname, a.attcollation <> 0) ORDER BY k.place)
        FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place), pg_attribute AS a
        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum
              AND a.attname <> $2) AS key
FROM pg_class AS c
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
ORDER BY c.relname COLLATE "C"
"""


async def rows_of(connection: Connection, space: Space) -> AsyncGenerator[list[bytes], None]:
    """All rows that the current role sees in the space, as lines of JSON, some hundreds at a time."""
    for table in await connection.fetch(_TABLES, space.schema, TENANT_COLUMN):
        columns = ", ".join(ident(column) for column in table["columns"])
        order = ", ".join(f"r.{ident(name)}{_BYTES if text else ''}" for name, text in table["key"] or [])
        name = f"{ident(space.schema)}.{ident(table['name'])}"
        query = (
            f"SELECT row_to_json(r)::text FROM (SELECT {columns} FROM {name}) AS r"  # noqa: S608 - all names are quoted
            f" ORDER BY {order or '1'}"
        )
        chunk: list[bytes] = []
        async for row in connection.cursor(query, prefetch=_ROWS_AT_ONCE):
            chunk.append(f'{{"row":{row[0]},"table":"{table["name"]}"}}\n'.encode())
            if len(chunk) == _ROWS_AT_ONCE:
                yield chunk
                chunk = []
        yield chunk


class ExportFile:
    """A file below `directory` that gets its name only when it is complete and on the disk."""

    def __init__(self, directory: Path, environment_id: str) -> None:
        self._directory = directory
        self._location = f"{FOLDER}/{environment_id}.jsonl.gz"
        self._path = directory / self._location
        self._draft = self._path.with_suffix(".draft")

    async def write(self, chunks: AsyncIterator[list[bytes]]) -> Export:
        """Write all lines; what it is called, how long it is, and its SHA-256."""
        rows = 0
        folders.make_private(self._directory, FOLDER)
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                async for chunk in chunks:
                    rows += len(chunk)
                    await asyncio.to_thread(packed.write, b"".join(chunk))
            file.flush()
            await asyncio.to_thread(os.fsync, descriptor)
        self._draft.replace(self._path)
        folders.sync(self._path.parent)
        with self._path.open("rb") as file:
            digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
        return Export(
            location=self._location, sha256=digest.hexdigest(), size_bytes=self._path.stat().st_size, rows=rows
        )


async def no_rows() -> AsyncIterator[list[bytes]]:
    """The rows of a tenant that never had a place."""
    yield []
