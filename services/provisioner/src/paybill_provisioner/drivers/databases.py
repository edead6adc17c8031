"""Databases, schemas and logins of tenants in a PostgreSQL server: found, created, changed and deleted."""

import asyncio
import time
from collections.abc import Hashable
from datetime import datetime

from paybill_contracts.cells import Breach
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import Role
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access
from paybill_runtime.jobs.effects import Refused

from paybill_provisioner.drivers import isolation as isolation_checks
from paybill_provisioner.drivers import namespaces
from paybill_provisioner.drivers.inspection import Tables, has_role, is_ready, login_of, tables_of
from paybill_provisioner.drivers.namespaces import DatabaseNamespace
from paybill_provisioner.drivers.server import DATABASE_MISSING, Connection, TenantServer, as_role

_TERMINATE_ATTEMPTS = 50
_TERMINATE_INTERVAL_S = 0.02
_TERMINATE_TIMEOUT_MS = 5_000

_TERMINATE_SESSIONS = """
SELECT count(pg_terminate_backend(pid, $3)) FROM pg_stat_activity WHERE usename = $1 AND backend_start < $2
"""

_DATABASE = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
_SCHEMA = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"


class TenantDatabases:
    """The databases of tenants in `server`.

    trusted_s: time in which a shared database or table that was checked is not checked again for a new tenant. The
    scheduled check of isolation covers it.
    """

    def __init__(self, server: TenantServer, trusted_s: float = 0.0) -> None:
        self._server = server
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

    async def breaches(self, isolation: Isolation, database: str) -> list[Breach]:
        """Returns the guarantees of isolation that do not hold in a shared database; nothing when it does not exist."""
        try:
            async with self._server.connection(database, pooled=True) as connection:
                found = await isolation_checks.breaches(connection, isolation, database)
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
        async with self._server.exclusive(name) as connection:
            for group in namespaces.groups(isolation, name):
                if not await has_role(connection, group):
                    await connection.execute(namespaces.create_group(group))
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await connection.execute(namespaces.create_database(name))
            await connection.execute(namespaces.close_to_public(name))
            async with self._server.connection(name, pooled=shared) as in_database:
                await in_database.execute(namespaces.close_public_schema())
            if shared:
                await connection.execute(namespaces.grant_connect(name))

    async def delete_database(self, name: str) -> None:
        """Drops a tenant's own database."""
        async with self._server.connection(self._server.maintenance_database, pooled=True) as connection:
            await connection.execute(namespaces.drop_database(name))

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
                found = await tables_of(connection, namespace)
                await connection.execute(namespaces.create_schema(namespace, found.columns))
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
            found = await tables_of(connection, namespace)
            if not found.include(namespace):
                await connection.execute(namespaces.create_schema(namespace, found.columns))
            if found.slow:
                await connection.execute(namespaces.use_index(namespace, found.slow))
            return await tables_of(connection, namespace)

    async def delete_tables(self, namespace: DatabaseNamespace, role: str) -> None:
        """Deletes the tenant's rows in a pool, and elsewhere its schema; the login loses its rights there."""
        try:
            async with self._server.connection(namespace.database, pooled=False) as connection:
                await self._delete_tables(connection, namespace, role)
        except DATABASE_MISSING:
            return

    async def _delete_tables(self, connection: Connection, namespace: DatabaseNamespace, role: str) -> None:
        if namespace.isolation is not Isolation.POOL:
            await connection.execute(namespaces.drop_schema(namespace))
        exists = await has_role(connection, role)
        if namespace.isolation is Isolation.POOL:
            tables = (await tables_of(connection, namespace)).columns
            async with connection.transaction():
                await connection.execute(namespaces.delete_rows(namespace, role, tables, exists=exists))
        elif namespace.shared and exists:
            await connection.execute(namespaces.leave_groups(namespace, role))

    async def has_rows(self, namespace: DatabaseNamespace, role: str) -> bool:
        """Returns True when the tables of a pool show a row to this role, which may be deleted already."""
        try:
            async with self._server.connection(namespace.database, pooled=False) as connection:
                tables = (await tables_of(connection, namespace)).columns
                exists = await has_role(connection, role)
                transaction = connection.transaction()
                await transaction.start()
                try:
                    await connection.execute(namespaces.become(namespace, role, exists=exists))
                    found = [bool(await connection.fetchval(namespaces.has_rows(namespace, each))) for each in tables]
                finally:
                    await transaction.rollback()
        except DATABASE_MISSING:
            return False
        return any(found)

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

    async def create_role(self, namespace: DatabaseNamespace, role: Role, access: Access, verifier: str | None) -> None:
        """Creates or changes a login, with the privileges of `access`.

        One that has a privileged attribute is dropped first: only a role that has the attribute itself could remove it.
        """
        async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
            login = await login_of(connection, role.name, namespaces.groups(namespace.isolation, namespace.database))
            if login is not None and login.superuser:
                raise Refused(f"{role.name} is a superuser; as another one, ALTER ROLE {role.name} NOSUPERUSER")
            if login is not None and login.privileged:
                await self._delete_role(connection, role.name)
                login = None
            exists = login is not None
            await connection.execute(namespaces.create_role(namespace, role, access, exists=exists, verifier=verifier))

    async def delete_role(self, namespace: DatabaseNamespace, role: str) -> None:
        """Ends the login's sessions and drops it."""
        try:
            async with self._server.connection(namespace.database, pooled=False) as connection:
                if await has_role(connection, role):
                    await self._delete_role(connection, role)
        except DATABASE_MISSING:
            async with self._server.connection(self._server.maintenance_database, pooled=True) as connection:
                if await has_role(connection, role):
                    await connection.execute(namespaces.drop_role(role))

    async def _delete_role(self, connection: Connection, role: str) -> None:
        await connection.execute(namespaces.close_login(role))
        await self._terminate_sessions(role, await connection.fetchval("SELECT clock_timestamp()"))
        await connection.execute(namespaces.drop_role(role))

    async def set_access(self, namespace: DatabaseNamespace, role: str, access: Access) -> None:
        """Changes the privileges first, then terminates sessions that began with the previous ones."""
        try:
            async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                if not await has_role(connection, role):
                    return
                await connection.execute(namespaces.set_access(namespace, role, access))
                since: datetime = await connection.fetchval("SELECT clock_timestamp()")
        except DATABASE_MISSING:
            return
        if access is not Access.OPEN:
            await self._terminate_sessions(role, since)

    async def _terminate_sessions(self, role: str, since: datetime) -> None:
        """Terminates sessions that began before `since`, until two rounds find none: a new session appears late."""
        async with self._server.connection(self._server.maintenance_database, pooled=True) as connection:
            idle_rounds = 0
            for _ in range(_TERMINATE_ATTEMPTS):
                async with as_role(connection, role):
                    ended = await connection.fetchval(_TERMINATE_SESSIONS, role, since, _TERMINATE_TIMEOUT_MS)
                idle_rounds = 0 if ended else idle_rounds + 1
                if idle_rounds > 1:
                    return
                await asyncio.sleep(_TERMINATE_INTERVAL_S)
        raise TimeoutError(f"sessions of {role} do not end; see pg_stat_activity")


async def set_password(connection: Connection, role: str, verifier: str) -> None:
    """Sets the password of a login by its verifier. Raises Refused when there is no such login."""
    if not await has_role(connection, role):
        raise Refused(f"the login {role} does not exist; retry the environment, then request the credentials")
    await connection.execute(namespaces.set_password(role, verifier))
