"""Logins of tenants' agents in PostgreSQL, the table of their actions, and their rights on columns.

The table has the same form and the same forced policy in every placement, so that statements are the same, too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.kinds import Role
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access
from paybill_runtime.jobs.effects import Refused

from paybill_provisioner.domain.agent_logins import SETTINGS
from paybill_provisioner.drivers import namespaces
from paybill_provisioner.drivers.databases import TenantDatabases
from paybill_provisioner.drivers.inspection import has_actions_policy
from paybill_provisioner.drivers.namespaces import (
    ACTIONS,
    AGENT_SCHEMA,
    POLICY,
    TENANT_OF_CURRENT_USER,
    DatabaseNamespace,
    ident,
    literal,
)
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import DATABASE_MISSING, Connection, TenantServer, in_turn

_OWN = f"tenant = {TENANT_OF_CURRENT_USER}"
_CREATE_ACTIONS = f"""
CREATE TABLE {ACTIONS} (
    tenant text NOT NULL DEFAULT {TENANT_OF_CURRENT_USER},
    run text NOT NULL,
    seq integer NOT NULL,
    digest text NOT NULL,
    outcome text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, run, seq)
);
ALTER TABLE {ACTIONS} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {ACTIONS} FORCE ROW LEVEL SECURITY;
CREATE POLICY {POLICY} ON {ACTIONS} USING ({_OWN}) WITH CHECK ({_OWN});
"""
_ACTIONS = """
SELECT c.relrowsecurity AND c.relforcerowsecurity AS forced,
       ARRAY(SELECT ARRAY[p.polname::text, p.polcmd::text, p.polpermissive::text, p.polroles::text,
                          pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)]
             FROM pg_policy AS p WHERE p.polrelid = c.oid) AS policies,
       ARRAY(SELECT r.rolname::text FROM aclexplode(c.relacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
             WHERE a.privilege_type IN ('INSERT', 'DELETE')) AS grantees
FROM pg_class AS c WHERE c.oid = to_regclass('paybill_agent.actions')
"""
_OWNER = """
SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace
WHERE nspname = 'paybill_agent' AND NOT pg_has_role(nspowner, 'USAGE')
"""
_HAS_ACTIONS = "SELECT EXISTS (SELECT FROM paybill_agent.actions)"
_DELETE_ACTIONS = "DELETE FROM paybill_agent.actions"
_PRIVILEGES = """
SELECT c.relname::text AS table,
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT x.privilege_type FROM aclexplode(c.relacl) AS x WHERE x.grantee = g.oid) AS of_table,
       ARRAY(SELECT ARRAY[x.privilege_type, a.attname::text] FROM pg_attribute AS a, aclexplode(a.attacl) AS x
             WHERE a.attrelid = c.oid AND NOT a.attisdropped AND x.grantee = g.oid) AS of_columns
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, pg_roles AS g
WHERE g.rolname = $2 AND n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY 1
"""
_PART = re.compile(r"(.+_agents_[a-p]{6})(?:_[0-9]+)?")


class AgentLogins:
    """Logins for agents beside those of the tenants in `databases`."""

    def __init__(self, server: TenantServer, databases: TenantDatabases, roles: TenantRoles) -> None:
        self._server = server
        self._databases = databases
        self._roles = roles

    async def create_role(
        self, namespace: DatabaseNamespace, role: Role, verifier: str | None, *, closed: bool
    ) -> None:
        """Creates or changes a login as `TenantDatabases.create_role` does, with the table of its actions.

        It has no rights on the tenant's tables before they are granted.
        """
        groups = [namespaces.agents_group(namespace.database, role.agents or "")] if namespace.shared else []
        await self._ensure_actions(namespace, groups)
        login = await self._databases.unprivileged(role.name, groups)
        access = Access.CLOSED if closed or login is None else None
        attributes = namespaces.role_attributes(role, access, verifier)
        settings = _settings(role.name, namespace.database)
        await self._roles.change(role.name, login, f"{attributes};\n{settings}", groups)
        if namespace.isolation is not Isolation.POOL:
            statements = _own_privileges(namespace, role.name)
            await self._server.change_privileges(namespace.database, statements, pooled=namespace.shared)

    async def _ensure_actions(self, namespace: DatabaseNamespace, groups: Sequence[str]) -> None:
        """Creates the schema and table of actions, and the groups, unless they exist.

        Raises Refused when the table does not isolate its tenants, or is not the driver's.
        """
        async with self._server.connection(namespace.database, pooled=namespace.shared) as connection:
            found = await _actions(connection, groups)
        if found:
            return
        database = namespace.database
        erasers = [namespaces.erasers_group(database)] if namespace.shared else []
        await self._roles.ensure_groups([*groups, *erasers])
        async with (
            self._server.exclusive(database),
            self._server.connection(database, pooled=namespace.shared) as connection,
        ):
            owner = await connection.fetchval(_OWNER)
            if owner is not None:
                raise Refused(f"the schema {AGENT_SCHEMA} of {database} belongs to {owner}; remove it, then retry")
            found = await _actions(connection, groups)
            if not found:
                statements = [*([] if found is not None else [_CREATE]), *_group_privileges(namespace, groups, erasers)]
                await connection.execute(";\n".join(statements))

    async def set_access(self, role: str, access: Access) -> None:
        """Opens the login for a tenant with full access, and closes it for every other one."""
        await self._databases.set_login(role, Access.OPEN if access is Access.OPEN else Access.CLOSED)

    async def grant(self, namespace: DatabaseNamespace, role: Role, rights: Sequence[TableRights]) -> None:
        """Gives the login, or in a pool its group, exactly these rights on the tenant's tables."""
        in_pool = namespace.isolation is Isolation.POOL
        grantee = namespaces.agents_group(namespace.database, role.agents or "") if in_pool else role.name
        wanted = {each.table: each for each in rights}

        async def change() -> None:
            async with (
                self._server.connection(namespace.database, pooled=namespace.shared) as connection,
                connection.transaction(),
            ):
                for table in await connection.fetch(_PRIVILEGES, namespace.schema, grantee):
                    target = _target(wanted.get(table["table"]), table["columns"])
                    name = f"{ident(namespace.schema)}.{ident(table['table'])}"
                    for statement in _changes(name, ident(grantee), target, table):
                        await connection.execute(statement)

        async with self._server.exclusive(namespace.database):
            await in_turn(change)

    async def delete_actions(self, namespace: DatabaseNamespace, role: str) -> None:
        """Deletes the actions of the tenant's agents in a shared database; the login loses its membership there.

        A silo is dropped with them.
        """
        if not namespace.shared:
            return
        with suppress(*DATABASE_MISSING):
            async with self._server.connection(namespace.database, pooled=False) as connection:
                if await _actions(connection, ()) is not None:
                    async with self._databases.row_deleter(connection, role, [_erasers(namespace)]):
                        await connection.execute(_DELETE_ACTIONS)
        login = await self._roles.login(role)
        if login is not None:
            parts = (found[1] for each in login.groups if (found := _PART.fullmatch(each)))
            left = {each for each in parts if each.startswith(f"{namespace.database}_agents_")}
            await self._roles.change(role, login, leave=left)

    async def has_actions(self, namespace: DatabaseNamespace, role: str) -> bool:
        """Returns True when the table of actions of a shared database shows a row of the tenant."""
        if not namespace.shared:
            return False
        with suppress(*DATABASE_MISSING):
            async with self._server.connection(namespace.database, pooled=False) as connection:
                if await _actions(connection, ()) is not None:
                    async with self._databases.row_deleter(connection, role, [_erasers(namespace)]):
                        return bool(await connection.fetchval(_HAS_ACTIONS))
        return False


_CREATE = f"CREATE SCHEMA IF NOT EXISTS {AGENT_SCHEMA};\n{_CREATE_ACTIONS}"


def _erasers(namespace: DatabaseNamespace) -> str:
    return namespaces.erasers_group(namespace.database)


async def _actions(connection: Connection, groups: Sequence[str]) -> bool | None:
    """Returns whether these groups may use the table of actions; None without the table.

    Raises Refused when the table does not isolate its tenants.
    """
    row = await connection.fetchrow(_ACTIONS)
    if row is None:
        return None
    if not (row["forced"] and has_actions_policy(row["policies"])):
        raise Refused(
            f"tenants are not isolated in {ACTIONS}: row-level security is not enabled, not forced, or has another "
            "policy; restore it, then retry"
        )
    return set(groups) <= set(row["grantees"])


def _group_privileges(namespace: DatabaseNamespace, groups: Sequence[str], erasers: Sequence[str]) -> Iterator[str]:
    """Yields the privileges of the groups in a shared database; those on tables of a pool follow from the bundle."""
    for group in map(ident, groups):
        yield f"GRANT CONNECT ON DATABASE {ident(namespace.database)} TO {group}"
        if namespace.isolation is Isolation.POOL:
            yield f"GRANT USAGE ON SCHEMA {ident(namespace.schema)} TO {group}"
        yield f"GRANT USAGE ON SCHEMA {AGENT_SCHEMA} TO {group}"
        yield f"GRANT SELECT, INSERT ON {ACTIONS} TO {group}"
    for group in map(ident, erasers):
        yield f"GRANT USAGE ON SCHEMA {AGENT_SCHEMA} TO {group}"
        yield f"GRANT SELECT, DELETE ON {ACTIONS} TO {group}"


def _own_privileges(namespace: DatabaseNamespace, role: str) -> str:
    """Returns the statements for the privileges of a login on the tenant's own schema, and of a silo on all."""
    name = ident(role)
    parts = [] if namespace.shared else [f"GRANT CONNECT ON DATABASE {ident(namespace.database)} TO {name}"]
    parts.append(f"GRANT USAGE ON SCHEMA {ident(namespace.schema)} TO {name}")
    if not namespace.shared:
        parts += [
            f"GRANT USAGE ON SCHEMA {AGENT_SCHEMA} TO {name}",
            f"GRANT SELECT, INSERT ON {ACTIONS} TO {name}",
        ]
    return ";\n".join(parts)


def _settings(role: str, database: str) -> str:
    """Returns the statements for the settings of a login, and no others."""
    name = ident(role)
    parts = [f"ALTER ROLE {name} RESET ALL", f"ALTER ROLE {name} IN DATABASE {ident(database)} RESET ALL"]
    parts += [f"ALTER ROLE {name} SET {setting} = {literal(value)}" for setting, value in SETTINGS.items()]
    return ";\n".join(parts)


def _target(rights: TableRights | None, columns: Sequence[str]) -> dict[str, set[str]]:
    """Returns the columns by privilege; for DELETE, which has none, an empty name."""
    if rights is None:
        return {}
    existing = set(columns)
    found = {
        "SELECT": existing.intersection(rights.select),
        "INSERT": existing.intersection(rights.insert),
        "UPDATE": existing.intersection(rights.update),
    }
    return found | ({"DELETE": {""}} if rights.delete else {})


def _changes(name: str, grantee: str, target: Mapping[str, set[str]], table: Any) -> Iterator[str]:
    """Yields the statements from the privileges that exist to those of `target`; nothing when they are equal."""
    wider = [each for each in table["of_table"] if each != "DELETE" or "DELETE" not in target]
    existing: dict[str, set[str]] = {"DELETE": {""}} if "DELETE" in table["of_table"] else {}
    for privilege, column in table["of_columns"]:
        existing.setdefault(privilege, set()).add(column)
    for privilege in sorted(wider):
        # It is also revoked from the columns.
        yield f"REVOKE {privilege} ON {name} FROM {grantee}"
        existing.pop(privilege, None)
    for privilege in sorted(target.keys() | existing.keys()):
        desired, before = target.get(privilege, set()), existing.get(privilege, set())
        if gone := before - desired:
            yield f"REVOKE {privilege}{_list(gone)} ON {name} FROM {grantee}"
        if new := desired - before:
            yield f"GRANT {privilege}{_list(new)} ON {name} TO {grantee}"


def _list(columns: set[str]) -> str:
    return "" if columns == {""} else f" ({', '.join(map(ident, sorted(columns)))})"
