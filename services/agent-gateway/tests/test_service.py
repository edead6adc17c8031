"""The service on real servers: facts of other services decide whether a tenant's agents may act."""

from gateway_samples import ENABLED, OTHER, TENANT, entitlements, facts_about
from paybill_agent_gateway.app import service
from paybill_runtime.database.migrate import check
from paybill_runtime.replay.verify import replay

CHANGED = "agent-gateway.tenant_changed"
FACTS = facts_about(TENANT)


async def test_a_tenant_is_followed_from_its_sign_up_to_its_purge(start, publish, log) -> None:
    gateway = await start(service())
    shown = []
    steps = [
        FACTS.requested, FACTS.activated, entitlements(TENANT, ENABLED), FACTS.suspended, FACTS.reactivated,
        FACTS.quarantined, FACTS.reactivated, FACTS.offboarded, FACTS.purging, FACTS.purged,
    ]  # fmt: skip
    count = 0

    for step in steps:
        await publish(step, copies=2)
        count += step is not FACTS.purging
        await log.facts(CHANGED, at_least=count)
        view = (await gateway.client.get(f"/v1/tenants/{TENANT}/agent-access")).json()
        shown.append((view["status"], view["may_act"], view["code"]))

    assert shown == [
        ("pending", False, "tenant_not_running"),
        ("running", False, "actions_not_entitled"),
        ("running", True, None),
        ("suspended", False, "tenant_not_running"),
        ("running", True, None),
        ("suspended", False, "tenant_not_running"),
        ("running", True, None),
        ("leaving", False, "tenant_not_running"),
        ("leaving", False, "tenant_not_running"),
        ("purged", False, "tenant_not_running"),
    ]
    assert [fact.revision for fact in await log.facts(CHANGED)] == list(range(1, count + 1))


async def test_an_unknown_tenant_is_not_found_and_its_facts_block_no_others(start, publish, log) -> None:
    gateway = await start(service())

    await publish(facts_about(OTHER, "bolt").activated, entitlements(OTHER, ENABLED), FACTS.requested)
    await log.facts(CHANGED)
    refused = await log.facts("agent-gateway.request_refused", at_least=2)
    shown = await gateway.client.get(f"/v1/tenants/{OTHER}/agent-access")
    operations = (await gateway.client.get("/v1/operations")).json()

    assert [fact.event.code for fact in refused] == ["tenant_unknown"] * 2
    assert (shown.status_code, shown.json()["code"]) == (404, "tenant_unknown")
    assert operations["parked"] == 0


async def test_why_has_the_facts_about_a_tenant(start, publish, log) -> None:
    gateway = await start(service())

    await publish(FACTS.requested)
    await log.facts(CHANGED)
    await publish(FACTS.activated)
    await log.facts(CHANGED, at_least=2)
    part = (await gateway.client.get(f"/v1/why/{TENANT}")).json()

    assert [fact["sentence"] for fact in part["facts"]] == [
        "agents: acme is pending, not entitled",
        "agents: acme is running, not entitled",
    ]


async def test_a_replay_gives_the_same_tables(start, publish, log) -> None:
    gateway = await start(service())

    await publish(FACTS.requested, FACTS.activated, entitlements(TENANT, ENABLED))
    await log.facts(CHANGED, at_least=3)
    running = gateway.running
    report = await replay(service(), running.settings, running.database)

    assert report.equal
    assert report.facts == 5  # and the signing key
    await check(running.database, "agent-gateway")
