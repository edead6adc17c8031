"""The scheduled check finds every breach of agents' logins, their rights and their table, in every placement."""

from types import SimpleNamespace

import pytest
from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.cells import Guarantee
from paybill_contracts.incidents import IncidentStatus
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.app import service
from paybill_provisioner.drivers.namespaces import agents_group
from paybill_runtime.testing.waiting import until
from test_agent_service import KEYS, agent_of, bundle, granted, ready

RIGHTS = {"standard": (TableRights(table="documents", select=("id",), update=("body",), delete=True),)}
LEVELS = {Preset.POOLED: Isolation.POOL, Preset.BRIDGE: Isolation.BRIDGE, Preset.SILO: Isolation.SILO}
EVERYWHERE = [
    pytest.param(
        "ALTER TABLE paybill_agent.actions DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE paybill_agent.actions ENABLE ROW LEVEL SECURITY",
        (Guarantee.ROW_LEVEL_SECURITY, "paybill_agent.actions"),
        id="row-level security",
    ),
    pytest.param(
        "ALTER TABLE paybill_agent.actions NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE paybill_agent.actions FORCE ROW LEVEL SECURITY",
        (Guarantee.ROW_LEVEL_SECURITY, "paybill_agent.actions"),
        id="forced row-level security",
    ),
    pytest.param(
        "ALTER POLICY own_rows ON paybill_agent.actions RENAME TO other",
        "ALTER POLICY other ON paybill_agent.actions RENAME TO own_rows",
        (Guarantee.POLICY, "paybill_agent.actions"),
        id="policy",
    ),
    pytest.param(
        "CREATE POLICY more ON paybill_agent.actions USING (true)",
        "DROP POLICY more ON paybill_agent.actions",
        (Guarantee.POLICY, "paybill_agent.actions"),
        id="second policy",
    ),
    pytest.param(
        'GRANT SELECT (body) ON "{schema}".documents TO "{grantee}"',
        'REVOKE SELECT (body) ON "{schema}".documents FROM "{grantee}"',
        (Guarantee.GRANTS, "{schema}.documents.body"),
        id="column",
    ),
    pytest.param(
        'GRANT SELECT ON "{schema}".documents TO "{grantee}"',
        'REVOKE SELECT ON "{schema}".documents FROM "{grantee}"',
        (Guarantee.GRANTS, "{schema}.documents"),
        id="table",
    ),
    pytest.param(
        'GRANT UPDATE ON paybill_agent.actions TO "{holder}"',
        'REVOKE UPDATE ON paybill_agent.actions FROM "{holder}"',
        (Guarantee.GRANTS, "paybill_agent.actions"),
        id="actions",
    ),
    pytest.param(
        'GRANT USAGE ON SCHEMA paybill_agent TO "{tenant}"',
        'REVOKE USAGE ON SCHEMA paybill_agent FROM "{tenant}"',
        (Guarantee.GRANTS, "paybill_agent"),
        id="actions of the tenant",
    ),
    pytest.param(
        'ALTER ROLE "{agents}" BYPASSRLS',
        'ALTER ROLE "{agents}" NOBYPASSRLS',
        (Guarantee.LOGINS, "{agents}"),
        id="attribute",
    ),
    pytest.param(
        'GRANT "{tenant}" TO "{agents}" WITH INHERIT FALSE, SET TRUE',
        'REVOKE "{tenant}" FROM "{agents}"',
        (Guarantee.LOGINS, "{agents}"),
        id="role that it can switch to",
    ),
]
SHARED = [
    pytest.param(
        'GRANT "{group}" TO "{agents}" WITH SET TRUE', 'GRANT "{group}" TO "{agents}" WITH SET FALSE', "{agents}"
    ),
    pytest.param('GRANT "{database}_members" TO "{agents}" WITH SET FALSE', None, "{agents}"),
    pytest.param('GRANT "{database}_erasers" TO "{agents}" WITH SET FALSE', None, "{agents}"),
    pytest.param('GRANT "{group}" TO "{tenant}" WITH SET FALSE', None, "{tenant}"),
]


def names_of(environment, preset):
    connection = environment.connections[0]
    agents, group = connection.username.replace("t_", "a_"), agents_group(connection.database, "standard")
    return {
        "database": connection.database,
        "schema": connection.schema_name,
        "tenant": connection.username,
        "agents": agents,
        "group": group,
        "grantee": group if preset is Preset.POOLED else agents,
        "holder": agents if preset is Preset.SILO else group,
    }


async def found_of(harness, preset, names, rights=RIGHTS):
    breaches = await harness.driver.breaches(LEVELS[preset], names["database"], rights)
    return {(each.guarantee, each.object) for each in breaches}


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize(("injected", "removed", "breach"), EVERYWHERE)
async def test_a_breach_is_found_in_every_placement(harness, preset, injected, removed, breach) -> None:
    environment = await harness.ready(preset, agents=True)
    await harness.driver.grant_agent_rights(environment, RIGHTS["standard"])
    names = names_of(environment, preset)
    before = await found_of(harness, preset, names)
    await harness.as_superuser(names["database"], injected.format(**names))
    found = await found_of(harness, preset, names)
    await harness.as_superuser(names["database"], removed.format(**names))

    assert before == set()
    assert found == {(breach[0], breach[1].format(**names))}
    if "REVOKE SELECT ON" not in removed:  # which revokes the columns, too
        assert await found_of(harness, preset, names) == set()


@pytest.mark.parametrize("preset", [Preset.POOLED, Preset.BRIDGE])
@pytest.mark.parametrize(("injected", "removed", "login"), SHARED)
async def test_a_membership_that_is_not_ours_is_found(harness, preset, injected, removed, login) -> None:
    environment = await harness.ready(preset, agents=True)
    names = names_of(environment, preset)
    await harness.as_superuser(names["database"], injected.format(**names))
    found = await found_of(harness, preset, names)
    undo = removed or injected.partition(" WITH ")[0].replace("GRANT", "REVOKE").replace(" TO ", " FROM ")
    await harness.as_superuser(names["database"], undo.format(**names))

    assert found == {(Guarantee.LOGINS, login.format(**names))}


@pytest.mark.parametrize("preset", list(Preset))
async def test_rights_of_no_bundle_are_a_breach(harness, preset) -> None:
    environment = await harness.ready(preset, agents=True)
    await harness.driver.grant_agent_rights(environment, RIGHTS["standard"])
    names = names_of(environment, preset)
    table = f"{names['schema']}.documents"

    assert await found_of(harness, preset, names) == set()
    assert await found_of(harness, preset, names, {"standard": ()}) == {
        (Guarantee.GRANTS, each) for each in (f"{table}.id", f"{table}.body", table)
    }


@pytest.fixture
async def checking(start, settings):
    """Returns a service whose period is short."""
    return await start(service(), **{**settings, "isolation_every_s": 0.3, "isolation_trusted_s": 60})


async def test_a_silo_with_a_breach_is_an_incident_until_it_is_gone(checking, harness, publish, log, about) -> None:
    tenant = about(Preset.SILO)
    await publish(bundle(1, KEYS), tenant.requested, agent_of(tenant))
    event = await ready(publish, log, tenant)
    await granted(log, tenant, bundle(1).bundle_hash)
    names = names_of(SimpleNamespace(connections=event.connections), Preset.SILO)

    async def incident(status):
        found = (await checking.client.get("/v1/incidents", params={"kind": "isolation_breach"})).json()["incidents"]
        mine = [each for each in found if each["tenant_id"] == tenant.tenant and each["status"] == status]
        return mine[0] if mine else None

    grant = 'GRANT SELECT (body) ON product.documents TO "{agents}"'
    await harness.as_superuser(names["database"], grant.format(**names))
    opened = await until(lambda: incident(IncidentStatus.OPEN))
    await harness.as_superuser(
        names["database"], grant.replace("GRANT", "REVOKE").replace("TO", "FROM").format(**names)
    )
    await log.facts("provisioner.incident_closed")

    assert "product.documents.body" in opened["summary"]


async def test_a_breach_of_agents_closes_a_pool_and_a_change_of_bundles_is_none(
    checking, harness, publish, log, about
) -> None:
    tenant = about()
    await publish(bundle(1, KEYS), tenant.requested, agent_of(tenant))
    event = await ready(publish, log, tenant)
    await granted(log, tenant, bundle(1).bundle_hash)
    database = event.connections[0].database
    for number in range(2, 6):
        other = TableRights(table="documents", select=("id", "body") if number % 2 else ("id",))
        await publish(bundle(number, other))
        await granted(log, tenant, bundle(number).bundle_hash)
    group = agents_group(database, "test")
    await harness.as_superuser(database, f'GRANT DELETE ON product.documents TO "{group}"')
    (fact,) = await log.facts("provisioner.isolation_breached")
    await publish(bundle(6, KEYS))
    await log.facts("provisioner.isolation_restored")

    assert [(each.guarantee, each.object) for each in fact.event.breaches] == [(Guarantee.GRANTS, "product.documents")]
    assert group in fact.event.breaches[0].found
