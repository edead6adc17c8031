"""The service's subscriptions on a real NATS: duplicate, early and irrelevant events."""

from datetime import UTC, datetime, timedelta

from paybill_runtime.database.migrate import check
from paybill_runtime.replay.verify import replay
from paybill_tenant.app import service


async def test_duplicate_events_are_handled_once(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)

    await publish(
        facts.registered,
        facts.planned,
        facts.ready,
        facts.suspended,
        facts.recovered,
        facts.ended,
        copies=2,
    )
    await log.facts("tenant.offboarding_started")
    await publish(facts.retained, copies=2)
    await log.facts("tenant.tenant_retained")
    published = [fact for fact in await log.facts() if fact.event.tenant == tenant_id and fact.event.OWNER == "tenant"]
    view = (await tenant.client.get("/v1/tenants/acme")).json()

    assert [(fact.revision, fact.event.TYPE) for fact in published] == [
        (1, "tenant.tenant_requested"),
        (2, "tenant.retention_noted"),
        (3, "tenant.provisioning_started"),
        (4, "tenant.tenant_activated"),
        (5, "tenant.tenant_suspended"),
        (6, "tenant.tenant_reactivated"),
        (7, "tenant.tenant_suspended"),
        (8, "tenant.offboarding_scheduled"),
        (9, "tenant.offboarding_started"),
        (10, "tenant.tenant_retained"),
    ]
    assert view["status"] == "retained"
    assert datetime.fromisoformat(view["retain_until"]) > datetime.now(UTC) + timedelta(hours=47)


async def test_an_early_suspension_takes_effect_when_the_environment_is_ready(
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


async def test_events_of_unknown_tenants_block_no_other_events(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    unknown = about(f"ten_{'0' * 32}")
    facts = about(tenant_id)

    await publish(unknown.planned, unknown.suspended, unknown.retained, facts.planned, facts.ready)
    await log.facts("tenant.tenant_activated")
    refused = await log.facts("tenant.request_refused", at_least=3)
    operations = (await tenant.client.get("/v1/operations")).json()

    assert [fact.event.code for fact in refused] == ["tenant_not_found"] * 3
    assert operations["parked"] == 0


async def test_a_catalogue_published_again_records_nothing(tenant, publish, log, about, offerings, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]

    await publish(*offerings, about(tenant_id).planned, copies=2)
    await log.facts("tenant.provisioning_started")
    noted = await log.facts("tenant.offering_noted")

    assert [(fact.event.offering, fact.revision) for fact in noted] == [("plans", 1), ("regions", 1)]


async def test_a_customer_that_subscribes_again_gets_its_tenant_back(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)
    await publish(facts.registered, facts.allowed, facts.planned, facts.ready, facts.ended, facts.not_allowed)
    await log.facts("tenant.offboarding_started")
    await publish(facts.retained)
    await log.facts("tenant.tenant_retained")

    await publish(facts.activated, facts.allowed, copies=2)
    await log.facts("tenant.return_started")
    returning = (await tenant.client.get("/v1/tenants/acme")).json()
    await publish(facts.ready.model_copy(update={"epoch": 2}))
    await log.facts("tenant.tenant_activated", at_least=2)
    active = (await tenant.client.get("/v1/tenants/acme")).json()
    report = await replay(service(), tenant.running.settings, tenant.running.database)

    assert (returning["status"], returning["retain_until"]) == ("returning", None)
    assert (active["status"], active["holds"], active["id"]) == ("active", [], tenant_id)
    assert report.equal, report.as_dict()


async def test_a_sign_up_that_nobody_pays_frees_its_slug(start, publish, log, offerings, sign_up) -> None:
    tenant = await start(service(), signup_valid_s=1)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)

    first = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    (cancelled,) = await log.facts("tenant.tenant_cancelled")
    second = await tenant.client.post("/v1/tenants", json=sign_up)
    pages = (await tenant.client.get("/v1/tenants", params={"limit": 1})).json()
    rest = (await tenant.client.get("/v1/tenants", params={"after": pages["next"]})).json()

    assert cancelled.event.is_abandoned
    assert second.status_code == 202
    assert (await tenant.client.get("/v1/tenants/acme")).json()["id"] == second.json()["id"]
    assert [each["id"] for each in (*pages["tenants"], *rest["tenants"])] == [second.json()["id"], first]


async def test_replay_gives_the_same_tables(tenant, publish, log, about, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]
    facts = about(tenant_id)
    await publish(facts.registered, facts.suspended, facts.planned, facts.ready, facts.recovered, facts.ended)
    await log.facts("tenant.offboarding_started")

    report = await replay(service(), tenant.running.settings, tenant.running.database)

    assert report.equal, report.as_dict()
    assert report.aggregates == 4


async def test_the_migrations_create_exactly_the_tables_of_the_code(start) -> None:
    tenant = await start(service())

    await check(tenant.running.database, "tenant")
