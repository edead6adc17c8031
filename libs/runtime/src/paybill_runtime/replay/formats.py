"""Formats in which states are stored: a table with an earlier one is written again from the facts."""

from sqlalchemy import text

from paybill_runtime.database.migrate import migrate
from paybill_runtime.database.pool import Database
from paybill_runtime.replay.verify import Replayed, require_stopped, write

_FORMATS = text("SELECT kind, format FROM chassis.state_format")
_SET_FORMAT = text(
    "INSERT INTO chassis.state_format (kind, format) VALUES (:kind, :format) "
    "ON CONFLICT (kind) DO UPDATE SET format = excluded.format"
)


async def migrate_states(database: Database, service: Replayed) -> list[str]:
    """Migrates the database, then writes the tables again whose format has changed. Returns their kinds. Idempotent.

    The facts are in the outbox. Raises ConfigurationError when the database is of a newer version, when another process
    of the service runs, or when the facts cannot be folded, and DatabaseUnavailableError.
    """
    await migrate(database, service.name)
    async with database.transaction() as connection:
        rows = await connection.execute(_FORMATS)
        formats: dict[str, int] = {row.kind: row.format for row in rows}
        changed = [each for each in service.states if formats.get(each.kind, 1) != each.format]
        if not changed:
            return []
        await require_stopped(connection)
        await write(connection, changed)
        new = [{"kind": each.kind, "format": each.format} for each in changed]
        await connection.execute(_SET_FORMAT, new)
    return [each.kind for each in changed]
