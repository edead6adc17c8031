"""Tests of the peers of `paybill bench saga`: they do a saga's work, and lose nothing when they are killed."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from paybill_bench.activations import Webhook, WebhookClient, activate_all, facts_from_now
from paybill_bench.deadlines import StallDetector
from paybill_bench.load_generator import signed
from paybill_bench.peers.saga_work import GROUPS, RESOURCES, TenantResources
from paybill_bench.provider import SUBSCRIPTION, TENANT, Recorded
from paybill_bench.saga_peers import BARE, DBOS, PeerEnvironment, drop_roles, new_tenants, started_peer
from paybill_bench.servers import BenchmarkError, BenchServers, accepts_connections, child
from paybill_embedded.ports import free_port


def _names(resource_facts: int) -> list[str]:
    return [
        "subscription_activated",
        "entitlements_set",
        "environment_planned",
        "provisioning_started",
        *["resource_built"] * resource_facts,
        "environment_ready",
        "tenant_activated",
    ]


FACTS = {False: _names(1), True: _names(len(RESOURCES))}
"""Facts of a tenant, without and with a password that is made at once."""
SECRET = "whsec_test"


@pytest.fixture(params=[False, True], ids=["on_demand", "at_once"])
async def environment(request, postgres, tmp_path: Path) -> AsyncIterator[PeerEnvironment]:
    """Starts the provider of the peers."""
    subscription = {
        "id": SUBSCRIPTION,
        "customer": TENANT,
        "status": "active",
        "created": 1,
        "items": {"data": [{"price": {"lookup_key": "starter"}}]},
    }
    recorded, secrets, log, port = tmp_path / "recorded", tmp_path / "secrets", tmp_path / "child.log", free_port()
    recorded.write_text(
        json.dumps(
            {"customer": "", "session": "", "prices": {}, "subscriptions": {"starter": json.dumps(subscription)}}
        )
    )
    assert Recorded(**json.loads(recorded.read_text())).respond("GET", "/v1/subscriptions/sub_starter_1", "")
    secrets.write_text(SECRET)
    servers = BenchServers(tmp_path, postgres)
    with child("paybill_bench.provider", str(recorded), str(port), log=log) as process:
        await accepts_connections(process, port, log)
        yield PeerEnvironment(servers, port, secrets, request.param)
    await drop_roles(servers)


def _webhooks(amount: int) -> list[Webhook]:
    return [Webhook(tenant, _body(tenant)) for tenant in new_tenants(amount)]


def _body(tenant: str) -> str:
    digits = tenant.removeprefix("ten_")
    session = {"client_reference_id": tenant, "subscription": f"sub_starter_{digits}"}
    return json.dumps({"id": f"evt_{digits}", "data": {"object": session}})


async def _facts(consumer, amount: int) -> dict[str, list[str]]:
    """Returns the names of each tenant's facts, in the order of the log."""
    found: dict[str, list[str]] = {}
    progress = StallDetector(limit_s=30)
    while (count := sum(map(len, found.values()))) < amount:
        for message in await consumer.fetch(1):
            found.setdefault(message.headers["pb-tenant"], []).append(message.subject.split(".")[4])
        assert not progress.stalled(count), f"{count} of {amount} facts arrived"
    return found


@pytest.mark.parametrize("module", [BARE, DBOS])
async def test_a_peer_does_the_whole_work_of_a_saga_once_for_each_event(environment, module: str) -> None:
    servers, webhooks, expected = environment.servers, _webhooks(5), FACTS[environment.credentials_at_once]
    async with servers.bus() as bus, facts_from_now(bus, "*.*") as consumer:
        settings = await environment.settings(bus)
        async with started_peer(servers, module, settings) as endpoint:
            await activate_all(bus, endpoint, [*webhooks, webhooks[0]])
            facts = await _facts(consumer, len(webhooks) * len(expected))
            assert await consumer.pending() == 0
    tenant = webhooks[0].tenant
    role = f"bench_{tenant.removeprefix('ten_')}"
    memberships = await _memberships(servers, role)
    folder = Path(settings.directory)

    assert facts == {webhook.tenant: expected for webhook in webhooks}
    assert memberships == sorted(GROUPS)
    assert folder.joinpath("tenants", tenant).stat().st_mode & 0o777 == 0o700
    if not environment.credentials_at_once:
        assert not list(folder.joinpath("secrets").iterdir())
        assert await _password(servers, role) is None
        return
    async with TenantResources.opened(settings) as resources:
        password = resources.password(tenant)
    assert folder.joinpath("secrets", tenant).stat().st_mode & 0o777 == 0o600
    assert password.encode() not in folder.joinpath("secrets", tenant).read_bytes()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):  # the password is right; the database is not the tenant's
        await asyncpg.connect(servers.postgres.url(role, "postgres"), password=password)


async def _memberships(servers: BenchServers, role: str) -> list[str]:
    query = "SELECT roleid::regrole::text AS name FROM pg_auth_members WHERE member = $1::regrole ORDER BY 1"
    return [row["name"].strip('"') for row in await _fetch(servers, query, role)]


async def _password(servers: BenchServers, role: str) -> str | None:
    [row] = await _fetch(servers, "SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
    return row["rolpassword"]


async def _fetch(servers: BenchServers, query: str, role: str) -> list:
    connection = await asyncpg.connect(
        servers.postgres.url("postgres", "postgres"), password=servers.postgres.password("postgres")
    )
    try:
        return await connection.fetch(query, role)
    finally:
        await connection.close()


@pytest.mark.e2e
@pytest.mark.parametrize("module", [BARE, DBOS])
async def test_a_killed_peer_completes_every_acknowledged_webhook_once(environment, module: str) -> None:
    servers, webhooks, expected = environment.servers, _webhooks(40), FACTS[environment.credentials_at_once]
    async with servers.bus() as bus, facts_from_now(bus, "*.*") as consumer:
        settings = await environment.settings(bus)
        async with started_peer(servers, module, settings) as endpoint, WebhookClient(endpoint.port, 8) as client:
            await client.send(iter([signed(webhook.body, SECRET) for webhook in webhooks]))
        async with started_peer(servers, module, settings):
            facts = await _facts(consumer, len(webhooks) * len(expected))
            assert await consumer.pending() == 0

    assert facts == {webhook.tenant: expected for webhook in webhooks}


@pytest.mark.parametrize("module", [BARE, DBOS])
async def test_a_peer_refuses_a_webhook_with_a_wrong_signature(environment, module: str) -> None:
    servers = environment.servers
    async with servers.bus() as bus:
        settings = await environment.settings(bus)
        async with started_peer(servers, module, settings) as endpoint, WebhookClient(endpoint.port, 1) as client:
            with pytest.raises(BenchmarkError, match="refused"):
                await client.send(iter([signed(_body("ten_1"), "whsec_other")]))
