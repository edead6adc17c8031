"""Tables of bridges and silos of an earlier version are rebuilt with the tenant's column, on a real PostgreSQL."""

import asyncio
from typing import Any

import asyncpg
import pytest
from driver_harness import DRIVER
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import Column, Schema, Table
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.drivers import Site
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter
from table_samples import shape_of

ROWS = """
INSERT INTO documents SELECT 'd' || n, to_jsonb(repeat(md5(n::text), 40)) FROM generate_series(1, $1::int) AS n
"""
OWN = [Preset.BRIDGE, Preset.SILO]


def earlier(environment: Environment) -> tuple[Resource, Resource]:
    """Returns the schema as an earlier version recorded it, and as it is desired."""
    after = environment.resources["schema.main"]
    assert isinstance(after.attributes, Schema)
    attributes = after.attributes.model_copy(update={"tenant_column": False})
    return after.model_copy(update={"attributes": attributes}), after


async def built_earlier(harness: Any, preset: Preset) -> Environment:
    """Builds an environment, with the table and the privileges of an earlier version in place of those of this one."""
    environment = await harness.ready(preset)
    connection = environment.connections[0]
    name = f'"{connection.schema_name}".documents'
    for statement in (
        f"DROP TABLE {name}",
        f"CREATE TABLE {name} (id text, body jsonb, PRIMARY KEY (id))",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {connection.username}",
    ):
        await harness.as_driver(connection.database, statement)
    return environment


async def rebuild(harness: Any, environment: Environment) -> None:
    site = Site(environment, environment.resources, environment.outputs)
    await harness.driver.update(*earlier(environment), site)


@pytest.mark.parametrize("preset", OWN)
async def test_rows_and_privileges_survive_and_the_key_begins_with_the_tenant(harness, preset) -> None:
    fresh, environment = await harness.ready(preset), await built_earlier(harness, preset)
    async with harness.connect(environment) as connection:
        await connection.execute(
            "INSERT INTO documents SELECT 'd' || n, jsonb_build_object('n', n) FROM generate_series(1, 1000) AS n"
        )
        before = [tuple(row) for row in await connection.fetch("SELECT id, body FROM documents ORDER BY id")]
    await rebuild(harness, environment)
    await rebuild(harness, environment)

    async with harness.connect(environment) as connection:
        rows = [tuple(row) for row in await connection.fetch("SELECT id, body FROM documents ORDER BY id")]
        tenants = await connection.fetch("SELECT DISTINCT tenant_id FROM documents")
        assert rows == before
        assert [row[0] for row in tenants] == [environment.tenant_id]
        assert await shape_of(connection, environment) == (
            [(environment.tenant_id, "a", '{"n": 1}')],
            ["tenant_id", "id", "body"],
            "PRIMARY KEY (tenant_id, id)",
        )
    # Nothing but the names differs from a tenant that this version built.
    logins = [each.connections[0].username for each in (fresh, environment)]
    assert await catalogue_of(harness, environment) == [
        tuple(str(each).replace(logins[0], logins[1]) for each in row) for row in await catalogue_of(harness, fresh)
    ]
    await harness.driver.set_access(environment, Access.READ_ONLY)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await harness.can_write(environment)


async def catalogue_of(harness: Any, environment: Environment) -> list[tuple[str, ...]]:
    connection = environment.connections[0]
    rows = await harness.as_superuser(
        connection.database,
        "SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relacl, pg_get_userbyid(c.relowner), "
        "ARRAY(SELECT o.conname || ' ' || pg_get_constraintdef(o.oid) FROM pg_constraint AS o WHERE o.conrelid = c.oid "
        "ORDER BY 1), ARRAY(SELECT p.polname || pg_get_expr(p.polqual, p.polrelid) FROM pg_policy AS p "
        "WHERE p.polrelid = c.oid) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 ORDER BY c.relname",
        connection.schema_name,
    )
    return [tuple(map(str, row)) for row in rows]


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["CREATE INDEX extra ON {t} ((body->>'n'))"], "extra"),
        (["ALTER TABLE {t} ADD CONSTRAINT one UNIQUE (body)"], "one"),
        (["ALTER TABLE {t} ADD CHECK (id <> '')"], "documents_id_check"),
        (["ALTER TABLE {t} ALTER body SET NOT NULL"], "NOT NULL of column body"),
        (["ALTER TABLE {t} ALTER body SET DEFAULT '{{}}'"], "default value for column body"),
        (["ALTER TABLE {t} ADD extra integer"], "column extra integer"),
        (["ALTER TABLE {t} ADD extra integer GENERATED ALWAYS AS IDENTITY"], "column extra integer"),
        (["ALTER TABLE {t} ALTER body TYPE json"], "column body json"),
        (["CREATE VIEW {s}.shown AS SELECT id FROM {t}"], "shown"),
        (["CREATE MATERIALIZED VIEW {s}.shown AS SELECT id FROM {t}"], "shown"),
        (["CREATE RULE nothing AS ON DELETE TO {t} DO INSTEAD NOTHING"], "rule nothing"),
        (
            [
                "CREATE FUNCTION {s}.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
                "CREATE TRIGGER changed BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.f()",
            ],
            "trigger changed",
        ),
        (["CREATE TABLE {s}.other (id text REFERENCES {t})"], "other"),
        (
            [
                "CREATE TABLE {s}.other (id text PRIMARY KEY)",
                "ALTER TABLE {t} ADD FOREIGN KEY (id) REFERENCES {s}.other",
            ],
            "documents_id_fkey",
        ),
        (["CREATE TABLE {s}.child () INHERITS ({t})"], "child"),
        (["CREATE STATISTICS {s}.both ON id, body FROM {t}"], "both"),
        (["CREATE POLICY other ON {t} USING (true)"], "policy other"),
        (["CREATE PUBLICATION {p} FOR TABLE {t}"], "publication"),
        (["GRANT SELECT (id) ON {t} TO PUBLIC"], "grants on column id"),
    ],
)
async def test_a_table_with_what_paybill_did_not_make_is_left_as_it_is(harness, statements, named) -> None:
    environment = await built_earlier(harness, Preset.BRIDGE)
    connection = environment.connections[0]
    schema = f'"{connection.schema_name}"'
    names = {"s": schema, "t": f"{schema}.documents", "p": f'"{connection.schema_name}"'}
    for statement in statements:
        await harness.as_superuser(connection.database, statement.format(**names))
    before = await catalogue_of(harness, environment)
    inspected = await harness.driver.inspect_tables(earlier(environment)[0])

    assert any(named in each for each in inspected.obstacles), inspected.obstacles
    with pytest.raises(Refused, match="Paybill did not make"):
        await rebuild(harness, environment)
    assert await catalogue_of(harness, environment) == before
    await harness.as_superuser(connection.database, f"DROP PUBLICATION IF EXISTS {names['p']}")


async def test_the_inspection_measures_the_tables_and_finds_nothing_in_those_of_an_earlier_version(harness) -> None:
    environment = await built_earlier(harness, Preset.SILO)
    empty = await harness.driver.inspect_tables(earlier(environment)[0])
    async with harness.connect(environment) as connection:
        await connection.execute(ROWS, 2_000)
    filled = await harness.driver.inspect_tables(earlier(environment)[0])

    assert (empty.address, empty.obstacles, filled.obstacles) == ("schema.main", (), ())
    assert empty.size_bytes < 100_000 < filled.size_bytes


async def test_a_rebuild_waits_for_a_transaction_of_the_tenant_and_changes_nothing_meanwhile(harness) -> None:
    environment = await built_earlier(harness, Preset.BRIDGE)
    async with harness.connect(environment) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO documents VALUES ('a', '{}')")
        with pytest.raises(RetryAfter, match="lock"):
            await rebuild(harness, environment)
        await transaction.commit()
    await rebuild(harness, environment)

    async with harness.connect(environment) as connection:
        assert [row["id"] for row in await connection.fetch("SELECT id FROM documents")] == ["a"]


async def test_a_rebuild_that_is_cut_leaves_the_table_whole(harness) -> None:
    environment = await built_earlier(harness, Preset.SILO)
    database = environment.connections[0].database
    async with harness.connect(environment) as connection:
        await connection.execute(ROWS, 20_000)
    attempt = asyncio.create_task(rebuild(harness, environment))
    terminated = False
    while not terminated and not attempt.done():
        terminated = bool(
            await harness.as_superuser(
                "postgres",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = $2 "
                "AND state = 'active' AND query ~ 'INSERT INTO'",
                database,
                DRIVER,
            )
        )
    with pytest.raises(RetryAfter):
        await attempt
    cut = await harness.as_superuser(database, "SELECT count(*) FROM product.documents")
    await rebuild(harness, environment)

    assert terminated
    assert cut == [(20_000,)]
    assert await harness.as_superuser(
        database, "SELECT count(DISTINCT tenant_id), count(*) FROM product.documents"
    ) == [(1, 20_000)]


async def test_a_second_table_is_rebuilt_in_the_same_transaction(harness) -> None:
    harness.tables = (*harness.tables, Table(name="notes", columns=(Column(name="id", type="bigint"),)))
    environment = await built_earlier(harness, Preset.SILO)
    database, role = environment.connections[0].database, environment.connections[0].username
    for statement in (
        "DROP TABLE product.notes",
        "CREATE TABLE product.notes (id bigint PRIMARY KEY)",
        "INSERT INTO product.notes VALUES (1)",
        f"GRANT SELECT ON product.notes TO {role}",
        "CREATE VIEW product.shown AS SELECT id FROM product.notes",
    ):
        await harness.as_driver(database, statement)
    with pytest.raises(Refused):
        await rebuild(harness, environment)
    columns = (
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'product' AND column_name = 'tenant_id'"
    )
    none = await harness.as_superuser(database, columns)
    await harness.as_driver(database, "DROP VIEW product.shown")
    await rebuild(harness, environment)

    assert (none, await harness.as_superuser(database, columns)) == ([(0,)], [(2,)])
    async with harness.connect(environment) as connection:
        assert await connection.fetchval("SELECT id FROM notes") == 1
