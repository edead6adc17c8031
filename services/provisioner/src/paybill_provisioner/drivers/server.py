"""Connections to the PostgreSQL server with tenants' databases."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter

from paybill_provisioner.drivers.namespaces import ident

Connection: TypeAlias = Any
"""A connection of asyncpg, which has no types."""

MIN_MAJOR = 16
"""PostgreSQL 16 introduced memberships that are inherited without the right to SET ROLE, which pools need."""

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 60
POOL_SIZE = 4
DATABASE_MISSING = (asyncpg.InvalidCatalogNameError, asyncpg.ObjectNotInPrerequisiteStateError)
"""Errors of a connection to a database that does not exist, or does not accept connections yet."""

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
)
"""The server does not answer."""
_TRANSIENT = (
    asyncpg.OperatorInterventionError,  # shutting down, starting up, a statement that was cancelled
    asyncpg.InsufficientResourcesError,  # disk full, out of memory, too many connections
    asyncpg.PostgresIOError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,  # this and the next one are no DATABASE_MISSING, of whose class they are
    asyncpg.ObjectInUseError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InsufficientPrivilegeError,  # the driver's role lost rights
    asyncpg.InvalidAuthorizationSpecificationError,  # it cannot log in
)
"""The server answers, and refuses what it accepts once an operator has put it right: nothing is wrong with the plan."""

_REFUSALS = ("0A", "22", "2B", "42", "54")
"""Classes of SQLSTATE of a statement that is wrong here: unsupported, wrong data, dependents, names and limits."""
_RACES = (
    asyncpg.DuplicateDatabaseError,
    asyncpg.DuplicateSchemaError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateObjectError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedTableError,
)
"""Somebody created or dropped the object at the same time: the next attempt finds what exists."""

_SETTINGS = {
    "application_name": "paybill-provisioner",
    "timezone": "UTC",
    # No object that a tenant created is ever resolved by an unqualified name of ours.
    "search_path": "pg_catalog",
    # A statement that waits for a tenant's long transaction would block all later ones.
    "lock_timeout": "5s",
}


SLOTS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - current_setting('reserved_connections')::int
"""
"""Query for the number of connections that all tenants together can open."""

_CONFLICT = "tuple concurrently updated"
_ATTEMPTS = 10
"""PostgreSQL makes a change wait for another one of the same row, then refuses it: of several, one succeeds."""

_Result = TypeVar("_Result")


async def in_turn(change: Callable[[], Awaitable[_Result]]) -> _Result:
    """Runs a change of logins or privileges, again when another session changed the same login or object meanwhile.

    An advisory lock could be held by a tenant, who can connect to the database.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return await change()
        except asyncpg.InternalServerError as error:
            if _CONFLICT not in str(error):
                raise
    return await change()


@asynccontextmanager
async def refusals() -> AsyncIterator[None]:
    """Raises Refused for a statement that the server refuses permanently: another attempt would be refused, too."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = str(error.sqlstate)
        if not state.startswith(_REFUSALS) or isinstance(error, _RACES):
            raise
        detail = f"; {error.detail}" if error.detail else ""
        raise Refused(f"the server of tenants' databases refuses: {error}{detail} ({state})") from error


class TenantServer:
    """The server at `url`, with a role that has CREATEDB and CREATEROLE and is no superuser.

    Shared databases have a small connection pool; a silo gets a connection for each operation.
    """

    def __init__(self, url: str, password: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.path.strip("/"):
            raise ConfigurationError(
                "PAYBILL_LOCAL_DATABASE_URL must have the form postgresql://role@host:port/database"
            )
        self.host = parts.hostname
        self.port = parts.port or 5432
        self.maintenance_database = parts.path.strip("/")
        """Database for statements about the whole server. Tenants cannot connect, so they hold no locks in it."""
        self._url = url
        self._password = password
        self._pools: dict[str, asyncpg.Pool] = {}
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Closes all connections."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()

    @asynccontextmanager
    async def connection(self, database: str, *, pooled: bool) -> AsyncIterator[Connection]:
        """Opens a connection to `database`, or takes one from its pool.

        Raises one of DATABASE_MISSING, and RetryAfter with the server's message for what a later attempt may not meet.
        """
        try:
            async with self._connection(database, pooled=pooled) as connection:
                yield connection
        except _TRANSIENT as error:
            reason = f"the server of tenants' databases, {self.host}:{self.port}, refuses: {error} ({error.sqlstate})"
            raise RetryAfter(None, reason) from error
        except _AWAY as error:
            reason = f"the server of tenants' databases, {self.host}:{self.port}, does not answer"
            raise RetryAfter(None, f"{reason} ({str(error) or type(error).__name__})") from error

    @asynccontextmanager
    async def _connection(self, database: str, *, pooled: bool) -> AsyncIterator[Connection]:
        if pooled:
            pool = self._pools.get(database) or await self._open(database)
            async with pool.acquire() as connection:
                yield connection
            return
        single = await asyncpg.connect(
            self._url,
            password=self._password or None,
            database=database,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings=_SETTINGS,
        )
        try:
            _require_version(single)
            yield single
        finally:
            await single.close()

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[Connection]:
        """Holds an advisory lock on `name` in the maintenance database, and yields its connection."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        async with self.connection(self.maintenance_database, pooled=True) as connection:
            await connection.execute("SET lock_timeout = '60s'")
            await connection.execute("SELECT pg_advisory_lock($1)", key)
            try:
                yield connection
            finally:
                # A broken connection released the lock with its session.
                if not connection.is_closed():
                    await connection.execute("SELECT pg_advisory_unlock($1)", key)

    async def require_slots(self, role: str, limit: int) -> None:
        """Raises Refused when the server has fewer connections for all tenants than one login may open."""
        async with self.connection(self.maintenance_database, pooled=True) as connection:
            slots = await connection.fetchval(SLOTS)
        if limit > slots:
            raise Refused(
                f"{role} has the connection_limit {limit}, and the server of tenants' databases has {slots} connections"
                " for all tenants: publish a blueprint with a lower connection_limit, or raise max_connections"
            )

    async def change_privileges(self, database: str, statements: str, *, pooled: bool) -> None:
        """Runs statements that grant and revoke in one transaction, in turn with those of other sessions."""

        async def change() -> None:
            async with self.connection(database, pooled=pooled) as connection:
                await connection.execute(statements)

        await in_turn(change)

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
                    reset=None if database == self.maintenance_database else _skip_reset,
                )
            return self._pools[database]


async def _skip_reset(_: Connection) -> None:
    """Saves the round trip of a reset: only sessions in the maintenance database change settings or hold locks."""


async def _check(connection: Connection) -> None:
    _require_version(connection)


def _require_version(connection: Connection) -> None:
    major = connection.get_server_version().major
    if major < MIN_MAJOR:
        raise ConfigurationError(
            f"tenants' databases need PostgreSQL {MIN_MAJOR} or later; the server has version {major}"
        )


@asynccontextmanager
async def as_role(connection: Connection, role: str, membership: str = "") -> AsyncIterator[None]:
    """Runs a repeatable-read transaction as the tenant's role, and rolls it back at the end.

    membership: statement with its semicolon, by which the driver becomes a member of the role, inside this transaction.
    Rows that the tenant cannot read, such as another tenant's, cannot be read here either.
    """
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        await connection.execute(f"{membership}SET LOCAL ROLE {ident(role)}")
        yield
    finally:
        await transaction.rollback()
