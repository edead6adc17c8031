"""Connections to the PostgreSQL server that holds tenants' databases, and what is only safe inside one of them."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import RetryAfter

from paybill_provisioner.drivers.spaces import ident

Connection: TypeAlias = Any
"""A connection of asyncpg, which has no types."""

MIN_MAJOR = 16
"""Since PostgreSQL 16 a membership can be inherited without the right to switch to it, which pools rest on."""

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 60
POOL_SIZE = 4
MISSING = (asyncpg.InvalidCatalogNameError, asyncpg.ObjectNotInPrerequisiteStateError)
"""What a connection to a database that is not there, or not open yet, raises."""

AWAY_S = 2.0
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
)
"""The server does not answer, or not now: that is no failure of what was asked of it."""

_SETTINGS = {
    "application_name": "paybill-provisioner",
    "timezone": "UTC",
    # Nothing that anybody made in a shared database is ever found by a name of ours.
    "search_path": "pg_catalog",
    # A statement that waits for a tenant's long transaction would hold up all who come after it.
    "lock_timeout": "5s",
}


class TenantServer:
    """The server at `url`, as a role with CREATEDB and CREATEROLE that is no superuser.

    Shared databases keep a few connections open; a silo is connected to when there is something to do in it.
    """

    def __init__(self, url: str, password: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.path.strip("/"):
            raise ConfigurationError("PAYBILL_LOCAL_DATABASE_URL must look like postgresql://role@host:port/database")
        self.host = parts.hostname
        self.port = parts.port or 5432
        self.home = parts.path.strip("/")
        """The database for what is said to the server as a whole. No tenant gets in, so no tenant holds its locks."""
        self._url = url
        self._password = password
        self._pools: dict[str, asyncpg.Pool] = {}
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """End all connections."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()

    @asynccontextmanager
    async def connection(self, database: str, *, keep: bool) -> AsyncIterator[Connection]:
        """A connection to `database`, from those that are kept open or for this once.

        Raises one of MISSING, and RetryAfter when the server goes away while it is used.
        """
        try:
            async with self._connection(database, keep=keep) as connection:
                yield connection
        except _AWAY as error:
            why = f"the server of tenants' databases, {self.host}:{self.port}, does not answer"
            raise RetryAfter(AWAY_S, why) from error

    @asynccontextmanager
    async def _connection(self, database: str, *, keep: bool) -> AsyncIterator[Connection]:
        if keep:
            pool = self._pools.get(database) or await self._open(database)
            async with pool.acquire() as connection:
                yield connection
            return
        once = await asyncpg.connect(
            self._url,
            password=self._password or None,
            database=database,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings=_SETTINGS,
        )
        try:
            _require_version(once)
            yield once
        finally:
            await once.close()

    @asynccontextmanager
    async def alone(self, what: str) -> AsyncIterator[Connection]:
        """A connection to the server's `home`, while nobody else in the world is making `what`."""
        key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        async with self.connection(self.home, keep=True) as connection:
            await connection.execute("SET lock_timeout = '60s'")
            await connection.execute("SELECT pg_advisory_lock($1)", key)
            try:
                yield connection
            finally:
                # A connection that broke has lost its lock with its session.
                if not connection.is_closed():
                    await connection.execute("SELECT pg_advisory_unlock($1)", key)

    async def _open(self, database: str) -> asyncpg.Pool:
        async with self._opening:
            if database not in self._pools:
                self._pools[database] = await asyncpg.create_pool(
                    self._url,
                    password=self._password or None,
                    database=database,
                    min_size=1,
                    max_size=POOL_SIZE,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=STATEMENT_TIMEOUT_S,
                    server_settings=_SETTINGS,
                    init=_check,
                    reset=None if database == self.home else _reset_nothing,
                )
            return self._pools[database]


async def _reset_nothing(_: Connection) -> None:
    """Sessions change their settings and hold locks in `home` alone; a round trip for what nobody did is saved."""


async def _check(connection: Connection) -> None:
    _require_version(connection)


def _require_version(connection: Connection) -> None:
    major = connection.get_server_version().major
    if major < MIN_MAJOR:
        raise ConfigurationError(f"tenants' databases need PostgreSQL {MIN_MAJOR} or later; the server is {major}")


@asynccontextmanager
async def acting_as(connection: Connection, role: str) -> AsyncIterator[None]:
    """Look through a tenant's eyes, at one unchanging view of the database.

    The driver may become the tenant only inside this block: the membership that allows it is rolled back at its end,
    and so is everything else. What the tenant cannot see, such as another's rows, is not seen here either.
    """
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        await connection.execute(
            f"GRANT {ident(role)} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE; SET LOCAL ROLE {ident(role)}"
        )
        yield
    finally:
        await transaction.rollback()
