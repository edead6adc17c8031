"""Calls of Alembic. Imported only when there is something to migrate: see `migrate`."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, text

from paybill_runtime.database.tables import SCHEMA
from paybill_runtime.errors import ConfigurationError

_LOCK = 7_221_904_011
"""The key of the advisory lock with which one replica migrates at a time; an arbitrary constant."""

Package = tuple[str, str | None]
"""A package of revisions, and the schema of the tables that they change."""


def run(metadata: MetaData) -> None:
    """Runs the migrations on the connection in Alembic's configuration; called by an env.py."""
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


def upgrade(connection: Connection, packages: Sequence[Package]) -> None:
    """Migrates the tables of all `packages` to their newest revision. Raises ConfigurationError."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    for package in packages:
        try:
            command.upgrade(_config(package, connection), "head")
        except CommandError as error:
            raise ConfigurationError(
                f"the database was migrated by a newer version of this service ({error}); run that version"
            ) from error


def check(connection: Connection, packages: Sequence[Package]) -> None:
    """Raises when the migrations and the tables in the code differ."""
    for package in packages:
        command.check(_config(package, connection))


def revise(connection: Connection, package: Package, message: str) -> None:
    """Writes a new revision from the difference between the tables in the code and the database."""
    command.revision(_config(package, connection), message=message, autogenerate=True)


def _config(package: Package, connection: Connection) -> Config:
    name, schema = package
    config = Config()
    location = Path(import_module(name).__path__[0])
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_schema"] = schema
    return config
