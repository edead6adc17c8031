"""The connection to a service's own PostgreSQL database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paybill_runtime.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    UnknownOutcomeError,
    is_away,
    is_misconfigured,
    reason,
)

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
            hide_parameters=True,  # what is stored does not belong into logs
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": STATEMENT_TIMEOUT_S,
                "server_settings": {"application_name": owner, "timezone": "UTC"},
            },
        )
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits when the block ends, and rolls back when it raises.

        Raises DatabaseUnavailableError when PostgreSQL is not there; UnknownOutcomeError, which is one too, when it
        went away during the commit; ConfigurationError when it does not let this role in.
        """
        committing = False
        try:
            async with self.engine.begin() as connection:
                yield connection
                committing = True
        except Exception as error:
            said = _in_our_words(error, committing=committing)
            if said is None:
                raise
            raise said from error

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """For statements that only read, each by itself: a transaction around one costs two round trips more."""
        try:
            async with self._reading.connect() as connection:
                yield connection
        except Exception as error:
            said = _in_our_words(error)
            if said is None:
                raise
            raise said from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """One unchanging view of the whole database, for reading only."""
        try:
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    yield connection
        except Exception as error:
            said = _in_our_words(error)
            if said is None:
                raise
            raise said from error

    async def close(self) -> None:
        """Give all connections back."""
        await self.engine.dispose()


def _in_our_words(error: Exception, *, committing: bool = False) -> Exception | None:
    """What an error says about PostgreSQL as a whole; None when it is about one statement, or said already."""
    if isinstance(error, DatabaseUnavailableError):
        return None
    if is_misconfigured(error):
        return ConfigurationError(f"PostgreSQL refuses PAYBILL_DATABASE_URL with its password file: {reason(error)}")
    if is_away(error):
        if committing:
            return UnknownOutcomeError("PostgreSQL went away during a commit")
        return DatabaseUnavailableError("PostgreSQL does not answer")
    return None
