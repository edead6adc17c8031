"""Access to each database, checked against a real server."""

import asyncpg
import pytest

SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
ROLES = (*SERVICES, "provisioner_driver")


async def _connect(server, role, database, password):
    connection = await asyncpg.connect(server.url(role, database), password=password)
    try:
        return await connection.fetchval("SELECT current_user")
    finally:
        await connection.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_can_connect_to_its_own_database_and_owns_it(postgres_server, service):
    connection = await asyncpg.connect(postgres_server.url(service), password=postgres_server.password(service))
    await connection.execute("CREATE SCHEMA own; CREATE TABLE own.t (n int); CREATE TABLE public.t (n int)")
    await connection.close()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("database", [*SERVICES, "postgres", "template1"])
async def test_no_role_can_connect_to_the_database_of_another(postgres_server, role, database):
    if role == database or (role, database) == ("provisioner_driver", "postgres"):
        assert await _connect(postgres_server, role, database, postgres_server.password(role)) == role
        return

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await _connect(postgres_server, role, database, postgres_server.password(role))


@pytest.mark.parametrize("role", ["postgres", *ROLES])
@pytest.mark.parametrize("password", ["", "wrong", "postgres"])
async def test_a_connection_without_the_password_is_refused(postgres_server, role, password):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _connect(postgres_server, role, "postgres", password)


async def test_a_password_is_valid_for_one_role_only(postgres_server):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _connect(postgres_server, "billing", "billing", postgres_server.password("tenant"))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_has_no_right_beyond_its_database(postgres_server, service):
    connection = await asyncpg.connect(postgres_server.url(service), password=postgres_server.password(service))
    refused = [
        "CREATE ROLE another",
        "CREATE DATABASE another",
        "ALTER ROLE postgres PASSWORD 'mine'",
        "SET ROLE postgres",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT rolpassword FROM pg_authid",
    ]
    try:
        for statement in refused:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_driver_creates_databases_for_tenants_that_cannot_connect_to_ours(postgres_server):
    driver = await asyncpg.connect(
        postgres_server.url("provisioner_driver", "postgres"), password=postgres_server.password("provisioner_driver")
    )
    await driver.execute("CREATE ROLE silo_a LOGIN PASSWORD 'a'")
    await driver.execute("CREATE DATABASE silo_a")
    await driver.execute("REVOKE CONNECT ON DATABASE silo_a FROM PUBLIC; GRANT CONNECT ON DATABASE silo_a TO silo_a")
    for statement in (
        "ALTER ROLE tenant PASSWORD 'mine'",
        "GRANT tenant TO provisioner_driver",
        "GRANT pg_read_all_data TO silo_a",
        "CREATE ROLE boss SUPERUSER",
        "DROP DATABASE tenant",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await driver.execute(statement)
    await driver.close()

    assert await _connect(postgres_server, "silo_a", "silo_a", "a") == "silo_a"
    for database in (*SERVICES, "postgres", "template1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await _connect(postgres_server, "silo_a", database, "a")


@pytest.mark.parametrize("name", ["", "Tenant", "-b", 'a"b', "a'; DROP", "a b", "a\n", "postgres.x"])
def test_a_name_with_special_meaning_in_psql_is_refused(postgres_server, name):
    with pytest.raises(ValueError, match=r"is not a (database name|name of a password file)"):
        postgres_server.ensure_databases([name])
