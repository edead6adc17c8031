"""The connection to a service's own PostgreSQL database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paybill_runtime.errors import DatabaseUnavailableError, is_away

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30


def engine_url(url: str, password: str) -> URL:
    """The SQLAlchemy URL for asyncpg, with the password put in."""
    made = make_url(url).set(drivername="postgresql+asyncpg")
    return made.set(password=password) if password else made


class Database:
    """A pool of connections. `owner` is shown as application_name, so that a dead process is seen to be gone."""

    def __init__(self, url: str, password: str, owner: str, size: int = 8) -> None:
        self.engine: AsyncEngine = create_async_engine(
            engine_url(url, password),
            pool_size=size,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT_S,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": STATEMENT_TIMEOUT_S,
                "server_settings": {"application_name": owner, "timezone": "UTC"},
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits when the block ends, and rolls back when it raises.

        Raises DatabaseUnavailableError when PostgreSQL is not there, also when the fate of the commit is unknown.
        """
        try:
            async with self.engine.begin() as connection:
                yield connection
        except Exception as error:
            if is_away(error):
                raise DatabaseUnavailableError("PostgreSQL does not answer") from error
            raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """One unchanging view of the whole database, for reading only."""
        try:
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    yield connection
        except Exception as error:
            if is_away(error):
                raise DatabaseUnavailableError("PostgreSQL does not answer") from error
            raise

    async def close(self) -> None:
        """Give all connections back."""
        await self.engine.dispose()
