"""Migration of a service's database: first the runtime's tables, then the service's, under one lock."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from sqlalchemy import Connection, MetaData, text

from paybill_runtime.database.pool import Database
from paybill_runtime.database.tables import SCHEMA
from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError

_REFUSED, _UNAVAILABLE = 2, 10
"""Exit codes of the migrating process: the database is of a newer version, or does not answer."""


def run(metadata: MetaData) -> None:
    """Runs the migrations on the connection of `migrate`; called by an env.py."""
    _alembic().run(metadata)


async def migrate(database: Database, service: str) -> None:
    """Migrates the database of `service` to the newest revision. Idempotent.

    Raises ConfigurationError when the database is of a newer version, and DatabaseUnavailableError.
    """
    async with database.transaction() as connection:
        if await connection.run_sync(_is_newest, _packages(service)):
            return
    # In a process of its own: Alembic and its imports are 8 MB that a service would keep permanently.
    child = await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", __name__, service, stdin=PIPE, stderr=PIPE)
    url = database.engine.url.render_as_string(hide_password=False)
    _, output = await child.communicate(url.encode())
    message = output.decode("utf-8", "replace").strip()
    if child.returncode == _REFUSED:
        raise ConfigurationError(message)
    if child.returncode == _UNAVAILABLE:
        raise DatabaseUnavailableError(message)
    if child.returncode:
        raise RuntimeError(f"the tables of {service} cannot be migrated: {message}")


async def require_newest(database: Database, service: str) -> None:
    """Raises ConfigurationError when the database does not have the newest revision, and DatabaseUnavailableError."""
    async with database.transaction() as connection:
        if not await connection.run_sync(_is_newest, _packages(service)):
            raise ConfigurationError(
                f"the database of {service} is of another version; run: python -m paybill_{service} migrate"
            )


async def _upgrade(url: str, service: str) -> None:
    database = Database(url, "", "migrating")
    try:
        async with database.transaction() as connection:
            await connection.run_sync(_alembic().upgrade, _packages(service))
    finally:
        await database.close()


async def check(database: Database, service: str) -> None:
    """Raises when the migrations and the tables in the code differ."""
    async with database.transaction() as connection:
        await connection.run_sync(_alembic().check, _packages(service))


def autogenerate(url: str, password: str, service: str, message: str) -> None:
    """Writes a new revision for `service` from the difference between its tables and a migrated database."""

    async def work() -> None:
        database = Database(url, password, "autogenerate")
        async with database.transaction() as connection:
            await connection.run_sync(_alembic().revise, _packages(service)[-1], message)
        await database.close()

    asyncio.run(work())


def _alembic() -> ModuleType:
    # Importing Alembic takes 0.2 s in every service, and at most starts there is nothing to migrate.
    return import_module("paybill_runtime.database.alembic_runner")


def _packages(service: str) -> list[tuple[str, str | None]]:
    """Returns the packages of revisions; a service without tables of its own has none."""
    packages: list[tuple[str, str | None]] = [("paybill_runtime.database.migrations", SCHEMA)]
    own = f"paybill_{service.replace('-', '_')}.migrations"
    return [*packages, (own, None)] if find_spec(own) is not None else packages


def _is_newest(connection: Connection, packages: list[tuple[str, str | None]]) -> bool:
    """Returns whether the database has each package's last revision; files are named `<revision>_<words>.py`."""
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
        sys.exit(_REFUSED if isinstance(error, ConfigurationError) else _UNAVAILABLE)
