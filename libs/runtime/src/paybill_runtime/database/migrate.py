"""Schema changes: first the chassis's tables, then the service's, under one lock; nothing when all is new already."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sqlalchemy import Connection, MetaData, text

from paybill_runtime.database.pool import Database
from paybill_runtime.database.tables import SCHEMA
from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError

_REFUSED, _AWAY = 2, 10
"""How the process that changes tables ends when it may not, or cannot."""


def run(metadata: MetaData) -> None:
    """What an env.py does: run the migrations on the connection that `migrate` handed over."""
    _revisions().run(metadata)


async def migrate(database: Database, service: str) -> None:
    """Bring the database of `service` to the newest shape; does nothing when it is there already.

    Raises ConfigurationError when the database is of a newer version, and DatabaseUnavailableError.
    """
    async with database.transaction() as connection:
        if await connection.run_sync(_is_newest, _packages(service)):
            return
    # In a process that ends: Alembic, and what it takes along, is 8 MB that a service would keep for ever.
    child = await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", __name__, service, stdin=PIPE, stderr=PIPE)
    url = database.engine.url.render_as_string(hide_password=False)
    _, output = await child.communicate(url.encode())
    said = output.decode("utf-8", "replace").strip()
    if child.returncode == _REFUSED:
        raise ConfigurationError(said)
    if child.returncode == _AWAY:
        raise DatabaseUnavailableError(said)
    if child.returncode:
        raise RuntimeError(f"the tables of {service} cannot be changed: {said}")


async def _upgrade(url: str, service: str) -> None:
    database = Database(url, "", "migrating")
    try:
        async with database.transaction() as connection:
            await connection.run_sync(_revisions().upgrade, _packages(service))
    finally:
        await database.close()


async def check(database: Database, service: str) -> None:
    """Raise when the migrations and the tables in the code disagree."""
    async with database.transaction() as connection:
        await connection.run_sync(_revisions().check, _packages(service))


def autogenerate(url: str, password: str, service: str, message: str) -> None:
    """Write a new revision for `service` from the difference between its tables and an upgraded database."""

    async def work() -> None:
        database = Database(url, password, "autogenerate")
        async with database.transaction() as connection:
            await connection.run_sync(_revisions().revise, _packages(service)[1], message)
        await database.close()

    asyncio.run(work())


def _revisions() -> ModuleType:
    # Alembic takes 0.2 s, in every service, and at most starts there is nothing for it to do.
    return import_module("paybill_runtime.database.alembic_runner")


def _packages(service: str) -> list[tuple[str, str | None]]:
    return [("paybill_runtime.database.migrations", SCHEMA), (f"paybill_{service.replace('-', '_')}.migrations", None)]


def _is_newest(connection: Connection, packages: list[tuple[str, str | None]]) -> bool:
    """Whether each package's last revision is the database's; files are named `<revision>_<words>.py`."""
    for package, schema in packages:
        table = f"{schema}.alembic_version" if schema else "alembic_version"
        if connection.execute(text("SELECT to_regclass(:table)"), {"table": table}).scalar_one() is None:
            return False
        known = connection.execute(text(f"SELECT version_num FROM {table}")).scalars().all()  # noqa: S608  # from above
        versions = Path(import_module(package).__path__[0], "versions")
        if known != [max(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))]:
            return False
    return True


if __name__ == "__main__":
    try:
        asyncio.run(_upgrade(sys.stdin.read(), sys.argv[1]))
    except (ConfigurationError, DatabaseUnavailableError) as error:
        sys.stderr.write(str(error))
        sys.exit(_REFUSED if isinstance(error, ConfigurationError) else _AWAY)
