"""Databases, schemas and logins of tenants in a PostgreSQL server: found, created, changed and deleted."""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from paybill_contracts.cells import Breach
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import Role, Schema
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access
from paybill_contracts.table_rebuilds import InspectedTables
from paybill_runtime.jobs.effects import Refused

from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.drivers import dependents, namespaces, rebuilding
from paybill_provisioner.drivers import isolation as isolation_checks
from paybill_provisioner.drivers.inspection import Login, Tables, has_role, is_ready, tables_of
from paybill_provisioner.drivers.namespaces import DatabaseNamespace
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import DATABASE_MISSING, Connection, TenantServer, as_role

_TERMINATE_ATTEMPTS = 50
_TERMINATE_INTERVAL_S = 0.02
_TERMINATE_TIMEOUT_MS = 5_000

_TERMINATE_SESSIONS = """
SELECT count(pg_terminate_backend(pid, $3)) FROM pg_stat_activity WHERE usename = $1 AND backend_start < $2
"""

_DATABASE = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
_OWNER = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1 AND NOT pg_has_role(datdba, 'USAGE')"
"""Owner of a database that is not the driver's."""
_SCHEMA_OWNER = (
    "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1 AND NOT pg_has_role(nspowner, 'USAGE')"
)
"""Owner of a schema that is not the driver's."""
_SCHEMA = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"


class TenantDatabases:
    """The databases of tenants in `server`.

    trusted_s: time in which a shared database or table that was checked is not checked again for a new tenant. The
    scheduled check of isolation covers it.
    """

    def __init__(self, server: TenantServer, roles: TenantRoles, trusted_s: float = 0.0) -> None:
        self._server = server
        self._roles = roles
        self._trusted_s = trusted_s
        self._checked: dict[str, dict[Hashable, float]] = {}

    async def has_database(self, resource: Resource) -> bool:
        """Returns True when the database exists and is set up."""
        name, isolation = resource.attributes.name, resource.isolation
        shared = isolation is not Isolation.SILO
        if shared and self._is_trusted(name, "database"):
            return True
        try:
            async with self._server.connection(name, pooled=shared) as connection:
                ready = await is_ready(connection, isolation, name)
        except DATABASE_MISSING:
            return False
        if ready and shared:
            self._trust(name, "database")
        return ready

    async def breaches(self, isolation: Isolation, database: str, rights: RightsByBlueprint) -> list[Breach]:
        """Returns the guarantees of isolation that do not hold in a database; nothing when it does not exist."""
        try:
            async with self._server.connection(database, pooled=isolation is not Isolation.SILO) as connection:
                found = await isolation_checks.breaches(connection, isolation, database, rights)
        except DATABASE_MISSING:
            found = []
        if found:
            self._checked.pop(database, None)
        return found

    def _is_trusted(self, database: str, checked: Hashable) -> bool:
        at = self._checked.get(database, {}).get(checked)
        return at is not None and time.monotonic() - at < self._trusted_s

    def _trust(self, database: str, checked: Hashable) -> None:
        if self._trusted_s:
            self._checked.setdefault(database, {})[checked] = time.monotonic()

    async def create_database(self, resource: Resource) -> None:
        """Creates the database with its groups, closed to PUBLIC. Existing parts stay."""
        name, isolation = resource.attributes.name, resource.isolation
        shared = isolation is not Isolation.SILO
        await self._roles.ensure_groups(namespaces.groups(isolation, name))
        async with self._server.exclusive(name) as connection:
            _require_own(f"database {name}", await connection.fetchval(_OWNER, name))
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                has_template = await connection.fetchval(_DATABASE, namespaces.TENANT_TEMPLATE)
                template = namespaces.TENANT_TEMPLATE if has_template else "template0"
                await connection.execute(namespaces.create_database(name, template))
            await connection.execute(namespaces.close_to_public(name))
            async with self._server.connection(name, pooled=shared) as in_database:
                await in_database.execute(namespaces.close_public_schema())
            if shared:
                await connection.execute(namespaces.grant_connect(name))

    async def delete_database(self, name: str) -> None:
        """Drops a tenant's own database, after a creation of it that is under way, even one whose caller was killed.

        One of this name that is not the driver's stays: the driver did not create it.
        """
        async with self._server.exclusive(name) as connection:
            if await connection.fetchval(_OWNER, name) is None:
                await connection.execute(namespaces.drop_database(name))

    async def is_foreign(self, resource: Resource) -> bool:
        """Returns True when a silo or a schema of this name is not the driver's: it did not create it."""
        if isinstance(resource.attributes, Schema):
            namespace = DatabaseNamespace.of(resource)
            with suppress(*DATABASE_MISSING):
                async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                    return await connection.fetchval(_SCHEMA_OWNER, namespace.schema) is not None
            return False
        async with self._server.connection(self._server.maintenance_database, pooled=True) as connection:
            return await connection.fetchval(_OWNER, resource.attributes.name) is not None

    async def tables(self, namespace: DatabaseNamespace) -> Tables | None:
        """Returns the existing tables; None without a database."""
        try:
            async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                return await tables_of(connection, namespace)
        except DATABASE_MISSING:
            return None

    async def create_tables(self, namespace: DatabaseNamespace) -> None:
        """Creates the schema, and the tables and columns that it lacks.

        Raises Refused when the tables of a pool do not isolate their tenants.
        """
        if namespace.isolation is not Isolation.POOL:
            async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                await _require_own_schema(connection, namespace)
                found = await tables_of(connection, namespace)
                await connection.execute(namespaces.create_schema(namespace, found.columns, found.not_null))
            return
        if self._is_trusted(namespace.database, namespace):
            return
        async with self._server.connection(namespace.database, pooled=True) as connection:
            found = await tables_of(connection, namespace)
        if found.slow or not found.include(namespace):
            found = await self._create_shared_tables(namespace)
        if found.unprotected:
            tables = ", ".join(sorted(found.unprotected))
            raise Refused(
                f"tenants are not isolated in {tables} of {namespace.database}: row-level security is not enabled, not "
                "forced, or has another policy; restore it, then retry"
            )
        self._trust(namespace.database, namespace)

    async def _create_shared_tables(self, namespace: DatabaseNamespace) -> Tables:
        """Creates the tables of a pool under an advisory lock."""
        async with (
            self._server.exclusive(namespace.database),
            self._server.connection(namespace.database, pooled=True) as connection,
        ):
            await _require_own_schema(connection, namespace)
            found = await tables_of(connection, namespace)
            if not found.include(namespace):
                await connection.execute(namespaces.create_schema(namespace, found.columns, found.not_null))
            if found.slow:
                await connection.execute(namespaces.use_index(namespace, found.slow))
            return await tables_of(connection, namespace)

    async def inspect_tables(self, schema: Resource) -> InspectedTables:
        """Returns the size of the schema's tables, and what Paybill did not make."""
        namespace = DatabaseNamespace.of(schema)
        try:
            async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                return await rebuilding.inspect(connection, schema.address, namespace)
        except DATABASE_MISSING:
            return InspectedTables(address=schema.address, size_bytes=0)

    async def rebuild_tables(self, namespace: DatabaseNamespace, tenant_id: str) -> None:
        """Gives the tables of a tenant's own schema the tenant's column. Idempotent."""
        async with self._server.connection(namespace.database, pooled=False) as connection:
            await rebuilding.rebuild(connection, namespace, tenant_id)

    async def delete_tables(self, namespace: DatabaseNamespace, role: str) -> None:
        """Deletes the tenant's rows in a pool, and elsewhere its schema; the login loses its memberships there."""
        with suppress(*DATABASE_MISSING):
            if namespace.isolation is Isolation.POOL:
                async with self._row_deleter(namespace, role) as (connection, tables):
                    if tables:
                        await connection.execute(namespaces.delete_rows(namespace, tables))
            else:
                async with self._server.connection(namespace.database, pooled=False) as connection:
                    if await connection.fetchval(_SCHEMA_OWNER, namespace.schema) is None:
                        await connection.execute(namespaces.drop_schema(namespace))
        if namespace.shared and (login := await self._roles.login(role)):
            await self._roles.change(role, login, leave=namespaces.groups(namespace.isolation, namespace.database))

    async def has_rows(self, namespace: DatabaseNamespace, role: str) -> bool:
        """Returns True when the tables of a pool show a row to this role, which may be deleted already."""
        try:
            async with self._row_deleter(namespace, role) as (connection, tables):
                found = [bool(await connection.fetchval(namespaces.has_rows(namespace, each))) for each in tables]
        except DATABASE_MISSING:
            return False
        return any(found)

    @asynccontextmanager
    async def _row_deleter(
        self, namespace: DatabaseNamespace, role: str
    ) -> AsyncIterator[tuple[Connection, list[str]]]:
        """Provides a transaction as a role that sees the rows of a login, and the tables; the role exists meanwhile."""
        groups = namespaces.groups(namespace.isolation, namespace.database)
        async with self._server.connection(namespace.database, pooled=False) as connection:
            tables = list((await tables_of(connection, namespace)).columns)
            async with self.row_deleter(connection, role, groups):
                yield connection, tables

    @asynccontextmanager
    async def row_deleter(self, connection: Connection, role: str, groups: Iterable[str]) -> AsyncIterator[None]:
        """Runs a transaction as a role in these groups that sees the rows of a login; the role exists meanwhile."""
        deleter = namespaces.row_deleter(role)
        login = await self._roles.login(deleter)
        login = await self._roles.change(deleter, login, "NOLOGIN NOINHERIT", join=groups)
        try:
            async with self._roles.member(deleter, login, "INHERIT FALSE, SET TRUE"), connection.transaction():
                await connection.execute(namespaces.become(deleter))
                yield
        finally:
            await dependents.drop(self._server, self._roles, deleter, login)

    async def has_schema(self, namespace: DatabaseNamespace) -> bool:
        """Returns True when the tenant's own schema exists."""
        try:
            async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                return bool(await connection.fetchval(_SCHEMA, namespace.schema))
        except DATABASE_MISSING:
            return False

    async def exists(self, database: str) -> bool:
        """Returns True when a database has this name, complete or not."""
        async with self._server.connection(self._server.maintenance_database, pooled=True) as connection:
            return bool(await connection.fetchval(_DATABASE, database))

    async def has_role(self, role: str) -> bool:
        """Returns True when the login exists."""
        async with self._server.connection(self._server.maintenance_database, pooled=True) as connection:
            return await has_role(connection, role)

    async def create_role(
        self, namespace: DatabaseNamespace, role: Role, verifier: str | None, *, closed: bool
    ) -> None:
        """Creates or changes a login. closed: it has no access afterwards; else an existing one keeps its access.

        One that has a privileged attribute is dropped first: only a role that has the attribute itself could remove it.
        """
        login = await self.unprivileged(role.name, namespaces.groups(namespace.isolation, namespace.database))
        access = Access.CLOSED if closed or login is None else None
        join, leave = namespaces.memberships(namespace, access)
        attributes = namespaces.role_attributes(role, access, verifier)
        await self._roles.change(role.name, login, attributes, join, leave if login else ())
        await self._grant(namespace, role.name, access)

    async def unprivileged(self, role: str, groups: Iterable[str]) -> Login | None:
        """Returns an existing login that has no privileges but those of these groups; another one is dropped.

        Raises Refused for a superuser.
        """
        login = await self._roles.login(role, groups)
        if login is not None and login.superuser:
            raise Refused(f"{role} is a superuser; as another one, ALTER ROLE {role} NOSUPERUSER")
        if login is not None and login.privileged:
            await self._delete_role(role, login)
            return None
        return login

    async def _grant(self, namespace: DatabaseNamespace, role: str, access: Access | None) -> None:
        if statements := namespaces.privileges(namespace, role, access):
            await self._server.change_privileges(namespace.database, statements, pooled=namespace.shared)

    async def set_password(self, role: str, verifier: str) -> None:
        """Sets the password of a login by its verifier. Raises Refused when there is no such login."""
        login = await self._roles.login(role)
        if login is None:
            raise Refused(f"the login {role} does not exist; retry the environment, then request the credentials")
        await self._roles.change(role, login, namespaces.password_attribute(verifier))

    async def delete_role(self, role: str) -> None:
        """Ends the login's sessions and drops it."""
        if login := await self._roles.login(role):
            await self._delete_role(role, login)

    async def _delete_role(self, role: str, login: Login) -> None:
        login = await self._roles.change(role, login, namespaces.login_attribute(Access.CLOSED))
        await self._terminate_sessions(role, login)
        await dependents.drop(self._server, self._roles, role, login)

    async def set_access(self, namespace: DatabaseNamespace, role: str, access: Access) -> None:
        """Changes the privileges first, then terminates sessions that began with the previous ones."""
        join, leave = namespaces.memberships(namespace, access)
        login = await self._roles.change_existing(role, namespaces.login_attribute(access), join, leave)
        if login is None:
            return
        # A database that does not exist has no privileges.
        with suppress(*DATABASE_MISSING):
            await self._grant(namespace, role, access)
        if access is not Access.OPEN:
            await self._terminate_sessions(role, login)

    async def set_login(self, role: str, access: Access) -> None:
        """Opens the login, or closes it and terminates its sessions; its privileges stay."""
        login = await self._roles.change_existing(role, namespaces.login_attribute(access), (), ())
        if login is not None and access is not Access.OPEN:
            await self._terminate_sessions(role, login)

    @asynccontextmanager
    async def as_tenant(self, namespace: DatabaseNamespace, role: str) -> AsyncIterator[Connection | None]:
        """Provides a connection as the login, in a transaction that is rolled back; None without such a login."""
        login = await self._roles.login(role)
        if login is None:
            yield None
            return
        login = await self._roles.change(role, login)
        async with (
            self._roles.member(role, login, "INHERIT FALSE, SET TRUE"),
            self._server.connection(namespace.database, pooled=False) as connection,
            as_role(connection, role),
        ):
            yield connection

    async def _terminate_sessions(self, role: str, login: Login) -> None:
        """Terminates sessions that began before now, until two rounds find none: a new session appears late."""
        membership = self._roles.membership(role, login, "INHERIT FALSE, SET TRUE")
        async with self._roles.connection() as connection:
            since: datetime = await connection.fetchval("SELECT clock_timestamp()")
            idle_rounds = 0
            for _ in range(_TERMINATE_ATTEMPTS):
                async with as_role(connection, role, f"{membership};"):
                    ended = await connection.fetchval(_TERMINATE_SESSIONS, role, since, _TERMINATE_TIMEOUT_MS)
                idle_rounds = 0 if ended else idle_rounds + 1
                if idle_rounds > 1:
                    return
                await asyncio.sleep(_TERMINATE_INTERVAL_S)
        raise TimeoutError(f"sessions of {role} do not end; see pg_stat_activity")


async def _require_own_schema(connection: Connection, namespace: DatabaseNamespace) -> None:
    owner = await connection.fetchval(_SCHEMA_OWNER, namespace.schema)
    _require_own(f"schema {namespace.schema} of {namespace.database}", owner)


def _require_own(what: str, owner: str | None) -> None:
    """Raises Refused for what somebody else made: the server would refuse every change of it."""
    if owner is not None:
        raise Refused(f"the {what} exists and belongs to {owner}; rename or remove it, then retry")
