"""Who gets in where: nobody without the right password, and nobody into what is not its own."""

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_provisioner.domain.graph import role_of

PRESETS = list(Preset)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_wrong_password_opens_nothing(site, preset) -> None:
    environment = await site.ready(preset)
    right = await site.secrets.get(environment.endpoint.secret)

    for wrong in ("", "wrong", right[:-1], right.swapcase(), environment.endpoint.username):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InternalClientError)):
            async with site.enter(environment, password=wrong):
                pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_password_is_nobody_elses(site, preset) -> None:
    there = await site.neighbours(preset)

    for user in (there.them, "postgres", "provisioner_driver", "tenant", "billing", "provisioner"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            async with site.enter(there.mine, user=user):
                pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_no_group_can_log_in(site, preset) -> None:
    environment = await site.ready(preset)
    groups = await site.root("postgres", "SELECT rolname::text FROM pg_roles WHERE rolname ~ '_(members|writers)$'")

    for (group,) in groups:
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            async with site.enter(environment, user=group):
                pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_tenant_enters_its_own_database_and_no_other_on_the_server(site, preset) -> None:
    environments = [await site.ready(each) for each in PRESETS]
    mine = environments[PRESETS.index(preset)]
    databases = [name for (name,) in await site.root("postgres", "SELECT datname::text FROM pg_database")]
    assert {"postgres", "template1", "tenant", "billing", "provisioner"} <= set(databases)

    entered = []
    for database in databases:
        try:
            async with site.enter(mine, database=database):
                entered.append(database)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError):
            continue

    assert entered == [mine.endpoint.database]


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_role_holds_no_more_sessions_than_its_tier_allows(site, preset) -> None:
    environment = await site.ready(preset)
    opened = [await asyncpg_connection(site, environment) for _ in range(5)]
    try:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg_connection(site, environment)
    finally:
        for connection in opened:
            await connection.close()


async def asyncpg_connection(site, environment):
    endpoint = environment.endpoint
    return await asyncpg.connect(
        host=endpoint.host,
        port=endpoint.port,
        database=endpoint.database,
        user=endpoint.username,
        password=await site.secrets.get(endpoint.secret),
    )


async def test_the_role_of_a_tenant_is_its_whole_id() -> None:
    assert role_of("ten_" + "ab" * 16) == "t_" + "ab" * 16
    assert len(role_of("ten_" + "ab" * 16)) < 63
