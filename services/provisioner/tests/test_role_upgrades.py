"""Logins and groups of earlier versions are brought to the limits of this one, while their tenants use them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from driver_harness import DRIVER
from paybill_contracts.placement import Isolation, Preset
from paybill_contracts.provisioner import Access
from paybill_embedded.postgres import PostgresServer
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import TenantServer

GROUPS = """
SELECT g.rolname::text, count(*) FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
JOIN pg_roles AS r ON r.oid = m.member WHERE r.rolname = ANY($1::text[]) GROUP BY 1 ORDER BY 1
"""
CREATORS = """
SELECT c.rolname::text, count(*) FROM pg_auth_members AS m JOIN pg_roles AS c ON c.oid = m.member
JOIN pg_roles AS r ON r.oid = m.roleid WHERE r.rolname = ANY($1::text[]) AND c.rolname ~ '_creator_' GROUP BY 1
"""
HAS = "SELECT count(*) FROM unnest($1::text[]) AS r WHERE pg_has_role(r, $2, 'USAGE')"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Server of this module: an upgrade concerns every login of the server."""
    with PostgresServer(tmp_path_factory.mktemp("upgrades"), durable=False) as started:
        started.ensure_databases()
        yield started


@pytest.fixture
async def server(harness: Any) -> AsyncIterator[TenantServer]:
    """Returns connections of their own to the server, as the driver."""
    opened = TenantServer(harness.postgres.url(DRIVER, "postgres"), harness.postgres.password(DRIVER))
    yield opened
    await opened.close()


async def earlier(harness: Any, database: str, count: int) -> list[str]:
    """Creates groups and logins as an earlier version did: by the driver's own role. Every second one may write."""
    logins = sorted(f"t_{uuid4().hex}" for _ in range(count))
    statements = [f"CREATE ROLE {database}_{kind} NOLOGIN NOINHERIT" for kind in ("members", "writers")]
    for number, login in enumerate(logins):
        groups = f"{database}_members" + (f", {database}_writers" if number % 2 == 0 else "")
        statements.append(f"CREATE ROLE {login} NOINHERIT LOGIN")
        statements.append(f"GRANT {groups} TO {login} WITH INHERIT TRUE, SET FALSE")
    connection = await asyncpg.connect(
        harness.postgres.url(DRIVER, "postgres"), password=harness.postgres.password(DRIVER)
    )
    await connection.execute(";\n".join(statements))
    await connection.close()
    return logins


async def test_logins_of_an_earlier_version_get_creators_and_groups_within_their_limits(harness, server) -> None:
    database = f"pool_{harness.region.replace('-', '_')}"
    logins = await earlier(harness, database, 12)
    roles = TenantRoles(server, per_creator=24, per_group=5)
    rounds = 0
    while await roles.upgrade(page=4):
        rounds += 1
    groups = dict(await harness.as_superuser("postgres", GROUPS, logins))
    creators = dict(await harness.as_superuser("postgres", CREATORS, logins))

    assert rounds > 3
    assert groups == {
        f"{database}_members": 5,
        f"{database}_members_2": 5,
        f"{database}_members_3": 2,
        f"{database}_writers": 3,
        f"{database}_writers_2": 2,
        f"{database}_writers_3": 1,
    }
    assert sum(creators.values()) == 12
    assert max(creators.values()) <= 24
    assert await harness.as_superuser("postgres", HAS, logins, f"{database}_members") == [(12,)]
    assert await harness.as_superuser("postgres", HAS, logins, f"{database}_writers") == [(6,)]
    assert not await roles.upgrade()


async def test_a_login_leaves_and_joins_the_part_of_the_group_that_it_is_in(harness, server) -> None:
    database = f"pool_{harness.region.replace('-', '_')}"
    logins = await earlier(harness, database, 3)
    roles, last = TenantRoles(server, per_group=2), logins[2]
    while await roles.upgrade():
        pass
    found = []
    for join, leave in (([], [f"{database}_writers"]), ([f"{database}_writers"], []), ([], [f"{database}_members"])):
        await roles.change(last, await roles.login(last), join=join, leave=leave)
        found.append(dict(await harness.as_superuser("postgres", GROUPS, [last])))

    assert found == [
        {f"{database}_members_2": 1},
        {f"{database}_members_2": 1, f"{database}_writers_2": 1},
        {f"{database}_writers_2": 1},
    ]


async def test_tenants_of_a_split_group_keep_their_rows_their_access_and_their_isolation(harness, server) -> None:
    environments = [await harness.ready(Preset.POOLED) for _ in range(3)]
    database = environments[0].connections[0].database
    logins = [each.connections[0].username for each in environments]
    roles = TenantRoles(server, per_group=1)
    while await roles.upgrade():
        pass
    parts = dict(await harness.as_superuser("postgres", GROUPS, logins))

    assert max(parts.values()) == 1
    assert len(parts) == 6
    assert [await harness.can_write(each) for each in environments] == [True] * 3
    assert await harness.driver.breaches(Isolation.POOL, database, {}) == []
    for environment in environments:
        await harness.driver.set_access(environment, Access.READ_ONLY)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await harness.can_write(environment)
        await harness.driver.set_access(environment, Access.OPEN)
        assert await harness.can_write(environment)
        assert (await harness.driver.export(environment)).rows == 1
    assert await harness.can_write(await harness.ready(Preset.POOLED))
