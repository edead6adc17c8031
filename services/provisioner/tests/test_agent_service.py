"""Agents of a tenant in the running service: their login, rights by the bundle in force, access, purge and checks."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import asyncpg
import pytest
from paybill_contracts.agent_bundles import BundleActivated, TableRights
from paybill_contracts.agents import AgentRegistered
from paybill_contracts.placement import Preset
from paybill_provisioner.app import service
from paybill_runtime.replay.verify import replay
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets
from paybill_runtime.testing.waiting import until
from test_purge_service import left_of, publish_policy, purge_of

PRESETS = list(Preset)
NOW = datetime.now(UTC)
READS = TableRights(table="documents", select=("id", "body"))
KEYS = TableRights(table="documents", select=("id",))


def agent_of(tenant):
    return AgentRegistered(
        tenant_id=tenant.tenant,
        agent_id=f"agt_{uuid4().hex}",
        name="helper",
        role="support",
        key_id=uuid4().hex[:16],
        sha256="ab" * 32,
        registered_by="user:ann",
        registered_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )


def bundle(number, *rights):
    return BundleActivated(
        blueprint="test", bundle_hash=f"{number:064x}", rights=rights, activated_by="user:ann", activated_at=NOW
    )


@pytest.fixture
def connect(harness):
    """Returns a function that connects as the agents of a fact's connection, as the gateway does."""

    async def connected(agents):
        base = harness.directory.parent
        gateway = FileSecrets(base / "secrets", Identity.load(base / "identities", "agent-gateway"))
        endpoint = agents.connection
        return await asyncpg.connect(
            host=endpoint.host,
            port=endpoint.port,
            database=endpoint.database,
            user=endpoint.username,
            password=await gateway.get(endpoint.secret),
            server_settings={"search_path": endpoint.schema_name},
        )

    return connected


async def ready(publish, log, tenant, at_least=1):
    await publish(tenant.requested, tenant.entitled)
    found = await log.facts("provisioner.environment_ready", at_least=at_least)
    return next(fact.event for fact in reversed(found) if fact.event.tenant == tenant.tenant)


async def granted(log, tenant, hash_):
    async def recorded():
        found = await log.facts("provisioner.agent_rights_granted")
        return [each for each in found if each.event.tenant == tenant.tenant and each.event.bundle_hash == hash_]

    return await until(recorded)


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_first_agent_adds_the_login_in_place_and_it_has_the_rights_of_the_bundle_in_force(
    provisioner, harness, publish, log, about, connect, preset
) -> None:
    tenant, first, second = about(preset), bundle(1, READS), bundle(2, KEYS)
    await publish(first)
    before = await ready(publish, log, tenant)
    async with harness.connect(SimpleNamespace(connections=before.connections)) as connection:
        await connection.execute("INSERT INTO documents (id, body) VALUES ('a', '1')")
    agent = agent_of(tenant)
    await publish(agent, copies=2)
    await publish(agent_of(tenant))
    (changed,) = await log.facts("provisioner.environment_changed")
    await granted(log, tenant, first.bundle_hash)
    session = await connect(changed.event.agents)
    rows = await session.fetch("SELECT id, body FROM documents")
    await publish(second)
    await granted(log, tenant, second.bundle_hash)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await session.fetch("SELECT body FROM documents")
    keys = await session.fetch("SELECT id FROM documents")
    await publish(first.model_copy(update={"activated_at": NOW + timedelta(minutes=1)}))
    await log.facts("provisioner.agent_rights_granted", at_least=3)
    again = await session.fetch("SELECT body FROM documents")
    await session.close()
    facts = [fact.event for fact in await log.facts() if fact.event.tenant == tenant.tenant]

    assert before.agents is None
    agents = changed.event.agents
    assert (agents.blueprint, agents.preset, agents.epoch) == ("test", preset, 1)
    assert agents.connection.username == tenant.tenant.replace("ten_", "a_")
    assert changed.event.connections == before.connections
    assert [tuple(row) for row in rows] == [("a", "1")]
    assert [row["id"] for row in keys] == ["a"]
    assert len(again) == 1
    types = [each.TYPE.partition(".")[2] for each in facts]
    assert types.count("agent_login_requested") == 1
    assert "approval_requested" not in types
    assert types.count("environment_planned") == 2
    assert (await replay(service(), provisioner.running.settings, provisioner.running.database)).equal


async def test_an_environment_that_is_built_after_the_first_agent_has_the_login(
    provisioner, publish, log, about, connect
) -> None:
    tenant = about()
    await publish(bundle(1, KEYS), tenant.requested, agent_of(tenant))
    await log.facts("provisioner.agent_login_requested")
    event = await ready(publish, log, tenant)
    await granted(log, tenant, bundle(1).bundle_hash)
    session = await connect(event.agents)

    assert await session.fetch("SELECT id FROM documents") == []
    assert [each.address for each in event.connections] == ["role.main"]
    await session.close()


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_suspension_closes_the_agents_and_a_return_opens_them_in_another_epoch(
    provisioner, publish, log, about, connect, preset
) -> None:
    tenant = about(preset)
    await publish(bundle(1, KEYS), tenant.requested, agent_of(tenant))
    event = await ready(publish, log, tenant)
    await granted(log, tenant, bundle(1).bundle_hash)
    session = await connect(event.agents)
    await publish(tenant.blocked)
    await log.facts("provisioner.access_closed")
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError)):
        await session.fetch("SELECT id FROM documents")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await connect(event.agents)
    await publish(tenant.reactivated)
    await log.facts("provisioner.access_opened")
    await (await connect(event.agents)).close()
    await publish(tenant.leaves)
    await log.facts("provisioner.environment_retained")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await connect(event.agents)
    await publish(tenant.returns)
    back = (await log.facts("provisioner.environment_ready", at_least=2))[-1].event
    session = await connect(back.agents)

    assert (event.agents.epoch, back.agents.epoch) == (1, 2)
    assert await session.fetch("SELECT id FROM documents") == []
    await session.close()


async def test_rights_are_changed_for_every_tenant_of_a_pool_and_settled(provisioner, publish, log, about) -> None:
    tenants = [about() for _ in range(3)]
    await publish(bundle(1, READS), *(each.requested for each in tenants), *map(agent_of, tenants))
    await publish(*(each.entitled for each in tenants))
    await log.facts("provisioner.agent_rights_granted", at_least=3)
    await publish(bundle(2, KEYS))
    facts = await log.facts("provisioner.agent_rights_granted", at_least=6)
    (settled,) = await log.facts("provisioner.agent_rights_settled")

    assert {each.event.tenant for each in facts[3:]} == {each.tenant for each in tenants}
    assert settled.event.bundle_hash == bundle(2).bundle_hash


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_purge_leaves_nothing_of_the_agents_and_the_certificate_names_them(
    provisioner, harness, publish, log, about, connect, preset
) -> None:
    await publish_policy(provisioner, "unattended")
    tenant, neighbour = about(preset), about(preset)
    await publish(bundle(1, KEYS), tenant.requested, agent_of(tenant), neighbour.requested, agent_of(neighbour))
    sessions = []
    for number, each in enumerate((tenant, neighbour), 1):
        event = await ready(publish, log, each, number)
        await granted(log, each, bundle(1).bundle_hash)
        sessions.append(await connect(event.agents))
        await sessions[-1].execute(
            "INSERT INTO paybill_agent.actions (run, seq, digest, outcome) VALUES ('run_1', 1, 'd', 'done')"
        )
    database = event.agents.connection.database
    await publish(tenant.leaves)
    (retained,) = await log.facts("provisioner.environment_retained")
    await publish(purge_of(tenant))
    (purged,) = await log.facts("provisioner.environment_purged")
    left = await left_of(harness, tenant, [database])
    actions = await harness.as_superuser(database, "SELECT tenant FROM paybill_agent.actions")
    kept = await sessions[1].fetchval("SELECT run FROM paybill_agent.actions")
    for session in sessions:
        await session.close()

    assert retained.event.export.rows == 0
    absent = {each.address: each.how for each in purged.event.certificate.resources}
    assert {"role.agents", "secret.agents", "role.main", "schema.main"} <= absent.keys()
    if preset is not Preset.SILO:
        assert "none of its agents' actions" in absent["schema.main"]
    assert left == []
    assert tenant.tenant not in {name for (name,) in actions}
    assert kept == "run_1"
