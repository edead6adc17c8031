"""Schema changes, by Alembic: first the chassis's tables, then the service's, under one lock."""

import asyncio
from importlib import import_module
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData, text

from paybill_runtime.database import Database
from paybill_runtime.tables import SCHEMA

_LOCK = 7_221_904_011
"""The key of the advisory lock that lets one replica migrate at a time; an arbitrary constant."""


def run(metadata: MetaData) -> None:
    """What an env.py does: run the migrations on the connection that `migrate` handed over."""
    connection: Connection = context.config.attributes["connection"]
    schema = context.config.attributes["version_schema"]
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=schema,
        include_schemas=schema is not None,
        include_object=lambda item, _name, type_, *_: type_ != "table" or item.schema == schema,
    )
    with context.begin_transaction():
        context.run_migrations()


def _config(package: str, schema: str | None, connection: Connection) -> Config:
    config = Config()
    location = Path(import_module(package).__path__[0])
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_schema"] = schema
    return config


def _upgrade(connection: Connection, packages: list[tuple[str, str | None]]) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    for package, schema in packages:
        command.upgrade(_config(package, schema, connection), "head")


def _check(connection: Connection, packages: list[tuple[str, str | None]]) -> None:
    for package, schema in packages:
        command.check(_config(package, schema, connection))


def _packages(service: str) -> list[tuple[str, str | None]]:
    return [("paybill_runtime.migrations", SCHEMA), (f"paybill_{service.replace('-', '_')}.migrations", None)]


async def migrate(database: Database, service: str) -> None:
    """Bring the database of `service` to the newest shape; does nothing when it is there already."""
    async with database.transaction() as connection:
        await connection.run_sync(_upgrade, _packages(service))


async def check(database: Database, service: str) -> None:
    """Raise when the migrations and the tables in the code disagree."""
    async with database.transaction() as connection:
        await connection.run_sync(_check, _packages(service))


def autogenerate(url: str, password: str, service: str, message: str) -> None:
    """Write a new revision for `service` from the difference between its tables and an upgraded database."""

    async def work() -> None:
        database = Database(url, password, "autogenerate")

        def revise(connection: Connection) -> None:
            command.revision(_config(*_packages(service)[1], connection), message=message, autogenerate=True)

        async with database.transaction() as connection:
            await connection.run_sync(revise)
        await database.close()

    asyncio.run(work())
