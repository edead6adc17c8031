"""The walls are why isolation holds: each test takes one away and sees what it kept out come in."""

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access


async def test_without_row_level_security_the_neighbour_would_be_seen(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    await site.owner(there.mine.endpoint.database, "ALTER TABLE product.documents DISABLE ROW LEVEL SECURITY")

    async with site.enter(there.mine) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 2


async def test_only_because_it_is_forced_does_the_owner_of_the_tables_see_nothing(site) -> None:
    there = await site.neighbours(Preset.POOLED)
    database, query = there.mine.endpoint.database, "SELECT id FROM product.documents ORDER BY id"

    assert await site.owner(database, query) == []
    await site.owner(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
    assert await site.owner(database, query) == [("mine",), ("theirs",)]


@pytest.mark.parametrize("group", ["members", "writers"])
async def test_only_because_they_cannot_be_switched_to_do_groups_hold_no_rows_in_common(site, group) -> None:
    there = await site.neighbours(Preset.POOLED)
    database = there.mine.endpoint.database
    async with site.enter(there.mine) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f'SET ROLE "{database}_{group}"')
        await site.owner(database, f'GRANT "{database}_{group}" TO "{there.me}" WITH SET TRUE')
        await connection.execute(f'SET ROLE "{database}_{group}"')


@pytest.mark.parametrize(
    ("breach", "query"),
    [
        (
            'GRANT USAGE ON SCHEMA "{them}" TO "{me}"; GRANT SELECT ON "{them}".documents TO "{me}"',
            "SELECT id FROM {table}",
        ),
        ('GRANT CREATE ON SCHEMA "{them}" TO "{me}"', 'CREATE TABLE "{them}".planted (a int)'),
    ],
)
async def test_only_because_of_the_missing_right_is_a_neighbours_schema_closed(site, breach, query) -> None:
    there = await site.neighbours(Preset.BRIDGE)
    names = {"me": there.me, "them": there.them, "table": there.table}
    async with site.enter(there.mine) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(query.format(**names))
        for statement in breach.format(**names).split("; "):
            await site.owner(there.mine.endpoint.database, statement)
        await connection.execute(query.format(**names))


async def test_only_because_connect_is_revoked_is_a_neighbours_database_closed(site) -> None:
    there = await site.neighbours(Preset.SILO)
    database = there.other.endpoint.database
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with site.enter(there.mine, database=database):
            pass
    await site.owner("postgres", f'GRANT CONNECT ON DATABASE "{database}" TO PUBLIC')

    async with site.enter(there.mine, database=database) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM product.documents")


@pytest.mark.parametrize("preset", [Preset.BRIDGE, Preset.SILO])
async def test_a_missing_right_is_noticed_by_the_tenant_and_given_back_by_opening_again(site, preset) -> None:
    environment = await site.ready(preset)
    endpoint = environment.endpoint
    table = f'"{endpoint.schema_name}".documents'
    await site.owner(endpoint.database, f'REVOKE INSERT ON {table} FROM "{endpoint.username}"')
    async with site.enter(environment) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("INSERT INTO documents (id) VALUES ('a')")
        await site.driver.set_access(environment, Access.OPEN)
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")
