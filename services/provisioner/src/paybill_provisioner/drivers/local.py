"""The driver for this machine: PostgreSQL for tenants' rows, folders for their files, the port for their secrets."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path

from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access, Export, Resource, Step, StepAction
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.security.secrets import Secrets

from paybill_provisioner.domain.environments import Environment
from paybill_provisioner.domain.graph import Kind
from paybill_provisioner.drivers import Done, folders, spaces
from paybill_provisioner.drivers.exports import ExportFile, no_rows, rows_of
from paybill_provisioner.drivers.scram import Login, Logins
from paybill_provisioner.drivers.server import MISSING, TenantServer, acting_as
from paybill_provisioner.drivers.spaces import Space
from paybill_provisioner.drivers.survey import Survey, survey

READERS = ("operator",)
"""Who besides the provisioner may read a tenant's password."""

TENANTS = "tenants"
_SWEEPS = 50
_SWEEP_S = 0.02
_END_MS = 5_000

_END_SESSIONS = """
SELECT count(pg_terminate_backend(pid, $3)) FROM pg_stat_activity WHERE usename = $1 AND backend_start < $2
"""


class LocalDriver:
    """Builds in the PostgreSQL server `server`, below `directory`, with passwords kept in `secrets`."""

    def __init__(self, server: TenantServer, directory: Path, secrets: Secrets) -> None:
        self._server = server
        self._directory = directory
        self._secrets = secrets
        self._logins = Logins()

    async def close(self) -> None:
        """End all connections."""
        await self._logins.close()
        await self._server.close()

    async def build(self, environment: Environment, steps: Sequence[Step]) -> AsyncGenerator[Sequence[Done], None]:
        """Every call brings the whole environment about; `steps` are those that somebody waits for.

        A silo is said in two parts, because CREATE DATABASE cannot be part of a transaction.
        """
        if any(step.action is StepAction.DELETE for step in steps):
            raise Refused("this driver removes nothing; take the resource away by hand, then plan again")
        space = Space.of(environment)
        resources = {Kind(resource.kind): resource for resource in environment.resources.values()}
        name = resources[Kind.SECRET].properties["name"]
        known, there = await asyncio.gather(self._secrets.latest(name), self._make_database(space))
        login = await (self._logins.new() if known is None else Login.of(await self._secrets.get(known)))
        make = partial(self._make_space, space, there, login, environment.wanted)
        begin = (
            self._kept(name, known, login.password),
            asyncio.to_thread(self._make_folder, resources[Kind.FOLDER]),
        )
        if space.shared:
            # Side by side: before all are durable nothing is said, and whoever begins again sets the role's password.
            _, reference, _ = await asyncio.gather(make(), *begin)
            yield [(step.resource.address, self._outputs(step.resource, reference)) for step in steps]
            self._logins.prepare()
            return
        reference, _ = await asyncio.gather(*begin)
        done = [(step.resource.address, self._outputs(step.resource, reference)) for step in steps]
        inside = {resources[Kind.SCHEMA].address, resources[Kind.ROLE].address}
        yield [each for each in done if each[0] not in inside]
        await make()
        yield [each for each in done if each[0] in inside]

    async def set_access(self, environment: Environment, access: Access) -> None:
        """Rights first, then an end to the sessions and transactions that began with other rights."""
        space = await self._entered(environment)
        if space is None:
            return
        async with self._server.connection(space.database, keep=space.shared) as connection:
            await connection.execute(spaces.set_access(space, access))
            since: datetime = await connection.fetchval("SELECT clock_timestamp()")
        if access is not Access.OPEN:
            await self._end_sessions(space.role, since)

    async def export(self, environment: Environment) -> Export:
        """The database is read as the tenant, so that not one row of another can be in the file."""
        file = ExportFile(self._directory, environment.id)
        space = await self._entered(environment)
        if space is None:
            return await file.write(no_rows())
        async with (
            self._server.connection(space.database, keep=False) as connection,
            acting_as(connection, space.role),
            aclosing(rows_of(connection, space)) as rows,
        ):
            return await file.write(rows)

    async def _entered(self, environment: Environment) -> Space | None:
        """The place of a tenant that could ever get in; None when it was not built so far, and so is empty."""
        if not environment.resources:
            return None
        space = Space.of(environment)
        there = await self._survey(space)
        return space if there is not None and there.role else None

    async def _kept(self, name: str, known: str | None, password: str) -> str:
        """The reference of the tenant's password, which is made at first and found again ever after."""
        return known or await self._secrets.put(name, password, READERS)

    def _make_folder(self, resource: Resource) -> None:
        folders.make_private(self._directory, TENANTS, *Path(resource.properties["path"]).parts)

    async def _make_database(self, space: Space) -> Survey:
        there = await self._survey(space)
        if there is None or not there.ready(space):
            async with self._server.alone(space.database) as connection:
                for group in space.groups:
                    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", group):
                        await connection.execute(spaces.create_group(group))
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", space.database):
                    await connection.execute(spaces.create_database(space.database))
                await connection.execute(spaces.close_to_public(space.database))
                async with self._server.connection(space.database, keep=space.shared) as inside:
                    await inside.execute(spaces.close_public_schema())
                if space.shared:
                    await connection.execute(spaces.admit_members(space))
            there = await self._survey(space)
        if there is None:
            raise Refused(f"the database {space.database} went away while it was being made; look who removed it")
        return there

    async def _make_space(self, space: Space, there: Survey, login: Login, access: Access) -> None:
        if space.isolation is Isolation.POOL and not there.has(space):
            there = await self._make_pool(space)
        if space.isolation is Isolation.POOL and there.unwalled:
            tables = ", ".join(sorted(there.unwalled))
            raise Refused(
                f"tenants are not kept apart in {tables} of {space.database}: row-level security is not enabled, not "
                "forced, or has another policy; put that right, then try again"
            )
        script = [spaces.make_role(space, access, exists=there.role, verifier=login.verifier)]
        if space.isolation is not Isolation.POOL:
            script.insert(0, spaces.make_schema(space, there.tables))
        async with self._server.connection(space.database, keep=space.shared) as connection:
            await connection.execute(";\n".join(script))

    async def _make_pool(self, space: Space) -> Survey:
        """The tables that all tenants of a pool share: made by one process, while the others wait."""
        async with (
            self._server.alone(space.database),
            self._server.connection(space.database, keep=True) as connection,
        ):
            there = await survey(connection, space)
            if not there.has(space):
                await connection.execute(spaces.make_schema(space, there.tables))
            return await survey(connection, space)

    async def _survey(self, space: Space) -> Survey | None:
        """What is there; None when the database is not, or not open yet."""
        try:
            async with self._server.connection(space.database, keep=space.shared) as connection:
                return await survey(connection, space)
        except MISSING:
            return None

    async def _end_sessions(self, role: str, since: datetime) -> None:
        """End every session that began before `since`; look again, for one that just begins shows up a moment later."""
        async with self._server.connection(self._server.home, keep=True) as connection:
            quiet = 0
            for _ in range(_SWEEPS):
                async with acting_as(connection, role):
                    ended = await connection.fetchval(_END_SESSIONS, role, since, _END_MS)
                quiet = 0 if ended else quiet + 1
                if quiet > 1:
                    return
                await asyncio.sleep(_SWEEP_S)
        raise TimeoutError(f"sessions of {role} do not end; look for them in pg_stat_activity")

    def _outputs(self, resource: Resource, reference: str) -> Mapping[str, str]:
        match Kind(resource.kind):
            case Kind.SECRET:
                return {"secret": reference}
            case Kind.FOLDER:
                return {"folder": resource.properties["path"]}
            case Kind.DATABASE:
                server = self._server
                return {"host": server.host, "port": str(server.port), "database": resource.properties["name"]}
            case Kind.SCHEMA:
                return {"schema_name": resource.properties["name"]}
            case Kind.ROLE:
                return {"username": resource.properties["name"]}
