"""Exports a tenant's rows to a file: gzipped JSON lines, deterministic, and written atomically."""

import asyncio
import gzip
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from paybill_contracts.provisioner import Export
from paybill_definitions.blueprint_rules import TENANT_COLUMN

from paybill_provisioner.drivers import directories
from paybill_provisioner.drivers.namespaces import DatabaseNamespace, ident
from paybill_provisioner.drivers.server import Connection

DIRECTORY = "exports"
_BATCH_ROWS = 500
_BYTE_ORDER = ' COLLATE "C"'

# Every existing table, not only those of the current blueprint. Rows are in byte order of the key.
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


async def rows_of(connection: Connection, namespace: DatabaseNamespace) -> AsyncGenerator[list[bytes], None]:
    """Yields all rows of the namespace that the current role can read, as lines of JSON, in batches."""
    for table in await connection.fetch(_TABLES, namespace.schema, TENANT_COLUMN):
        columns = ", ".join(ident(column) for column in table["columns"])
        order = ", ".join(f"r.{ident(name)}{_BYTE_ORDER if text else ''}" for name, text in table["key"] or [])
        name = f"{ident(namespace.schema)}.{ident(table['name'])}"
        query = (
            f"SELECT row_to_json(r)::text FROM (SELECT {columns} FROM {name}) AS r"  # noqa: S608 - all names are quoted
            f" ORDER BY {order or '1'}"
        )
        chunk: list[bytes] = []
        async for row in connection.cursor(query, prefetch=_BATCH_ROWS):
            chunk.append(f'{{"row":{row[0]},"table":"{table["name"]}"}}\n'.encode())
            if len(chunk) == _BATCH_ROWS:
                yield chunk
                chunk = []
        yield chunk


class ExportFile:
    """A file below `directory` that gets its name only when it is complete and synced to disk."""

    def __init__(self, directory: Path, environment_id: str) -> None:
        self._directory = directory
        self._location = f"{DIRECTORY}/{environment_id}.jsonl.gz"
        self._path = directory / self._location
        self._draft = self._path.with_suffix(".draft")

    async def write(self, chunks: AsyncIterator[list[bytes]]) -> Export:
        """Writes all lines, and returns the location, size and SHA-256."""
        rows = 0
        directories.make_private(self._directory, DIRECTORY)
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                async for chunk in chunks:
                    rows += len(chunk)
                    await asyncio.to_thread(packed.write, b"".join(chunk))
            file.flush()
            await asyncio.to_thread(os.fsync, descriptor)
        self._draft.replace(self._path)
        directories.sync(self._path.parent)
        with self._path.open("rb") as file:
            digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
        return Export(
            location=self._location, sha256=digest.hexdigest(), size_bytes=self._path.stat().st_size, rows=rows
        )


def remove_export(directory: Path, location: str) -> None:
    """Removes the file of an export, and its draft. Idempotent. Raises ValueError for a path that is no export."""
    path = (directory / location).resolve()
    if path.parent != (directory / DIRECTORY).resolve():
        raise ValueError(f"{location[:100]!r} is no export")
    for each in (path, path.with_suffix(".draft")):
        each.unlink(missing_ok=True)
    if path.parent.is_dir():
        directories.sync(path.parent)


async def no_rows() -> AsyncIterator[list[bytes]]:
    """Yields no rows, for a tenant without a database."""
    yield []
