"""Removal of a login with its privileges and objects, which can be in every database of the server.

A tenant can grant privileges on its large objects to any role, and `DROP OWNED` removes only grants of roles whose
privileges the driver has. Therefore the driver inherits those of each owner meanwhile.
"""

from contextlib import AsyncExitStack, suppress
from typing import Any

import asyncpg
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter

from paybill_provisioner.drivers import namespaces
from paybill_provisioner.drivers.inspection import Login
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import DATABASE_MISSING, TenantServer

_ATTEMPTS = 5
"""A tenant can grant a privilege between the removal of all others and that of the login."""

_INHERITED = "INHERIT TRUE, SET FALSE"

_DATABASES = """
SELECT DISTINCT d.datname::text AS name FROM pg_shdepend AS s LEFT JOIN pg_database AS d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)
"""
# PostgreSQL records no dependency on the superuser of its installation, which has the id 10.
_DEPENDENTS = """
SELECT pg_describe_object(s.classid, s.objid, s.objsubid) AS object,
       coalesce(o.refobjid, 10)::regrole::text AS owner, r.rolname ~ '^[at]_[0-9a-f]{32}' AS of_tenant
FROM pg_shdepend AS s LEFT JOIN pg_shdepend AS o
     ON (o.dbid, o.classid, o.objid, o.objsubid, o.deptype) = (s.dbid, s.classid, s.objid, s.objsubid, 'o')
JOIN pg_roles AS r ON r.oid = coalesce(o.refobjid, 10)
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)
AND s.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) ORDER BY 1
"""


async def drop(server: TenantServer, roles: TenantRoles, role: str, login: Login) -> None:
    """Drops a login with everything that depends on it.

    Raises Refused when that needs the owner of an object that is no tenant, and RetryAfter when new privileges come.
    """
    reason = ""
    for _ in range(_ATTEMPTS):
        async with roles.connection() as connection:
            databases = {row["name"] or server.maintenance_database for row in await connection.fetch(_DATABASES, role)}
        for database in sorted(databases):
            with suppress(*DATABASE_MISSING):
                await _release(server, roles, role, login, database)
        try:
            await roles.drop(role, login)
        except asyncpg.DependentObjectsStillExistError as error:
            reason = f"{error}: {error.detail}"
        else:
            return
    raise RetryAfter(None, f"{role} gets new privileges while it is dropped: {reason}")


async def _release(server: TenantServer, roles: TenantRoles, role: str, login: Login, database: str) -> None:
    """Drops what the login owns in one database, and its privileges there and on databases."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(server.connection(database, pooled=False))
        await stack.enter_async_context(roles.member(role, login, _INHERITED))
        found = await connection.fetch(_DEPENDENTS, role)
        for owner in sorted({each["owner"] for each in found if each["of_tenant"]} - {role}):
            if owned_by := await roles.login(owner):
                current = await roles.change(owner, owned_by) if owned_by.is_earlier else owned_by
                await stack.enter_async_context(roles.member(owner, current, _INHERITED))
        await connection.execute(namespaces.drop_owned(role))
        _require_none(role, database, await connection.fetch(_DEPENDENTS, role))


def _require_none(role: str, database: str, left: list[Any]) -> None:
    if not left:
        return
    objects = ", ".join(f"{each['object']} of {each['owner']}" for each in left[:10])
    reason = f"{role} has privileges in {database} that the driver cannot revoke: {objects}"
    if all(each["of_tenant"] for each in left):
        # Another deletion ended the membership of an owner, or its privileges are new.
        raise RetryAfter(None, reason)
    raise Refused(f"{reason}; as the owner or a superuser, DROP OWNED BY {role} there, then retry")
