"""The slug of a purged tenant is free: its customer can become a new tenant. Before the purge it is not."""

from datetime import UTC, datetime

from paybill_contracts.purges import Certificate, EnvironmentPurged
from paybill_runtime.replay.verify import replay
from paybill_tenant.app import service


async def test_a_purged_customer_becomes_a_new_tenant_with_the_same_slug(tenant, publish, log, about, sign_up) -> None:
    first = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(first)
    registered = facts.registered.model_copy(update={"retention_s": 1})
    await publish(registered, facts.planned, facts.ready)
    await log.facts("tenant.tenant_activated")
    early = await tenant.client.post("/v1/tenants/acme/purge")
    await tenant.client.post("/v1/tenants/acme/offboard", json={"reason": "contract ended"})
    await log.facts("tenant.offboarding_started")
    await publish(facts.retained)
    await log.facts("tenant.purge_started")
    taken = await tenant.client.post("/v1/tenants", json=sign_up)
    certificate = Certificate(plan_hash="c" * 64, resources=(), export=None, purged_at=datetime.now(UTC))
    await publish(
        EnvironmentPurged(tenant_id=first, environment_id=facts.ready.environment_id, certificate=certificate), copies=2
    )
    await log.facts("tenant.tenant_purged")
    purged = (await tenant.client.get("/v1/tenants/acme")).json()
    second = await tenant.client.post("/v1/tenants", json=sign_up)
    shown = (await tenant.client.get("/v1/tenants/acme")).json()

    assert (early.status_code, early.json()["code"]) == (409, "tenant_not_retained")
    assert (taken.status_code, taken.json()["code"]) == (409, "slug_taken")
    assert (purged["id"], purged["status"], purged["infrastructure"]) == (first, "purged", "purged")
    assert second.status_code == 202
    assert shown["id"] == second.json()["id"] != first
    assert (await tenant.client.get(f"/v1/tenants/{first}")).json()["status"] == "purged"
    assert (await replay(service(), tenant.running.settings, tenant.running.database)).equal


async def test_a_purge_is_refused_before_its_date_and_under_a_legal_hold(tenant, publish, log, about, sign_up) -> None:
    id_ = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(id_)
    await publish(facts.registered, facts.planned, facts.ready)
    await log.facts("tenant.tenant_activated")
    await tenant.client.post("/v1/tenants/acme/offboard", json={"reason": "contract ended"})
    await log.facts("tenant.offboarding_started")
    await publish(facts.retained)
    await log.facts("tenant.tenant_retained")
    before_date = await tenant.client.post("/v1/tenants/acme/purge")
    await tenant.client.post("/v1/tenants/acme/legal-hold", json={"case": "2026-17"})
    held = await tenant.client.post("/v1/tenants/acme/purge")

    assert (before_date.status_code, before_date.json()["code"]) == (409, "retention_not_over")
    assert (held.status_code, held.json()["code"]) == (409, "legal_hold")
