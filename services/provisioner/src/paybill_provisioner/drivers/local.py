"""Driver for this machine: PostgreSQL for rows, directories for files, and the secrets port for passwords."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path

from paybill_contracts.environment_plans import Resource, Step, StepAction
from paybill_contracts.kinds import Bucket, Database, Role, Schema, Secret
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access, Export
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.security.secrets import Secrets

from paybill_provisioner.domain.environments import Environment
from paybill_provisioner.drivers import Done, directories, namespaces
from paybill_provisioner.drivers.exports import ExportFile, no_rows, rows_of
from paybill_provisioner.drivers.inspection import Inspection, inspect
from paybill_provisioner.drivers.namespaces import DatabaseNamespace
from paybill_provisioner.drivers.scram import Credentials, CredentialsFactory
from paybill_provisioner.drivers.server import DATABASE_MISSING, TenantServer, as_role

SECRET_GRANTEES = ("operator",)
"""Services other than the provisioner that may read a tenant's password."""

TENANTS = "tenants"
_TERMINATE_ATTEMPTS = 50
_TERMINATE_INTERVAL_S = 0.02
_TERMINATE_TIMEOUT_MS = 5_000

_TERMINATE_SESSIONS = """
SELECT count(pg_terminate_backend(pid, $3)) FROM pg_stat_activity WHERE usename = $1 AND backend_start < $2
"""


class LocalDriver:
    """Builds in the PostgreSQL server `server` and below `directory`, and stores passwords in `secrets`."""

    def __init__(self, server: TenantServer, directory: Path, secrets: Secrets) -> None:
        self._server = server
        self._directory = directory
        self._secrets = secrets
        self._credentials = CredentialsFactory()

    async def close(self) -> None:
        """Closes all connections."""
        await self._credentials.close()
        await self._server.close()

    async def build(self, environment: Environment, steps: Sequence[Step]) -> AsyncGenerator[Sequence[Done], None]:
        """Builds the whole environment at every call, and yields `steps`.

        A silo is yielded in two parts, because CREATE DATABASE cannot be part of a transaction.
        """
        if any(step.action is StepAction.DELETE for step in steps):
            raise Refused("this driver deletes nothing; delete the resource manually, then plan again")
        namespace = DatabaseNamespace.of(environment)
        resources = {resource.kind: resource for resource in environment.resources.values()}
        name = resources["secret"].attributes.name
        known, inspection = await asyncio.gather(self._secrets.latest(name), self._create_database(namespace))
        credentials = await (
            self._credentials.new() if known is None else Credentials.of(await self._secrets.get(known))
        )
        create = partial(self._create_namespace, namespace, inspection, credentials, environment.target_access)
        prerequisites = (
            self._secret_reference(name, known, credentials.password),
            asyncio.to_thread(self._create_directory, resources["bucket"]),
        )
        if namespace.shared:
            # Concurrently: nothing is yielded before all are durable, and a repeated build resets the password.
            _, reference, _ = await asyncio.gather(create(), *prerequisites)
            yield [(step.address, self._outputs(step.resource, reference)) for step in steps]
            self._credentials.precompute()
            return
        reference, _ = await asyncio.gather(*prerequisites)
        done = [(step.address, self._outputs(step.resource, reference)) for step in steps]
        in_database = {resources["schema"].address, resources["role"].address}
        yield [each for each in done if each[0] not in in_database]
        await create()
        yield [each for each in done if each[0] in in_database]

    async def set_access(self, environment: Environment, access: Access) -> None:
        """Changes the privileges first, then terminates sessions that began with the previous ones."""
        namespace = await self._existing_namespace(environment)
        if namespace is None:
            return
        async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
            await connection.execute(namespaces.set_access(namespace, access))
            since: datetime = await connection.fetchval("SELECT clock_timestamp()")
        if access is not Access.OPEN:
            await self._terminate_sessions(namespace.role, since)

    async def export(self, environment: Environment) -> Export:
        """Reads the database as the tenant's role, so that the file cannot contain rows of another tenant."""
        file = ExportFile(self._directory, environment.id)
        namespace = await self._existing_namespace(environment)
        if namespace is None:
            return await file.write(no_rows())
        async with (
            self._server.connection(namespace.database, pooled=False) as connection,
            as_role(connection, namespace.role),
            aclosing(rows_of(connection, namespace)) as rows,
        ):
            return await file.write(rows)

    async def _existing_namespace(self, environment: Environment) -> DatabaseNamespace | None:
        """Returns the namespace of a tenant with a role; None when it was not built so far and has no rows."""
        if not environment.resources:
            return None
        namespace = DatabaseNamespace.of(environment)
        inspection = await self._inspect(namespace)
        return namespace if inspection is not None and inspection.role else None

    async def _secret_reference(self, name: str, known: str | None, password: str) -> str:
        """Returns the reference of the tenant's password; the first call stores it."""
        return known or await self._secrets.put(name, password, SECRET_GRANTEES)

    def _create_directory(self, resource: Resource) -> None:
        directories.make_private(self._directory, TENANTS, *Path(resource.attributes.name).parts)

    async def _create_database(self, namespace: DatabaseNamespace) -> Inspection:
        inspection = await self._inspect(namespace)
        if inspection is None or not inspection.database_ready(namespace):
            async with self._server.exclusive(namespace.database) as connection:
                for group in namespace.groups:
                    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", group):
                        await connection.execute(namespaces.create_group(group))
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", namespace.database):
                    await connection.execute(namespaces.create_database(namespace.database))
                await connection.execute(namespaces.close_to_public(namespace.database))
                async with self._server.connection(namespace.database, pooled=namespace.shared) as in_database:
                    await in_database.execute(namespaces.close_public_schema())
                if namespace.shared:
                    await connection.execute(namespaces.grant_connect(namespace))
            inspection = await self._inspect(namespace)
        if inspection is None:
            raise Refused(f"the database {namespace.database} was deleted during its creation; find out by whom")
        return inspection

    async def _create_namespace(
        self, namespace: DatabaseNamespace, inspection: Inspection, credentials: Credentials, access: Access
    ) -> None:
        if namespace.isolation is Isolation.POOL and (inspection.slow or not inspection.has_tables(namespace)):
            inspection = await self._create_pool(namespace)
        if namespace.isolation is Isolation.POOL and inspection.unprotected:
            tables = ", ".join(sorted(inspection.unprotected))
            raise Refused(
                f"tenants are not isolated in {tables} of {namespace.database}: row-level security is not enabled, not "
                "forced, or has another policy; restore it, then retry"
            )
        script = [namespaces.create_role(namespace, access, exists=inspection.role, verifier=credentials.verifier)]
        if namespace.isolation is not Isolation.POOL:
            script.insert(0, namespaces.create_schema(namespace, inspection.tables))
        async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
            await connection.execute(";\n".join(script))

    async def _create_pool(self, namespace: DatabaseNamespace) -> Inspection:
        """Creates the shared tables of a pool under an advisory lock."""
        async with (
            self._server.exclusive(namespace.database),
            self._server.connection(namespace.database, pooled=True) as connection,
        ):
            inspection = await inspect(connection, namespace)
            if not inspection.has_tables(namespace):
                await connection.execute(namespaces.create_schema(namespace, inspection.tables))
            if inspection.slow:
                await connection.execute(namespaces.use_index(namespace, inspection.slow))
            return await inspect(connection, namespace)

    async def _inspect(self, namespace: DatabaseNamespace) -> Inspection | None:
        """Returns None when the database does not exist or does not accept connections yet."""
        try:
            async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
                return await inspect(connection, namespace)
        except DATABASE_MISSING:
            return None

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

    def _outputs(self, resource: Resource, reference: str) -> Mapping[str, str]:
        match resource.attributes:
            case Secret():
                return {"secret": reference}
            case Bucket(name=name):
                return {"bucket": name}
            case Database(name=name):
                return {"host": self._server.host, "port": str(self._server.port), "database": name}
            case Schema(name=name):
                return {"schema_name": name}
            case Role(name=name):
                return {"username": name}
            case _:
                raise Refused(f"the local driver builds no {resource.kind}")
