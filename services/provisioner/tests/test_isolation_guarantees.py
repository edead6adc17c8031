"""Each isolation guarantee is necessary: a test removes it and observes the breach."""

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access


async def test_without_row_level_security_a_neighbours_rows_are_visible(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    await harness.as_driver(
        pair.tenant.connections[0].database, "ALTER TABLE product.documents DISABLE ROW LEVEL SECURITY"
    )

    async with harness.connect(pair.tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 2


async def test_forced_row_level_security_hides_rows_from_the_table_owner(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    database, query = pair.tenant.connections[0].database, "SELECT id FROM product.documents ORDER BY id"

    assert await harness.as_driver(database, query) == []
    await harness.as_driver(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
    assert await harness.as_driver(database, query) == [("mine",), ("theirs",)]


@pytest.mark.parametrize("group", ["members", "writers"])
async def test_groups_are_safe_because_set_role_is_denied(harness, group) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    database = pair.tenant.connections[0].database
    async with harness.connect(pair.tenant) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f'SET ROLE "{database}_{group}"')
        await harness.as_superuser(database, f'GRANT "{database}_{group}" TO "{pair.tenant_role}" WITH SET TRUE')
        await connection.execute(f'SET ROLE "{database}_{group}"')


@pytest.mark.parametrize(
    ("breach", "query"),
    [
        (
            (
                'GRANT USAGE ON SCHEMA "{neighbour_role}" TO "{tenant_role}";'
                ' GRANT SELECT ON "{neighbour_role}".documents TO "{tenant_role}"'
            ),
            "SELECT id FROM {table}",
        ),
        (
            'GRANT CREATE ON SCHEMA "{neighbour_role}" TO "{tenant_role}"',
            'CREATE TABLE "{neighbour_role}".forged (a int)',
        ),
    ],
)
async def test_a_missing_privilege_closes_a_neighbours_schema(harness, breach, query) -> None:
    pair = await harness.tenant_pair(Preset.BRIDGE)
    names = {"tenant_role": pair.tenant_role, "neighbour_role": pair.neighbour_role, "table": pair.table}
    async with harness.connect(pair.tenant) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(query.format(**names))
        for statement in breach.format(**names).split("; "):
            await harness.as_driver(pair.tenant.connections[0].database, statement)
        await connection.execute(query.format(**names))


async def test_revoked_connect_closes_a_neighbours_database(harness) -> None:
    pair = await harness.tenant_pair(Preset.SILO)
    database = pair.neighbour.connections[0].database
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with harness.connect(pair.tenant, database=database):
            pass
    await harness.as_driver("postgres", f'GRANT CONNECT ON DATABASE "{database}" TO PUBLIC')

    async with harness.connect(pair.tenant, database=database) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM product.documents")
    await harness.as_driver("postgres", f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC')


@pytest.mark.parametrize("preset", [Preset.BRIDGE, Preset.SILO])
async def test_opening_access_restores_a_missing_privilege(harness, preset) -> None:
    environment = await harness.ready(preset)
    endpoint = environment.connections[0]
    table = f'"{endpoint.schema_name}".documents'
    await harness.as_driver(endpoint.database, f'REVOKE INSERT ON {table} FROM "{endpoint.username}"')
    async with harness.connect(environment) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("INSERT INTO documents (id) VALUES ('a')")
        await harness.driver.set_access(environment, Access.OPEN)
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")
