"""The connection to a service's own PostgreSQL database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paybill_runtime.errors import (
    LEASE_LOST,
    ConfigurationError,
    DatabaseUnavailableError,
    LeaseLostError,
    UnknownOutcomeError,
    is_misconfigured,
    is_unavailable,
    reason,
    sqlstate,
)

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30
DIRECT = 4
"""Connections without SQLAlchemy: the loops of the hot path, each of which uses one at a time."""

Connection: TypeAlias = AsyncConnection | asyncpg.Connection
"""Where a statement of the hot path runs: inside somebody's transaction, or as a transaction of its own."""


def engine_url(url: str, password: str) -> URL:
    """The SQLAlchemy URL for asyncpg, with the password put in."""
    made = make_url(url).set(drivername="postgresql+asyncpg")
    return made.set(password=password) if password else made


class Database:
    """A pool of connections. `owner` is shown as application_name, so that a dead process is seen to be gone.

    losses: grows whenever PostgreSQL was found to have gone since it was last asked; it may be another one now.
    """

    def __init__(self, url: str, password: str, owner: str, size: int = 8) -> None:
        connect_args: dict[str, Any] = {
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": STATEMENT_TIMEOUT_S,
            "server_settings": {"application_name": owner, "timezone": "UTC"},
        }
        address = engine_url(url, password)
        self.engine: AsyncEngine = create_async_engine(
            address,
            pool_size=size,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT_S,
            hide_parameters=True,  # what is stored does not belong into logs
            connect_args=connect_args,
        )
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connect_args = {**self.engine.dialect.create_connect_args(address)[1], **connect_args}
        self._free: list[asyncpg.Connection] = []
        self.disconnects = 0
        self._room = asyncio.Semaphore(DIRECT)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits when the block ends, and rolls back when it raises.

        Raises DatabaseUnavailableError when PostgreSQL is not there; UnknownOutcomeError, which is one too, when it
        went away during the commit; ConfigurationError when it does not let this role in.
        """
        committing = False
        with _translating_errors(lambda: committing):
            async with self.engine.begin() as connection:
                yield connection
                committing = True

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """For statements that only read, each by itself: a transaction around one costs two round trips more."""
        with _translating_errors():
            async with self._reading.connect() as connection:
                yield connection

    @asynccontextmanager
    async def direct(self, *, committing: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """The driver's own connection, on which every statement is a transaction.

        By SQLAlchemy the same statement takes three times as long, and a transaction around it five times.
        committing: the statement writes, so that UnknownOutcomeError is raised when PostgreSQL goes away.
        """
        try:
            with _translating_errors(lambda: committing):
                async with self._room:
                    connection = self._idle() or await asyncpg.connect(**self._connect_args)
                    try:
                        yield connection
                    except asyncpg.PostgresError:
                        self._free.append(connection)
                        raise
                    except BaseException:
                        connection.terminate()  # who knows where in a conversation it is
                        raise
                    self._free.append(connection)
        except DatabaseUnavailableError:
            self.disconnects += 1
            raise

    def _idle(self) -> asyncpg.Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self.disconnects += 1
        return None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """One unchanging view of the whole database, for reading only."""
        with _translating_errors():
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    yield connection

    async def close(self) -> None:
        """Give all connections back."""
        while self._free:
            self._free.pop().terminate()
        await self.engine.dispose()


async def fetch_rows(connection: Connection, statement: str, *values: object) -> Sequence[Any]:
    """The rows that a statement with `$1`, `$2`… returns."""
    if isinstance(connection, AsyncConnection):
        return (await connection.exec_driver_sql(statement, values)).all()
    rows: Sequence[Any] = await connection.fetch(statement, *values)
    return rows


@contextmanager
def _translating_errors(committing: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise what an error of the block says about PostgreSQL as a whole, if it does."""
    try:
        yield
    except Exception as error:
        said = _database_error(error, committing=committing())
        if said is None:
            raise
        raise said from error


def _database_error(error: Exception, *, committing: bool) -> Exception | None:
    """What an error says about PostgreSQL as a whole; None when it is about one statement, or said already."""
    if isinstance(error, DatabaseUnavailableError):
        return None
    if sqlstate(error) == LEASE_LOST:
        return LeaseLostError("another process owns this now")
    if is_misconfigured(error):
        return ConfigurationError(f"PostgreSQL refuses PAYBILL_DATABASE_URL with its password file: {reason(error)}")
    if is_unavailable(error):
        if committing:
            return UnknownOutcomeError("PostgreSQL went away during a commit")
        return DatabaseUnavailableError("PostgreSQL does not answer")
    return None
