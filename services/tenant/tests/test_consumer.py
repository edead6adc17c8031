"""What the service hears, through a real NATS: twice, early, and about nobody."""

from datetime import UTC, datetime, timedelta

from paybill_runtime.database.migrate import check
from paybill_runtime.replay.verify import replay
from paybill_tenant.app import service


async def test_the_journey_is_heard_once_however_often_it_is_told(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)

    await publish(
        facts.registered,
        facts.planned,
        facts.ready,
        facts.suspended,
        facts.recovered,
        facts.ended,
        facts.retained,
        copies=2,
    )
    await log.facts("tenant.tenant_retained")
    said = [fact for fact in await log.facts() if fact.event.tenant == tenant_id and fact.event.OWNER == "tenant"]
    view = (await tenant.client.get("/v1/tenants/acme")).json()

    assert [(fact.revision, fact.event.TYPE) for fact in said] == [
        (1, "tenant.tenant_requested"),
        (2, "tenant.retention_noted"),
        (3, "tenant.provisioning_started"),
        (4, "tenant.tenant_activated"),
        (5, "tenant.tenant_suspended"),
        (6, "tenant.tenant_reactivated"),
        (7, "tenant.offboarding_started"),
        (8, "tenant.tenant_retained"),
    ]
    assert view["status"] == "retained"
    assert datetime.fromisoformat(view["retain_until"]) > datetime.now(UTC) + timedelta(hours=47)


async def test_a_suspension_that_comes_before_the_environment_takes_effect_with_it(
    tenant, publish, log, about, sign_up
) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)

    await publish(facts.suspended, facts.planned, facts.ready)
    (suspended,) = await log.facts("tenant.tenant_suspended")
    view = (await tenant.client.get("/v1/tenants/acme")).json()

    assert suspended.event.mode == "blocked"
    assert view["status"] == "suspended"
    assert view["holds"] == [{"origin": "billing", "mode": "blocked", "reason": "the subscription is suspended"}]


async def test_facts_about_nobody_hold_up_nobody(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    nobody = about(f"ten_{'0' * 32}")
    facts = about(tenant_id)

    await publish(nobody.planned, nobody.suspended, nobody.retained, facts.planned, facts.ready)
    await log.facts("tenant.tenant_activated")
    refused = await log.facts("tenant.request_refused", at_least=3)
    waiting = (await tenant.client.get("/v1/operations")).json()

    assert [fact.event.code for fact in refused] == ["tenant_not_found"] * 3
    assert waiting["parked"] == 0


async def test_a_catalogue_published_again_is_no_news(tenant, publish, log, about, offerings, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]

    await publish(*offerings, about(tenant_id).planned, copies=2)
    await log.facts("tenant.provisioning_started")
    noted = await log.facts("tenant.offering_noted")

    assert [(fact.event.offering, fact.revision) for fact in noted] == [("plans", 1), ("regions", 1)]


async def test_what_was_heard_folds_again_to_the_same_tables(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)
    await publish(facts.registered, facts.suspended, facts.planned, facts.ready, facts.recovered, facts.ended)
    await log.facts("tenant.offboarding_started")

    report = await replay(service(), tenant.running.settings, tenant.running.database)

    assert report.equal, report.as_dict()
    assert report.aggregates == 3


async def test_the_migrations_make_exactly_the_tables_in_the_code(start) -> None:
    tenant = await start(service())

    await check(tenant.running.database, "tenant")
