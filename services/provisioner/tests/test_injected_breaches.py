"""Breaches that show neighbours' rows are found in PostgreSQL's own schemas and in extensions, too."""

import pytest
from paybill_contracts.cells import Guarantee
from paybill_contracts.placement import Isolation, Preset

LEAK = "RETURNS SETOF product.documents LANGUAGE sql {security} AS 'SELECT * FROM product.documents'"
INJECTED = [
    pytest.param(
        f"CREATE FUNCTION pg_catalog.leak() {LEAK.format(security='SECURITY DEFINER')}",
        "DROP FUNCTION pg_catalog.leak()",
        (Guarantee.FUNCTIONS, "pg_catalog.leak()", "a function that runs as its owner postgres"),
        id="function in pg_catalog",
    ),
    pytest.param(
        "ALTER FUNCTION pg_catalog.version() SECURITY DEFINER",
        "ALTER FUNCTION pg_catalog.version() SECURITY INVOKER",
        (Guarantee.FUNCTIONS, "pg_catalog.version()", "a function that runs as its owner postgres"),
        id="function of PostgreSQL that runs as its owner",
    ),
    pytest.param(
        "CREATE VIEW product.leak AS SELECT * FROM product.documents;"
        ' GRANT SELECT ON product.leak TO "{database}_members"; ALTER EXTENSION plpgsql ADD VIEW product.leak',
        "ALTER EXTENSION plpgsql DROP VIEW product.leak; DROP VIEW product.leak",
        (Guarantee.VIEWS, "product.leak", "a view of postgres"),
        id="view of an extension",
    ),
    pytest.param(
        f"CREATE FUNCTION product.leak() {LEAK.format(security='SECURITY DEFINER')};"
        " ALTER EXTENSION plpgsql ADD FUNCTION product.leak()",
        "ALTER EXTENSION plpgsql DROP FUNCTION product.leak(); DROP FUNCTION product.leak()",
        (Guarantee.FUNCTIONS, "product.leak()", "a function that runs as its owner postgres"),
        id="function of an extension",
    ),
    pytest.param(
        "CREATE OR REPLACE VIEW information_schema.information_schema_catalog_name AS"
        " SELECT (SELECT id FROM product.documents)::information_schema.sql_identifier AS catalog_name",
        "CREATE OR REPLACE VIEW information_schema.information_schema_catalog_name AS"
        " SELECT current_database()::information_schema.sql_identifier AS catalog_name",
        (Guarantee.VIEWS, "information_schema.information_schema_catalog_name", "a view of postgres"),
        id="view of PostgreSQL over our table",
    ),
    pytest.param(
        "GRANT SELECT ON pg_catalog.pg_statistic TO PUBLIC",
        "REVOKE SELECT ON pg_catalog.pg_statistic FROM PUBLIC",
        (Guarantee.PUBLIC, "pg_catalog.pg_statistic", "PUBLIC has SELECT"),
        id="table of PostgreSQL",
    ),
    pytest.param(
        'GRANT SELECT (rolpassword) ON pg_catalog.pg_authid TO "{database}_members"',
        'REVOKE SELECT (rolpassword) ON pg_catalog.pg_authid FROM "{database}_members"',
        (Guarantee.GRANTS, "pg_catalog.pg_authid.rolpassword", "{database}_members has SELECT"),
        id="column of PostgreSQL",
    ),
    pytest.param(
        "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM PUBLIC",
        (Guarantee.PUBLIC, "pg_catalog.pg_read_binary_file(text)", "PUBLIC has EXECUTE"),
        id="function of PostgreSQL",
    ),
    pytest.param(
        'GRANT CREATE ON SCHEMA pg_catalog TO "{role}"',
        'REVOKE CREATE ON SCHEMA pg_catalog FROM "{role}"',
        (Guarantee.GRANTS, "pg_catalog", "{role} has CREATE"),
        id="schema of PostgreSQL",
    ),
    pytest.param(
        'CREATE ROLE provisioner_driver_creator_zz LOGIN BYPASSRLS; GRANT "{database}_members" TO'
        " provisioner_driver_creator_zz",
        "DROP ROLE provisioner_driver_creator_zz",
        (Guarantee.LOGINS, "provisioner_driver_creator_zz", "it has BYPASSRLS, membership in {database}_members"),
        id="login with the name of a creator",
    ),
    pytest.param(
        'GRANT pg_read_server_files TO "{database}_members"',
        'REVOKE pg_read_server_files FROM "{database}_members"',
        (Guarantee.LOGINS, "{database}_members", "it has membership in pg_read_server_files"),
        id="membership of the group",
    ),
    pytest.param(
        "CREATE ROLE pool_other_members; GRANT pg_read_all_data TO pool_other_members;"
        ' GRANT pool_other_members TO "{role}"'
        " WITH INHERIT TRUE, SET FALSE",
        "DROP ROLE pool_other_members",
        (Guarantee.LOGINS, "pool_other_members", "it has membership in pg_read_all_data"),
        id="membership of another group",
    ),
    pytest.param(
        "CREATE TRIGGER leak BEFORE UPDATE ON product.documents FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DROP TRIGGER leak ON product.documents",
        (
            Guarantee.FUNCTIONS,
            "product.documents.leak",
            "a trigger that runs suppress_redundant_updates_trigger()",
        ),
        id="trigger",
    ),
    pytest.param(
        'GRANT CREATE ON SCHEMA product TO "{role}";'
        ' ALTER DEFAULT PRIVILEGES FOR ROLE "{role}" GRANT SELECT ON TABLES TO PUBLIC',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "{role}" REVOKE SELECT ON TABLES FROM PUBLIC;'
        ' REVOKE CREATE ON SCHEMA product FROM "{role}"',
        (Guarantee.PUBLIC, "default privileges of {role}", "PUBLIC has SELECT"),
        id="default privileges of a login that can create tables",
    ),
]
"""Statements of a superuser that make and remove the breach, and its guarantee, object and text."""


@pytest.mark.parametrize(("injected", "removed", "breach"), INJECTED)
async def test_a_injected_breach_is_found(harness, injected, removed, breach) -> None:
    environment = await harness.ready(Preset.POOLED)
    database = environment.connections[0].database
    names = {"database": database, "role": environment.connections[0].username}
    before = await harness.driver.breaches(Isolation.POOL, database, {})
    for statement in injected.format(**names).split("; "):
        await harness.as_superuser(database, statement)
    found = await harness.driver.breaches(Isolation.POOL, database, {})
    for statement in removed.format(**names).split("; "):
        await harness.as_superuser(database, statement)

    guarantee, place, text = breach
    assert before == []
    assert (guarantee, place.format(**names), text.format(**names)) in [
        (each.guarantee, each.object, each.found) for each in found
    ]


async def test_a_login_with_the_name_of_a_creator_creates_no_tenant(harness) -> None:
    names = ("provisioner_driver_creator_zz", "provisioner_driver_creator_99998")
    for name in names:
        await harness.as_superuser("postgres", f"CREATE ROLE {name} LOGIN")
    try:
        # A new driver reads which creator is the last one.
        driver = harness.new_driver()
        try:
            environment = await harness.build(harness.planned(Preset.POOLED), driver)
        finally:
            await driver.close()
    finally:
        for name in names:
            await harness.as_superuser("postgres", f"DROP ROLE {name}")

    assert await harness.can_write(environment)


@pytest.mark.parametrize(("preset", "level"), [(Preset.POOLED, Isolation.POOL), (Preset.BRIDGE, Isolation.BRIDGE)])
async def test_what_a_tenant_can_grant_of_its_own_does_not_close_its_cell(harness, preset, level) -> None:
    """Default privileges need no right, and a login that can create nothing shared gives nothing by them."""
    pair = await harness.tenant_pair(preset)
    async with harness.connect(pair.tenant) as connection:
        for statement in (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            f'ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO "{pair.neighbour_role}"',
            f'ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO "{pair.neighbour_role}" WITH GRANT OPTION',
        ):
            await connection.execute(statement)

    assert await harness.driver.breaches(level, pair.tenant.connections[0].database, {}) == []
