"""Every guarantee of isolation is removed once on a live server, and the scheduled check reports it in one period."""

from contextlib import suppress

import asyncpg
import pytest
from blueprint_samples import blueprint_of, cells_of, tier_blueprint
from paybill_contracts.cells import Breach, Guarantee
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.app import service
from paybill_provisioner.domain.isolation import MAX_BREACHES, checked
from paybill_provisioner.domain.planning import MAKE_ROOM
from paybill_provisioner.drivers import Site
from paybill_provisioner.execution import StepError

EVERY_S = 0.3

BREACHES = [
    (
        Guarantee.ROW_LEVEL_SECURITY,
        "product.documents",
        "enabled and not forced",
        "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE product.documents FORCE ROW LEVEL SECURITY",
    ),
    (
        Guarantee.ROW_LEVEL_SECURITY,
        "product.documents",
        "row-level security is disabled",
        "ALTER TABLE product.documents DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE product.documents ENABLE ROW LEVEL SECURITY",
    ),
    (
        Guarantee.POLICY,
        "product.documents",
        "everything USING true",
        "CREATE POLICY everything ON product.documents USING (true)",
        "DROP POLICY everything ON product.documents",
    ),
    (
        Guarantee.POLICY,
        "product.documents",
        (
            "own_rows USING true WITH CHECK (tenant_id = (('ten_'::text || substr((CURRENT_USER)::text, 3, 32)) "
            "COLLATE \"default\")); expected is only own_rows USING and WITH CHECK (tenant_id = (('ten_'::text || "
            'substr((CURRENT_USER)::text, 3, 32)) COLLATE "default"))'
        ),
        "ALTER POLICY own_rows ON product.documents USING (true)",
        (
            "ALTER POLICY own_rows ON product.documents USING"
            " (tenant_id = (('ten_' || substr(CURRENT_USER::text, 3, 32)) COLLATE \"default\"))"
        ),
    ),
    (
        Guarantee.GRANTS,
        "product.documents",
        "{database}_members has TRUNCATE",
        'GRANT TRUNCATE ON product.documents TO "{database}_members"',
        'REVOKE TRUNCATE ON product.documents FROM "{database}_members"',
    ),
    (
        Guarantee.VIEWS,
        "product.everything",
        "a view of postgres",
        (
            "CREATE VIEW product.everything AS SELECT * FROM product.documents;"
            ' GRANT SELECT ON product.everything TO "{database}_members"'
        ),
        "DROP VIEW product.everything",
    ),
    (
        Guarantee.FUNCTIONS,
        "product.everything()",
        "a function that runs as its owner postgres",
        (
            "CREATE FUNCTION product.everything() RETURNS SETOF product.documents LANGUAGE sql SECURITY DEFINER"
            " AS 'SELECT * FROM product.documents'"
        ),
        "DROP FUNCTION product.everything()",
    ),
    (
        Guarantee.PUBLICATIONS,
        "everything",
        "a publication of postgres",
        "CREATE PUBLICATION everything FOR TABLE product.documents",
        "DROP PUBLICATION everything",
    ),
    (
        Guarantee.LOGINS,
        "{role}",
        "BYPASSRLS",
        'ALTER ROLE "{role}" BYPASSRLS',
        'ALTER ROLE "{role}" NOBYPASSRLS',
    ),
    (
        Guarantee.LOGINS,
        "{role}",
        "SUPERUSER",
        'ALTER ROLE "{role}" SUPERUSER',
        'ALTER ROLE "{role}" NOSUPERUSER',
    ),
    (
        Guarantee.LOGINS,
        "{role}",
        "membership in pg_read_all_data",
        'GRANT pg_read_all_data TO "{role}"',
        'REVOKE pg_read_all_data FROM "{role}"',
    ),
    (
        Guarantee.PUBLIC,
        "{database}",
        "PUBLIC has CONNECT",
        'GRANT CONNECT ON DATABASE "{database}" TO PUBLIC',
        'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC',
    ),
    (
        Guarantee.PUBLIC,
        "product.documents",
        "PUBLIC has SELECT",
        "GRANT SELECT ON product.documents TO PUBLIC",
        "REVOKE SELECT ON product.documents FROM PUBLIC",
    ),
    (
        Guarantee.PUBLIC,
        "product",
        "PUBLIC has CREATE",
        "GRANT CREATE ON SCHEMA product TO PUBLIC",
        "REVOKE CREATE ON SCHEMA product FROM PUBLIC",
    ),
]
"""Guarantee, object, part of what is found, and the statements of a superuser that remove and restore it."""


@pytest.fixture
async def checking(start, settings):
    """Returns a service whose period is short."""
    return await start(service(), **{**settings, "isolation_every_s": EVERY_S, "isolation_trusted_s": 60})


async def pool_cell(served):
    cells = (await served.client.get("/v1/cells")).json()["cells"]
    return next(each for each in cells if each["isolation"] == "pool")


@pytest.mark.parametrize(("guarantee", "place", "found", "breach", "repair"), BREACHES)
async def test_a_removed_guarantee_closes_the_pool_until_it_is_restored(
    checking, harness, publish, log, about, guarantee, place, found, breach, repair
) -> None:
    first, second = about(), about()
    await publish(first.requested, first.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    names = {"database": ready.event.connections[0].database, "role": ready.event.connections[0].username}
    for statement in breach.format(**names).split("; "):
        await harness.as_superuser(names["database"], statement)
    (fact,) = await log.facts("provisioner.isolation_breached")
    await publish(second.requested, second.entitled)
    (refused,) = await log.facts("provisioner.plan_refused")
    cell = await pool_cell(checking)
    incidents = (await checking.client.get("/v1/incidents")).json()["incidents"]
    why = (await checking.client.get(f"/v1/why/{first.tenant}")).json()
    await harness.as_superuser(names["database"], repair.format(**names))
    await log.facts("provisioner.isolation_restored")
    # The tenant that was refused is planned by itself.
    await log.facts("provisioner.environment_ready", at_least=2)

    assert [(each.guarantee, each.object) for each in fact.event.breaches] == [(guarantee, place.format(**names))]
    assert found.format(**names) in fact.event.breaches[0].found
    assert (refused.event.code, refused.event.next_step) == ("region_full", MAKE_ROOM)
    assert "not isolated" in refused.event.reason
    assert (cell["free"], [each["guarantee"] for each in cell["breaches"]]) == (0, [guarantee])
    assert [each["kind"] for each in incidents] == ["isolation_breach"]
    assert cell["id"] in incidents[0]["summary"]
    assert f"{guarantee} at" in why["environment"]["breach"]
    assert (await pool_cell(checking))["breaches"] == []
    assert (await checking.client.get("/v1/incidents")).json()["incidents"] == []


async def test_a_breach_is_published_once_and_again_only_when_it_differs(
    checking, harness, publish, log, about
) -> None:
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    database = ready.event.connections[0].database
    await harness.as_superuser(database, "CREATE VIEW product.a AS SELECT * FROM product.documents")
    await log.facts("provisioner.isolation_breached")
    await harness.as_superuser(database, "CREATE VIEW product.b AS SELECT * FROM product.documents")
    await log.facts("provisioner.isolation_breached", at_least=2)
    # The checks of further periods change nothing.
    await harness.as_superuser(database, "DROP VIEW product.a, product.b")
    await log.facts("provisioner.isolation_restored")
    facts = await log.facts("provisioner.isolation_breached", "provisioner.isolation_restored", at_least=3)

    assert [[each.object for each in getattr(fact.event, "breaches", ())] for fact in facts] == [
        ["product.a"],
        ["product.a", "product.b"],
        [],
    ]


@pytest.mark.parametrize("preset", [Preset.POOLED, Preset.BRIDGE])
async def test_what_the_driver_builds_has_no_breach(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    level = Isolation.POOL if preset is Preset.POOLED else Isolation.BRIDGE

    assert await harness.driver.breaches(level, pair.tenant.connections[0].database, {}) == []
    assert await harness.driver.breaches(level, "pool_that_does_not_exist", {}) == []


@pytest.mark.parametrize(
    ("breach", "repair", "found"),
    [
        (
            'GRANT SELECT ON "{neighbour_role}".documents TO "{tenant_role}"',
            'REVOKE SELECT ON "{neighbour_role}".documents FROM "{tenant_role}"',
            (Guarantee.GRANTS, "{neighbour_role}.documents", "{tenant_role} has SELECT"),
        ),
        (
            'GRANT SELECT (body) ON "{neighbour_role}".documents TO PUBLIC',
            'REVOKE SELECT (body) ON "{neighbour_role}".documents FROM PUBLIC',
            (Guarantee.PUBLIC, "{neighbour_role}.documents.body", "PUBLIC has SELECT"),
        ),
        (
            'ALTER TABLE "{neighbour_role}".documents OWNER TO "{tenant_role}"',
            'ALTER TABLE "{neighbour_role}".documents OWNER TO provisioner_driver',
            (Guarantee.GRANTS, "{neighbour_role}.documents", "it is owned by {tenant_role}"),
        ),
        (
            'ALTER DEFAULT PRIVILEGES FOR ROLE provisioner_driver GRANT SELECT ON TABLES TO "{tenant_role}"',
            'ALTER DEFAULT PRIVILEGES FOR ROLE provisioner_driver REVOKE SELECT ON TABLES FROM "{tenant_role}"',
            (Guarantee.GRANTS, "default privileges of provisioner_driver", "{tenant_role} has SELECT"),
        ),
    ],
)
async def test_a_breach_of_a_bridge_is_found(harness, breach, repair, found) -> None:
    pair = await harness.tenant_pair(Preset.BRIDGE)
    names, database = {**pair.names, "neighbour_role": pair.neighbour_role}, pair.tenant.connections[0].database
    await harness.as_superuser(database, breach.format(**names))
    breaches = await harness.driver.breaches(Isolation.BRIDGE, database, {})
    await harness.as_superuser(database, repair.format(**names))

    guarantee, place, text = found
    assert (guarantee, place.format(**names), text.format(**names)) in [
        (each.guarantee, each.object, each.found) for each in breaches
    ]


async def test_a_view_of_a_superuser_and_a_login_with_bypassrls_show_neighbours_rows(harness) -> None:
    """Fault 11: both are breaches, and building again removes BYPASSRLS."""
    pair = await harness.tenant_pair(Preset.POOLED)
    database = pair.tenant.connections[0].database
    await harness.as_superuser(database, "CREATE VIEW product.everything AS SELECT id FROM product.documents")
    await harness.as_superuser(database, f'GRANT SELECT ON product.everything TO "{database}_members"')
    await harness.as_superuser(database, f'ALTER ROLE "{pair.tenant_role}" BYPASSRLS')
    async with harness.connect(pair.tenant) as connection:
        through_view = await connection.fetchval("SELECT count(*) FROM product.everything")
        through_attribute = await connection.fetchval("SELECT count(*) FROM product.documents")
    found = await harness.driver.breaches(Isolation.POOL, database, {})
    await harness.build(harness.planned(Preset.POOLED, pair.tenant.tenant_id.removeprefix("ten_")))
    again = await harness.driver.breaches(Isolation.POOL, database, {})
    async with harness.connect(pair.tenant) as connection:
        after = [tuple(row) for row in await connection.fetch("SELECT id FROM product.documents")]

    assert (through_view, through_attribute) == (2, 2)
    assert {(each.guarantee, each.object) for each in found} == {
        (Guarantee.VIEWS, "product.everything"),
        (Guarantee.LOGINS, pair.tenant_role),
    }
    assert [each.guarantee for each in again] == [Guarantee.VIEWS]
    assert after == [("mine",)]


async def test_a_login_that_keeps_a_session_open_loses_its_bypassrls_when_it_is_built_again(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    await harness.as_superuser("postgres", f'ALTER ROLE "{pair.tenant_role}" BYPASSRLS')
    async with harness.connect(pair.tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 2
        await harness.build(harness.planned(Preset.POOLED, pair.tenant.tenant_id.removeprefix("ten_")))

        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
            await connection.fetchval("SELECT count(*) FROM documents")


async def test_a_superuser_is_not_built_again(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    role = environment.connections[0].username
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" SUPERUSER')
    try:
        found = await harness.driver.breaches(Isolation.POOL, environment.connections[0].database, {})
        with pytest.raises(StepError, match=f"ALTER ROLE {role} NOSUPERUSER"):
            await harness.build(harness.planned(Preset.POOLED, environment.tenant_id.removeprefix("ten_")))
    finally:
        await harness.as_superuser("postgres", f'ALTER ROLE "{role}" NOSUPERUSER')

    assert [(each.guarantee, each.found) for each in found] == [(Guarantee.LOGINS, "it has SUPERUSER")]


async def test_a_right_that_bypasses_forced_row_level_security_is_reported(harness) -> None:
    """OWASP/CheatSheetSeries#2309: FORCE does not bind superusers, BYPASSRLS, or functions and views of such owners."""
    pair = await harness.tenant_pair(Preset.POOLED)
    database = pair.tenant.connections[0].database
    (forced,) = await harness.as_superuser(
        database, "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'product.documents'::regclass"
    )
    await harness.as_superuser(
        database,
        "CREATE FUNCTION product.all_ids() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER"
        " AS 'SELECT id FROM product.documents'",
    )
    async with harness.connect(pair.tenant) as connection:
        visible = {row[0] for row in await connection.fetch("SELECT product.all_ids()")}
    found = await harness.driver.breaches(Isolation.POOL, database, {})

    assert (forced, visible) == ((True,), {"mine", "theirs"})
    assert Guarantee.FUNCTIONS in {each.guarantee for each in found}


async def test_a_checked_pool_is_trusted_for_a_period_which_the_scheduled_check_ends(harness) -> None:
    first = await harness.ready(Preset.POOLED)
    database = first.connections[0].database
    trusting = harness.new_driver(trusted_s=3600)
    try:
        await harness.build(harness.planned(Preset.POOLED), trusting)
        await harness.as_driver(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
        # Within the period a new tenant is built without another check.
        await harness.build(harness.planned(Preset.POOLED), trusting)
        found = await trusting.breaches(Isolation.POOL, database, {})
        with pytest.raises(StepError, match="not isolated in documents"):
            await harness.build(harness.planned(Preset.POOLED), trusting)
    finally:
        await trusting.close()

    assert [each.guarantee for each in found] == [Guarantee.ROW_LEVEL_SECURITY]


async def test_a_trusted_pool_costs_no_query(harness) -> None:
    trusting = harness.new_driver(trusted_s=3600)
    try:
        environment = await harness.build(harness.planned(Preset.POOLED), trusting)
        site = Site(environment, environment.resources, environment.outputs)
        statement = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
        await harness.as_superuser("postgres", "SELECT pg_stat_force_next_flush()")
        before = await harness.as_superuser("postgres", statement, environment.connections[0].database)
        for _ in range(20):
            for address in ("database.main", "schema.main"):
                await trusting.create(environment.resources[address], site, "")
        with suppress(asyncpg.PostgresError):
            await harness.as_superuser("postgres", "SELECT pg_stat_force_next_flush()")
        after = await harness.as_superuser("postgres", statement, environment.connections[0].database)
    finally:
        await trusting.close()

    assert after == before


def breach(number: int) -> Breach:
    return Breach(guarantee=Guarantee.VIEWS, object=f"product.v{number:03}", found="a view")


def test_a_fact_lists_so_many_breaches_that_it_fits() -> None:
    cells = cells_of(blueprint_of(tier_blueprint("any", Preset.POOLED)))[Isolation.POOL]
    found = [breach(number) for number in range(MAX_BREACHES + 5)]
    (event,) = checked(cells, Isolation.POOL, "eu-central", 1, found)

    assert (len(event.breaches), event.others) == (MAX_BREACHES, 5)
    assert checked(cells, Isolation.POOL, "eu-central", 1, []) == []
