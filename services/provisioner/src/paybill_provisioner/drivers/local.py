"""Driver for this machine: PostgreSQL for rows, directories for files, and the secrets port for passwords."""

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.cells import Breach
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import Bucket, Database, Role, Schema, Secret
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access, Export
from paybill_contracts.table_rebuilds import InspectedTables
from paybill_definitions.resources import AGENTS_SECRET
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.security.secrets import Secrets

from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.domain.drift import Observed
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.drivers import Done, Outputs, Result, Scope, Site, directories
from paybill_provisioner.drivers.agents import AgentLogins
from paybill_provisioner.drivers.databases import TenantDatabases
from paybill_provisioner.drivers.exports import ExportFile, no_rows, remove_export, rows_of
from paybill_provisioner.drivers.namespaces import DatabaseNamespace
from paybill_provisioner.drivers.observation import observe_files, observe_server, problem_of
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.scram import Credentials, CredentialsFactory
from paybill_provisioner.drivers.server import TenantServer, refusals

SECRET_GRANTEES = ("operator",)
"""Services other than the provisioner that may read a tenant's password."""

AGENT_SECRET_GRANTEES = ("agent-gateway",)
"""Services other than the provisioner that may read the password of a tenant's agents."""

ROWS_READ = "a temporary role that saw the tenant's rows, and was dropped after it, read none in its tables"
"""Verification of the absence of rows in a pool, also after the tenant's own logins are deleted."""

ACTIONS_READ = ", and another one none of its agents' actions"
"""Verification of the absence of actions in a database that tenants share."""

TENANTS = "tenants"
SECRETS = "environments"


class LocalDriver:
    """Builds in the PostgreSQL server `server` and below `directory`, and stores passwords in `secrets`."""

    unique_names = frozenset({"database", "schema", "role", "bucket", "secret"})
    settled_after_s = 0.0

    def __init__(self, server: TenantServer, directory: Path, secrets: Secrets, trusted_s: float = 0.0) -> None:
        """trusted_s: as of TenantDatabases."""
        self._server = server
        roles = TenantRoles(server)
        self._roles = roles
        self._databases = TenantDatabases(server, roles, trusted_s)
        self._agents = AgentLogins(server, self._databases, roles)
        self._directory = directory
        self._secrets = secrets
        self._factory = CredentialsFactory()
        self._new: dict[str, Credentials] = {}
        """Credentials by their reference that are stored and not yet used by a login."""

    async def close(self) -> None:
        """Closes all connections."""
        await self._factory.close()
        await self._server.close()

    async def find(self, resource: Resource, site: Site) -> Result | None:  # noqa: ARG002  # the port has it
        """Returns an existing resource."""
        match resource.attributes:
            case Secret(name=name):
                reference = await self._secrets.latest(name)
                return None if reference is None else Done({"secret": reference})
            case Bucket(name=name):
                exists = await asyncio.to_thread(self._path(name).is_dir)
            case Database():
                exists = await self._databases.has_database(resource)
            case Schema():
                namespace = DatabaseNamespace.of(resource)
                tables = await self._databases.tables(namespace)
                exists = tables is not None and tables.include(namespace)
            case Role(name=name):
                exists = await self._databases.has_role(name)
            case _:
                raise _unsupported(resource)
        return Done(self._outputs(resource)) if exists else None

    @directories.waits_for_disk()
    @refusals()
    async def create(self, resource: Resource, site: Site, token: str) -> Result:  # noqa: ARG002  # the port has it
        """Creates the resource, or what an interrupted call left out. Names are unique, so that no token is needed."""
        match resource.attributes:
            case Secret(name=name, on_demand=on_demand):
                reference = await (self._secrets.latest(name) if on_demand else self._create_secret(resource))
                return Done({"secret": reference} if reference else {})
            case Bucket(name=name):
                await asyncio.to_thread(directories.make_private, self._directory, TENANTS, *Path(name).parts)
            case Database():
                if not await self._databases.has_database(resource):
                    await self._databases.create_database(resource)
            case Schema():
                await self._databases.create_tables(DatabaseNamespace.of(resource))
            case Role() as role:
                await self._create_role(role, site, closed=True)
            case _:
                raise _unsupported(resource)
        return Done(self._outputs(resource))

    @directories.waits_for_disk()
    @refusals()
    async def update(self, before: Resource, after: Resource, site: Site) -> Result:
        """Changes the resource in place: creation adds what is missing and sets what differs."""
        if isinstance(before.attributes, Schema) and not before.attributes.tenant_column:
            await self._databases.rebuild_tables(DatabaseNamespace.of(before), site.environment.tenant_id)
        if isinstance(after.attributes, Role):
            await self._create_role(after.attributes, site, closed=False)
            return Done(self._outputs(after))
        return await self.create(after, site, "")

    async def inspect_tables(self, schema: Resource) -> InspectedTables:
        """Reads the catalogues of the schema's database; nothing exists without one."""
        return await self._databases.inspect_tables(schema)

    @directories.waits_for_disk()
    @refusals()
    async def delete(self, resource: Resource, site: Site) -> Result:
        """Deletes the resource, and reads back that it is absent."""
        match resource.attributes:
            case Secret(name=name):
                await self._secrets.delete(name)
            case Bucket(name=name):
                await asyncio.to_thread(directories.remove, self._path(name))
            case Database(name=name):
                if resource.isolation is not Isolation.SILO:
                    raise Refused(f"{name} is shared by tenants and is never deleted for one of them")
                await self._databases.delete_database(name)
            case Schema():
                namespace = DatabaseNamespace.of(resource)
                for login in _names_of_logins(site):
                    await self._databases.delete_tables(namespace, login)
                for login in _names_of_agents(site):
                    await self._agents.delete_actions(namespace, login)
            case Role(name=name):
                await self._databases.delete_role(name)
            case _:
                raise _unsupported(resource)
        if isinstance(resource.attributes, Database | Schema) and await self._databases.is_foreign(resource):
            return Done({})  # a purge ends only without it: its certificate needs the absence
        if await self.absence(resource, site) is None:
            raise Refused(f"{resource.attributes.name} still exists after its deletion; find out who creates it")
        return Done({})

    async def absence(self, resource: Resource, site: Site) -> str | None:
        """Reads the catalogues, the directories and the secrets; rows in a pool under a temporary role."""
        match resource.attributes:
            case Secret(name=name):
                exists, how = await self._secrets.latest(name) is not None, "the secret store has no version of it"
            case Bucket(name=name):
                exists, how = await asyncio.to_thread(self._path(name).exists), "no directory has its name"
            case Database(name=name):
                exists, how = await self._databases.exists(name), "pg_database has no such name"
            case Schema():
                namespace, agents = DatabaseNamespace.of(resource), _names_of_agents(site)
                if resource.isolation is Isolation.POOL:
                    found = [await self._databases.has_rows(namespace, each) for each in _names_of_logins(site)]
                    exists, how = any(found), ROWS_READ
                else:
                    exists = await self._databases.has_schema(namespace)
                    how = "pg_namespace has no such name, or its database does not exist"
                found = [await self._agents.has_actions(namespace, each) for each in agents]
                exists, how = exists or any(found), how + (ACTIONS_READ if agents and namespace.shared else "")
            case Role(name=name):
                exists, how = await self._databases.has_role(name), "pg_roles has no such name"
            case _:
                raise _unsupported(resource)
        return None if exists else how

    async def poll(self, reference: str) -> Result:
        """Raises Refused: no call of this driver is pending."""
        raise Refused(f"this driver has no operation {reference[:100]}")

    async def set_access(self, environment: Environment, access: Access) -> None:
        """Changes the access of every login of the tenant."""
        for role, schema in _existing_logins(environment):
            if role.agents is not None:
                await self._agents.set_access(role.name, access)
            else:
                await self._databases.set_access(DatabaseNamespace.of(schema), role.name, access)

    async def observe(self, scope: Scope) -> AsyncIterator[Sequence[Observed]]:
        """Yields what carries the names of tenants: logins, databases, schemas, directories and secrets."""
        async with aclosing(observe_server(self._server, scope)) as pages:
            async for page in pages:
                yield page
        yield await asyncio.to_thread(observe_files, self._directory / TENANTS, scope)
        names = await self._secrets.names(SECRETS)
        yield [each for each in map(_secret, names) if each.tenant_id is not None and scope.includes(each.tenant_id)]

    async def upgrade(self) -> bool:
        """Gives logins of earlier versions a creator and bounded groups."""
        return await self._roles.upgrade()

    async def check(self) -> str | None:
        """Returns why the driver cannot work: a right that its role lacks, or a directory that cannot be written."""
        await asyncio.to_thread(directories.make_private, self._directory, TENANTS)
        if not os.access(self._directory / TENANTS, os.W_OK):
            return f"{self._directory} cannot be written"
        return await problem_of(self._server)

    async def breaches(self, isolation: Isolation, database: str, rights: RightsByBlueprint) -> Sequence[Breach]:
        """Returns the guarantees of isolation that do not hold in a database."""
        return await self._databases.breaches(isolation, database, rights)

    @refusals()
    async def grant_agent_rights(self, environment: Environment, rights: Sequence[TableRights]) -> None:
        """Gives the agents' login, or its group in a pool, exactly these rights."""
        for role in _logins(environment):
            if role.agents is not None:
                await self._agents.grant(DatabaseNamespace.of(environment.resources[role.in_schema]), role, rights)

    @directories.waits_for_disk()
    async def make_credentials(self, environment: Environment, secrets: Collection[str]) -> Mapping[str, str]:
        """Makes the secrets with these addresses, and sets the passwords of the logins that use them.

        The lock covers both, so that two calls at the same time leave the stored password at the login.
        """
        resources, made = environment.resources, {}
        async with self._server.exclusive(environment.id):
            for address in sorted(secrets):
                made[address] = await self._create_secret(resources[address])
            for role in _logins(environment):
                if role.secret in made:
                    await self._databases.set_password(role.name, await self._verifier(made[role.secret]))
        return made

    @directories.waits_for_disk()
    async def export(self, environment: Environment) -> Export:
        """Reads the database as the tenant's role, so that the file cannot contain rows of another tenant."""
        file = ExportFile(self._directory, environment.id)
        for role in _logins(environment):
            if role.agents is not None:
                continue
            namespace = DatabaseNamespace.of(environment.resources[role.in_schema])
            async with self._databases.as_tenant(namespace, role.name) as connection:
                if connection is not None:
                    async with aclosing(rows_of(connection, namespace)) as rows:
                        return await file.write(rows)
        return await file.write(no_rows())

    @directories.waits_for_disk()
    async def delete_export(self, export: Export) -> str:
        """Removes the file, and one that is incomplete."""
        await asyncio.to_thread(remove_export, self._directory, export.location)
        return "no file has its name"

    async def _create_secret(self, resource: Resource) -> str:
        name, is_agents = resource.attributes.name, resource.address == AGENTS_SECRET
        reference = await self._secrets.latest(name)
        if reference is None:
            credentials = await self._factory.new()
            grantees = AGENT_SECRET_GRANTEES if is_agents else SECRET_GRANTEES
            reference = await self._secrets.put(name, credentials.password, grantees)
            self._new[reference] = credentials
            self._factory.precompute()
        return reference

    async def _create_role(self, role: Role, site: Site, *, closed: bool) -> None:
        """Creates the login with the verifier of its password, if that is made; one that exists gets it again."""
        await self._server.require_slots(role.name, role.connection_limit)
        namespace = DatabaseNamespace.of(site.resources[role.in_schema])
        verifier = None
        if role.secret is not None and (reference := site.outputs[role.secret].get("secret")):
            verifier = await self._verifier(reference)
        logins = self._databases if role.agents is None else self._agents
        await logins.create_role(namespace, role, verifier, closed=closed)

    async def _verifier(self, reference: str) -> str:
        credentials = self._new.pop(reference, None) or await Credentials.of(await self._secrets.get(reference))
        return credentials.verifier

    def _path(self, name: str) -> Path:
        return self._directory / TENANTS / name

    def _outputs(self, resource: Resource) -> Outputs:
        match resource.attributes:
            case Bucket(name=name):
                return {"bucket": name}
            case Database(name=name):
                return {"host": self._server.host, "port": str(self._server.port), "database": name}
            case Schema(name=name):
                return {"schema_name": name}
            case Role(name=name):
                return {"username": name}
            case _:
                raise _unsupported(resource)


def _logins(environment: Environment) -> Iterator[Role]:
    """Yields the tenant's logins, built or planned."""
    for _, resource in sorted(environment.resources.items()):
        if isinstance(resource.attributes, Role):
            yield resource.attributes


def _names_of_logins(site: Site) -> frozenset[str]:
    """Returns the names of the tenant's logins, with the one that rows in a pool belong to, which may be deleted."""
    number = site.environment.tenant_id.removeprefix("ten_")
    roles = (each.attributes for each in site.resources.values() if isinstance(each.attributes, Role))
    return frozenset({f"t_{number}", *(each.name for each in roles if each.agents is None)})


def _names_of_agents(site: Site) -> list[str]:
    """Returns the name of the login for the tenant's agents, which may be deleted already; nothing without agents."""
    return [f"a_{site.environment.tenant_id.removeprefix('ten_')}"] if site.environment.has_agents else []


def _secret(name: str) -> Observed:
    """Returns a secret: its name is `environments/<number>/<name>`."""
    return Observed("secret", name, f"ten_{name.split('/')[1]}")


def _existing_logins(environment: Environment) -> Iterator[tuple[Role, Resource]]:
    """Yields every login of the tenant with its schema: built or planned ones, and those that others have replaced."""
    for role in _logins(environment):
        yield role, environment.resources[role.in_schema]
    replaced = {each.address: each for each in environment.replaced}
    for each in environment.replaced:
        if isinstance(each.attributes, Role):
            schema = each.attributes.in_schema
            yield each.attributes, replaced.get(schema) or environment.resources[schema]


def _unsupported(resource: Resource) -> Refused:
    return Refused(f"the local driver builds no {resource.kind}; change the tier's resources or its cloud")
