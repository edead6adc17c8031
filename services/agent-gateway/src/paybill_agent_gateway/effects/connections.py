"""Connections with the agents' logins: few for each tenant, the least recently used closed first."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias

import asyncpg
from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.errors import RetryLaterError
from paybill_runtime.security.secrets import SecretForbiddenError, SecretNotFoundError, Secrets

Connection: TypeAlias = Any
"""A connection of asyncpg, which has no types."""

Place: TypeAlias = tuple[str, int, str, str]
"""Host, port, database and schema: tenants of a pool share one."""

PER_TENANT: Final = 3
MAX_CONNECTIONS: Final = 64
CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 15.0
"""Limit of a statement at the client. The login has a lower one, after which PostgreSQL says that nothing changed."""

_SETTINGS: Final = {
    "application_name": "paybill-agent-gateway",
    "timezone": "UTC",
    "bytea_output": "hex",
    # No object that a tenant or a product created is ever resolved by an unqualified name of ours.
    "search_path": "pg_catalog",
    # Statements see what was committed before they got their locks, such as a trigger.
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
}


class DatabaseUnavailableError(RetryLaterError):
    """No connection with the agents' login can be opened, or its endpoint is closed or replaced. Nothing was sent."""

    code = "database_unavailable"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The agents' login of a tenant. secret: of its password; epoch: one with a lower number is never used again."""

    tenant_id: str
    epoch: int
    host: str
    port: int
    database: str
    schema: str
    username: str
    secret: str

    @classmethod
    def of(cls, tenant_id: str, agents: AgentConnection) -> Self:
        """Builds the endpoint from the provisioner's fact. Raises DatabaseUnavailableError without a password."""
        to = agents.connection
        if to.secret is None:
            raise DatabaseUnavailableError("the agents' login has no password yet; repeat the call later")
        return cls(tenant_id, agents.epoch, to.host, to.port, to.database, to.schema_name, to.username, to.secret)

    @property
    def place(self) -> Place:
        """Place of the tables."""
        return self.host, self.port, self.database, self.schema


@dataclass(slots=True)
class _Tenant:
    """Connections of a tenant: those that are free, in the order of their release, and the number of all."""

    endpoint: Endpoint
    free: list[Connection] = field(default_factory=list)
    count: int = 0


class Connections:
    """Opens, reuses and closes connections. One event loop uses it.

    tls: mode of TLS, as libpq's `sslmode`.
    """

    def __init__(
        self, secrets: Secrets, *, tls: str = "prefer", per_tenant: int = PER_TENANT, maximum: int = MAX_CONNECTIONS
    ) -> None:
        self._secrets = secrets
        self._tls = tls
        self._per_tenant = per_tenant
        self._maximum = maximum
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._epochs: dict[str, int] = {}
        self._count = 0
        self._released = asyncio.Event()

    @asynccontextmanager
    async def connection(self, endpoint: Endpoint) -> AsyncIterator[Connection]:
        """Provides a connection. A block that raises closes it. Raises DatabaseUnavailableError."""
        tenant = self._tenant(endpoint)
        connection = self._reused(tenant) or await self._opened(tenant)
        try:
            yield connection
        except BaseException:
            self._drop(tenant, connection)
            raise
        else:
            if connection.is_closed() or self._tenants.get(endpoint.tenant_id) is not tenant:
                self._drop(tenant, connection)
            else:
                tenant.free.append(connection)
        finally:
            self._released.set()

    def close_tenant(self, tenant_id: str) -> None:
        """Closes the connections of a tenant whose access was closed; those in use are closed after their statement."""
        self.close_free(tenant_id)
        self._tenants.pop(tenant_id, None)

    def close_free(self, tenant_id: str) -> None:
        """Closes the connections of a tenant that are not in use: when one is lost, the others may be lost as well."""
        tenant = self._tenants.get(tenant_id)
        while tenant and tenant.free:
            self._drop(tenant, tenant.free.pop())

    def close(self) -> None:
        """Closes all connections that are not in use."""
        for tenant_id in list(self._tenants):
            self.close_tenant(tenant_id)

    def _tenant(self, endpoint: Endpoint) -> _Tenant:
        """Returns the tenant's connections to this endpoint, and closes those to an earlier one."""
        newest = self._epochs.get(endpoint.tenant_id, 0)
        if endpoint.epoch < newest:
            raise DatabaseUnavailableError("the tenant's database was replaced; repeat the call")
        self._epochs[endpoint.tenant_id] = endpoint.epoch
        tenant = self._tenants.get(endpoint.tenant_id)
        if tenant is None or tenant.endpoint != endpoint:
            self.close_tenant(endpoint.tenant_id)
            tenant = self._tenants[endpoint.tenant_id] = _Tenant(endpoint)
        self._tenants.move_to_end(endpoint.tenant_id)
        return tenant

    def _reused(self, tenant: _Tenant) -> Connection | None:
        while tenant.free:
            connection = tenant.free.pop()
            if not connection.is_closed():
                return connection
            self._drop(tenant, connection)
        return None

    async def _opened(self, tenant: _Tenant) -> Connection:
        """Opens a connection, or waits for one. It is counted before it is open, so that the limits hold."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                while not self._has_place(tenant):
                    self._released.clear()
                    await self._released.wait()
                    self._require_current(tenant)
                    if reused := self._reused(tenant):
                        return reused
                tenant.count += 1
                self._count += 1
        except TimeoutError as error:
            raise DatabaseUnavailableError(
                "all connections of the tenant's agents are in use; repeat the call"
            ) from error
        try:
            connection = await self._connect(tenant.endpoint)
        except BaseException:
            tenant.count -= 1
            self._count -= 1
            self._released.set()
            raise
        try:
            self._require_current(tenant)
        except DatabaseUnavailableError:
            self._drop(tenant, connection)
            raise
        return connection

    def _require_current(self, tenant: _Tenant) -> None:
        """Raises DatabaseUnavailableError when the endpoint was closed or replaced in the meantime."""
        if self._tenants.get(tenant.endpoint.tenant_id) is not tenant:
            raise DatabaseUnavailableError("the tenant's database was closed or replaced; repeat the call later")

    def _has_place(self, tenant: _Tenant) -> bool:
        """Returns whether another connection may be opened; closes the least recently used one for it."""
        if tenant.count >= self._per_tenant:
            return False
        if self._count < self._maximum:
            return True
        for other in self._tenants.values():
            if other.free:
                self._drop(other, other.free.pop(0))
                return True
        return False

    async def _connect(self, endpoint: Endpoint) -> Connection:
        try:
            return await asyncpg.connect(
                host=endpoint.host,
                port=endpoint.port,
                database=endpoint.database,
                user=endpoint.username,
                password=await self._secrets.get(endpoint.secret),
                ssl=self._tls,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=STATEMENT_TIMEOUT_S,
                max_cached_statement_lifetime=0,
                server_settings=_SETTINGS,
            )
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
            TimeoutError,
            SecretForbiddenError,
            SecretNotFoundError,
        ) as error:
            raise DatabaseUnavailableError(
                "the tenant's database accepts no connection; repeat the call later"
            ) from error

    def _drop(self, tenant: _Tenant, connection: Connection) -> None:
        """Ends a connection at once. A statement that it still runs is left to its timeout."""
        connection.terminate()
        tenant.count -= 1
        self._count -= 1
