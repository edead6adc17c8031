"""Privileges that a tenant granted to another tenant's login do not prevent its deletion, on a real PostgreSQL."""

import pytest
from driver_harness import DRIVER
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.drivers import namespaces
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import TenantServer
from paybill_runtime.jobs.effects import Refused

ROLES = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1::text[])"
DRIVER_IN = """
SELECT r.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.roleid
WHERE m.member = $1::text::regrole AND r.rolname = $2
"""


async def grant_large_object(harness, owner, role: str) -> None:
    """Makes a large object of a tenant, as one could in an older database, and grants it to another login."""
    connected = owner.connections[0]
    async with harness.superuser(connected.database) as connection:
        oid = await connection.fetchval("SELECT lo_from_bytea(0, 'x')")
        await connection.execute(f'ALTER LARGE OBJECT {oid} OWNER TO "{connected.username}"')
        await connection.execute(f'GRANT SELECT, UPDATE ON LARGE OBJECT {oid} TO "{role}"')


async def existing(harness, *roles: str) -> list[str]:
    return [row[0] for row in await harness.as_superuser("postgres", ROLES, roles)]


@pytest.mark.parametrize(
    ("owner", "victim"),
    [
        (Preset.POOLED, Preset.POOLED),
        (Preset.BRIDGE, Preset.BRIDGE),
        (Preset.SILO, Preset.POOLED),
        (Preset.POOLED, Preset.SILO),
    ],
)
async def test_a_large_object_granted_to_a_login_does_not_keep_it(harness, owner, victim) -> None:
    """Logins belong to the whole server: the object can be in a database to which the login cannot connect."""
    granting, leaving = await harness.ready(owner), await harness.ready(victim)
    role, other = leaving.connections[0].username, granting.connections[0].username
    await grant_large_object(harness, granting, role)
    await harness.delete(leaving, "role.main")
    kept = await harness.as_superuser(
        granting.connections[0].database,
        "SELECT lo_get(oid) FROM pg_largeobject_metadata WHERE lomowner = $1::text::regrole",
        other,
    )

    assert (await existing(harness, role), kept) == ([], [(b"x",)])
    assert await harness.as_superuser("postgres", DRIVER_IN, DRIVER, other) == []


async def test_default_privileges_for_a_login_do_not_keep_it(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    async with harness.connect(pair.tenant) as connection:
        for kind in ("TABLES", "FUNCTIONS", "SCHEMAS", "LARGE OBJECTS"):
            await connection.execute(f'ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO "{pair.neighbour_role}"')
    await harness.delete(pair.neighbour, "role.main")

    assert await existing(harness, pair.neighbour_role) == []


async def test_a_login_with_bypassrls_is_replaced_in_spite_of_granted_privileges(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    await grant_large_object(harness, pair.tenant, pair.neighbour_role)
    await harness.as_superuser("postgres", f'ALTER ROLE "{pair.neighbour_role}" BYPASSRLS')
    await harness.build(harness.planned(Preset.POOLED, pair.neighbour.tenant_id.removeprefix("ten_")))

    assert await harness.driver.breaches(Isolation.POOL, pair.neighbour.connections[0].database, {}) == []


async def test_privileges_granted_to_the_role_that_deletes_rows_do_not_prevent_the_deletion(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    deleter = namespaces.row_deleter(pair.neighbour_role)
    server = TenantServer(harness.postgres.url(DRIVER, "postgres"), harness.postgres.password(DRIVER))
    try:
        # A deletion that was interrupted left the role.
        await TenantRoles(server).change(deleter, None, "NOLOGIN NOINHERIT")
    finally:
        await server.close()
    await grant_large_object(harness, pair.tenant, deleter)
    await harness.delete(pair.neighbour, "schema.main")

    assert await existing(harness, deleter) == []


async def test_a_privilege_that_only_another_owner_can_revoke_is_named(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    role, database = environment.connections[0].username, environment.connections[0].database
    await harness.as_superuser(database, f'GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text) TO "{role}"')

    with pytest.raises(Refused, match=rf"function pg_ls_dir\(text\) of postgres; .* DROP OWNED BY {role} there"):
        await harness.delete(environment, "role.main")
    await harness.as_superuser(database, f'REVOKE EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text) FROM "{role}"')
    await harness.delete(environment, "role.main")
    assert await existing(harness, role) == []
