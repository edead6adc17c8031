"""Schema changes: first the chassis's tables, then the service's, under one lock; nothing when all is new already."""

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sqlalchemy import Connection, MetaData, text

from paybill_runtime.database import Database
from paybill_runtime.tables import SCHEMA


def run(metadata: MetaData) -> None:
    """What an env.py does: run the migrations on the connection that `migrate` handed over."""
    _revisions().run(metadata)


async def migrate(database: Database, service: str) -> None:
    """Bring the database of `service` to the newest shape; does nothing when it is there already."""
    async with database.transaction() as connection:
        packages = _packages(service)
        if not await connection.run_sync(_is_newest, packages):
            await connection.run_sync(_revisions().upgrade, packages)


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
    # Alembic costs 4 MB and 0.2 s, in every service, and at most starts there is nothing for it to do. It takes Mako
    # along, which would colour its pages of errors with Pygments, another 4 MB, wherever that is installed.
    sys.modules.setdefault("mako.ext.pygmentplugin", None)  # type: ignore[arg-type]  # None keeps it from being imported
    return import_module("paybill_runtime.revisions")


def _packages(service: str) -> list[tuple[str, str | None]]:
    return [("paybill_runtime.migrations", SCHEMA), (f"paybill_{service.replace('-', '_')}.migrations", None)]


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
