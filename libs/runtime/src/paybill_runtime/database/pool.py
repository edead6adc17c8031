"""Connections to a service's own PostgreSQL database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
from nats.errors import Error as NatsError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paybill_runtime.database.dry_run import forbid_in_dry_run
from paybill_runtime.errors import (
    LEASE_LOST,
    ConfigurationError,
    DatabaseFullError,
    DatabaseUnavailableError,
    LeaseLostError,
    UnknownOutcomeError,
    is_full,
    is_misconfigured,
    is_unavailable,
    reason,
    sqlstate,
)

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30
RECONNECT_S = 1.0
DIRECT = 4
"""Connections without SQLAlchemy: for the loops of the hot path, each of which uses one at a time."""

Connection: TypeAlias = AsyncConnection | asyncpg.Connection
"""A connection for statements of the hot path: inside a transaction, or one on which each statement is one."""


def engine_url(url: str, password: str) -> URL:
    """Returns the SQLAlchemy URL for asyncpg, including the password."""
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    return parsed.set(password=password) if password else parsed


class Database:
    """A pool of connections. `owner` is their application_name, by which other replicas detect a dead process.

    disconnects: counts lost connections; afterwards PostgreSQL may be another server, or restored from a backup.
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
            hide_parameters=True,  # stored values must not reach logs
            connect_args=connect_args,
        )
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connect_args = {**self.engine.dialect.create_connect_args(address)[1], **connect_args}
        self._free: list[asyncpg.Connection] = []
        self.disconnects = 0
        self._slots = asyncio.Semaphore(DIRECT)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that commits when the block ends, and rolls back when it raises.

        Raises DatabaseUnavailableError when PostgreSQL does not answer; its subclass UnknownOutcomeError when the
        connection was lost during the commit; ConfigurationError when PostgreSQL rejects this role; NoDryRunError.
        """
        forbid_in_dry_run()
        committing = False
        with _translating_errors(lambda: committing):
            async with self.engine.begin() as connection:
                yield connection
                committing = True

    @asynccontextmanager
    async def rehearsal(self) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that is always rolled back."""
        with _translating_errors():
            async with self.engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Opens an autocommit connection for queries: a transaction around a query costs two more round trips."""
        with _translating_errors():
            async with self._reading.connect() as connection:
                yield connection

    @asynccontextmanager
    async def direct(self, *, committing: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """Opens a connection of the driver, on which every statement is a transaction.

        Through SQLAlchemy the same statement takes three times as long, and in a transaction five times.
        committing: the statement writes, so that UnknownOutcomeError is raised when the connection is lost.
        """
        if committing:
            forbid_in_dry_run()
        try:
            with _translating_errors(lambda: committing):
                async with self._slots:
                    connection = self._idle() or await asyncpg.connect(**self._connect_args)
                    try:
                        yield connection
                    except asyncpg.PostgresError:
                        self._free.append(connection)
                        raise
                    except BaseException:
                        connection.terminate()  # a response may be incomplete
                        raise
                    self._free.append(connection)
        except DatabaseUnavailableError:
            self.disconnects += 1
            raise

    async def notify(self, channel: str) -> None:
        """Sends a notice to every connection that listens on a channel."""
        async with self.direct() as connection:
            await connection.execute("SELECT pg_notify($1, '')", channel)

    async def listen(self, channel: str, on_notice: Callable[[], None]) -> None:
        """Calls `on_notice` for every notice on a channel, and after every connection, until cancelled."""
        while True:
            with contextlib.suppress(DatabaseUnavailableError), _translating_errors():
                await self._listen(channel, on_notice)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, channel: str, on_notice: Callable[[], None]) -> None:
        """Listens until the connection is lost."""
        connection = await asyncpg.connect(**self._connect_args)
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        try:
            await connection.add_listener(channel, lambda *_: on_notice())
            on_notice()
            await closed.wait()
        finally:
            connection.terminate()

    def _idle(self) -> asyncpg.Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self.disconnects += 1
        return None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Opens a read-only transaction with one snapshot of the whole database."""
        with _translating_errors():
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    yield connection

    async def close(self) -> None:
        """Closes all connections."""
        while self._free:
            self._free.pop().terminate()
        await self.engine.dispose()


async def fetch_rows(connection: Connection, statement: str, *values: object) -> Sequence[Any]:
    """Returns the rows of a statement with placeholders (`$1`, `$2`…)."""
    if isinstance(connection, AsyncConnection):
        return (await connection.exec_driver_sql(statement, values)).all()
    rows: Sequence[Any] = await connection.fetch(statement, *values)
    return rows


@contextmanager
def _translating_errors(committing: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Translates errors of the block that concern PostgreSQL as a whole."""
    try:
        yield
    except Exception as error:
        translated = _database_error(error, committing=committing())
        if translated is None:
            raise
        raise translated from error


def _database_error(error: Exception, *, committing: bool) -> Exception | None:
    """Returns the error that concerns PostgreSQL as a whole; None for another one, or one translated before."""
    if isinstance(error, (DatabaseUnavailableError, NatsError)):  # some errors of NATS are a TimeoutError
        return None
    if sqlstate(error) == LEASE_LOST:
        return LeaseLostError("another process owns this lease")
    if is_misconfigured(error):
        return ConfigurationError(f"PostgreSQL rejects PAYBILL_DATABASE_URL with its password file: {reason(error)}")
    if is_full(error):
        return DatabaseFullError(f"PostgreSQL has no space on its disk ({reason(error)})")
    if is_unavailable(error):
        if committing:
            return UnknownOutcomeError("the connection to PostgreSQL was lost during a commit")
        return DatabaseUnavailableError("PostgreSQL does not answer")
    return None
