"""Logins belong to creators and groups to the granter, so that no change reads the memberships of all tenants."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from driver_harness import DRIVER
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import TenantServer

LOGINS_OF = """
SELECT c.rolname::text, count(*) FROM pg_auth_members AS m JOIN pg_roles AS c ON c.oid = m.member
JOIN pg_roles AS r ON r.oid = m.roleid WHERE r.rolname = ANY($1::text[]) AND m.admin_option GROUP BY 1
"""
GRANTORS = """
SELECT DISTINCT m.grantor::regrole::text FROM pg_auth_members AS m
JOIN pg_roles AS r ON r.oid = m.member WHERE r.rolname = $1
"""
ROWS_READ = """
SELECT sum(pg_stat_get_xact_tuples_returned(t) + pg_stat_get_xact_tuples_fetched(t))::bigint
FROM unnest(ARRAY['pg_auth_members'::regclass, 'pg_auth_members_member_role_index',
                  'pg_auth_members_role_member_index']) AS t
"""

# An installation of an earlier version: the driver created the groups and the login, and granted the memberships.
EARLIER = """
GRANT "{database}_members", "{database}_writers" TO provisioner_driver WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
REVOKE "{database}_members", "{database}_writers" FROM "{role}" GRANTED BY provisioner_driver_granter;
REVOKE "{database}_members", "{database}_writers" FROM provisioner_driver_granter GRANTED BY postgres;
GRANT "{database}_members", "{database}_writers" TO "{role}" WITH INHERIT TRUE, SET FALSE GRANTED BY provisioner_driver;
REVOKE "{role}" FROM {creator} GRANTED BY postgres;
GRANT "{role}" TO provisioner_driver WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
"""


def names(number: int) -> list[str]:
    return [f"t_{uuid4().hex}" for _ in range(number)]


async def create(roles: TenantRoles, logins: list[str], group: str) -> None:
    """Creates logins in a group, four at a time."""
    await roles.ensure_groups([group])
    left = iter(logins)

    async def some() -> None:
        for login in left:
            await roles.change(login, None, "NOINHERIT LOGIN CONNECTION LIMIT 5", join=[group])

    await asyncio.gather(*(some() for _ in range(4)))


class Roles:
    """Tenants' roles on a server connection of their own."""

    def __init__(self, harness, per_creator: int) -> None:
        self._harness = harness
        self._per_creator = per_creator

    async def __aenter__(self) -> TenantRoles:
        postgres = self._harness.postgres
        self._server = TenantServer(postgres.url(DRIVER, "postgres"), postgres.password(DRIVER))
        return TenantRoles(self._server, self._per_creator)

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


async def rows_read(harness, *statements: str) -> int:
    """Returns the number of memberships that a new session reads for statements, which are rolled back."""
    connection = await asyncpg.connect(
        harness.postgres.url(DRIVER, f"{DRIVER}_roles"), password=harness.postgres.password(DRIVER)
    )
    try:
        transaction = connection.transaction()
        await transaction.start()
        for statement in statements:
            await connection.execute(statement)
        read = await connection.fetchval(ROWS_READ)
        await transaction.rollback()
        return int(read)
    finally:
        await connection.close()


async def test_no_creator_has_more_logins_than_its_limit_and_the_driver_has_none(harness) -> None:
    logins = names(80)
    async with Roles(harness, 40) as first, Roles(harness, 40) as second:
        await asyncio.gather(
            create(first, logins[:40], f"{harness.region}_members"),
            create(second, logins[40:], f"{harness.region}_members"),
        )
    creators = dict(await harness.as_superuser("postgres", LOGINS_OF, logins))

    assert sum(creators.values()) == 80
    assert max(creators.values()) <= 40
    assert DRIVER not in creators
    for login in logins[:1]:
        assert await harness.as_superuser("postgres", GRANTORS, login) == [(f"{DRIVER}_granter",)]


async def test_onboarding_and_suspension_read_no_more_rows_of_the_catalogue_with_many_tenants(harness) -> None:
    group, first, cost = f"{harness.region}_writers", f"t_{uuid4().hex}", {}
    for tenants, more in ((100, [first, *names(99)]), (1000, names(900))):
        async with Roles(harness, 66) as roles:
            await create(roles, more, f"{group}_{tenants}")
            login = await roles.login(first)
        creator, granter = f"roles.{login.creator}", f"roles.{DRIVER}_granter"
        suspend = (
            f"SELECT {creator}('ALTER ROLE {first} NOLOGIN')",
            f"""SELECT {granter}('REVOKE "{group}_100" FROM {first}')""",
        )
        onboard = (
            f"SELECT {creator}('CREATE ROLE {names(1)[0]} NOINHERIT LOGIN')",
            f"""SELECT {granter}('GRANT "{group}_100" TO {first} WITH INHERIT TRUE, SET FALSE')""",
        )
        cost[tenants] = (await rows_read(harness, *suspend), await rows_read(harness, *onboard))

    for few, many in zip(cost[100], cost[1000], strict=True):
        assert few > 0
        assert many <= few * 1.2 + 10, cost


@pytest.mark.parametrize("first", ["build", "suspend", "read_only", "credentials", "export", "delete"])
async def test_a_login_of_an_earlier_version_gets_a_creator_at_its_next_change(harness, first) -> None:
    planned = harness.planned(Preset.POOLED)
    environment = await harness.build(planned)
    connection = environment.connections[0]
    ((creator, _),) = await harness.as_superuser("postgres", LOGINS_OF, [connection.username])
    for statement in EARLIER.strip().split(";\n"):
        await harness.as_superuser(
            "postgres", statement.format(database=connection.database, role=connection.username, creator=creator)
        )
    assert await harness.as_superuser("postgres", GRANTORS, connection.username) == [(DRIVER,)]
    assert await harness.can_write(environment)
    driver = harness.new_driver()
    try:
        match first:
            case "build":
                await harness.build(planned, driver)
            case "suspend":
                await driver.set_access(environment, Access.CLOSED)
                with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                    await harness.can_write(environment)
                await driver.set_access(environment, Access.OPEN)
            case "read_only":
                await driver.set_access(environment, Access.READ_ONLY)
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await harness.can_write(environment)
                await driver.set_access(environment, Access.OPEN)
            case "credentials":
                await driver.make_credentials(environment, ["secret.database"])
            case "export":
                assert (await driver.export(environment)).rows == 1
            case _:
                await harness.delete(environment, "role.main", driver)
                assert not await harness.as_superuser(
                    "postgres", "SELECT FROM pg_roles WHERE rolname = $1", connection.username
                )
                return
    finally:
        await driver.close()

    assert await harness.can_write(environment)
    assert await harness.as_superuser("postgres", GRANTORS, connection.username) == [(f"{DRIVER}_granter",)]
    creators = dict(await harness.as_superuser("postgres", LOGINS_OF, [connection.username]))
    assert any(name.startswith(f"{DRIVER}_creator_") for name in creators)


async def test_only_the_driver_acts_as_creator_and_granter(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    statement = "SELECT roles.provisioner_driver_granter('CREATE ROLE intruder')"

    for database in ("tenant", "postgres", f"{DRIVER}_roles"):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError)):
            async with harness.connect(environment, database=database) as connection:
                await connection.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await harness.as_driver("postgres", f"SET ROLE {DRIVER}_granter")
    assert (
        await harness.as_superuser(
            "postgres",
            "SELECT rolname::text FROM pg_roles WHERE rolname = 'intruder' OR (rolsuper AND rolname ~ $1)",
            DRIVER,
        )
        == []
    )
