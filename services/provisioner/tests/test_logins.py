"""Logins of tenants: only with their password, and only to their own database."""

import asyncpg
import pytest
from paybill_contracts.placement import Preset

PRESETS = list(Preset)


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_wrong_password_is_refused(harness, preset) -> None:
    environment = await harness.ready(preset)
    right = await harness.secrets.get(environment.connections[0].secret)

    for wrong in ("", "wrong", right[:-1], right.swapcase(), environment.connections[0].username):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InternalClientError)):
            async with harness.connect(environment, password=wrong):
                pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_password_is_valid_for_one_role_only(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)

    for user in (pair.neighbour_role, "postgres", "provisioner_driver", "tenant", "billing", "provisioner"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            async with harness.connect(pair.tenant, user=user):
                pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_no_group_can_log_in(harness, preset) -> None:
    environment = await harness.ready(preset)
    groups = await harness.as_superuser(
        "postgres", "SELECT rolname::text FROM pg_roles WHERE rolname ~ '_(members|writers)$'"
    )

    for (group,) in groups:
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            async with harness.connect(environment, user=group):
                pass


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_tenant_connects_only_to_its_own_database(harness, preset) -> None:
    environments = [await harness.ready(each) for each in PRESETS]
    mine = environments[PRESETS.index(preset)]
    databases = [name for (name,) in await harness.as_superuser("postgres", "SELECT datname::text FROM pg_database")]
    assert {"postgres", "template1", "tenant", "billing", "provisioner"} <= set(databases)

    connected = []
    for database in databases:
        try:
            async with harness.connect(mine, database=database):
                connected.append(database)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError):
            continue

    assert connected == [mine.connections[0].database]


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_connection_limit_of_a_tier_is_enforced(harness, preset) -> None:
    environment = await harness.ready(preset)
    opened = [await open_connection(harness, environment) for _ in range(5)]
    try:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await open_connection(harness, environment)
    finally:
        for connection in opened:
            await connection.close()


async def open_connection(harness, environment):
    endpoint = environment.connections[0]
    return await asyncpg.connect(
        host=endpoint.host,
        port=endpoint.port,
        database=endpoint.database,
        user=endpoint.username,
        password=await harness.secrets.get(endpoint.secret),
    )
