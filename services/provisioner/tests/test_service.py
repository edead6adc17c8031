"""The whole service on real servers: what it hears becomes environments, and what it says is enough to enter them."""

from types import SimpleNamespace

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_provisioner.app import service
from paybill_provisioner.domain.blueprints import check as check_blueprint
from paybill_provisioner.settings import Settings, read_blueprint
from paybill_provisioner.work import NoDriverError, build, change_access, retain
from paybill_runtime.database.migrate import check
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.replay.verify import replay


def own(facts, tenant):
    return [fact for fact in facts if fact.event.tenant == tenant and fact.event.OWNER == "provisioner"]


async def test_starting_publishes_the_blueprint_once(provisioner, log) -> None:
    (fact,) = await log.facts("provisioner.blueprint_published")
    shown = (await provisioner.client.get("/v1/blueprint")).json()

    assert shown["content_hash"] == fact.event.content_hash
    assert shown["content"]["name"] == fact.event.content.name == "test"


@pytest.mark.parametrize("preset", list(Preset))
async def test_the_journey_of_an_environment_is_walked_once_however_often_it_is_told(
    provisioner, site, publish, log, about, preset
) -> None:
    assert (await provisioner.client.get("/readyz")).status_code == 200
    tenant = about(preset)
    await publish(tenant.requested, tenant.entitled, copies=2)
    (ready,) = await log.facts("provisioner.environment_ready")
    environment = SimpleNamespace(endpoint=ready.event.endpoint)
    async with site.enter(environment) as connection:
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")

    await publish(tenant.blocked, copies=2)
    await log.facts("provisioner.access_closed")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with site.enter(environment):
            pass
    await publish(tenant.reactivated, copies=2)
    await log.facts("provisioner.access_opened")
    async with site.enter(environment) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 1

    await publish(tenant.leaves, tenant.blocked, tenant.reactivated, copies=2)
    (retained,) = await log.facts("provisioner.environment_retained")
    said = own(await log.facts(), tenant.tenant)

    assert [fact.event.TYPE.partition(".")[2] for fact in said] == [
        "environment_registered",
        "environment_planned",
        *["resource_built"] * 5,
        "environment_ready",
        "access_change_started",
        "access_closed",
        "access_change_started",
        "access_opened",
        "retention_started",
        "environment_retained",
    ]
    assert [fact.revision for fact in said] == list(range(1, len(said) + 1))
    assert retained.event.export.rows == 1
    report = await replay(service(), provisioner.running.settings, provisioner.running.database)
    assert report.equal
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with site.enter(environment):
            pass


async def test_a_cancelled_tenant_is_never_built(provisioner, publish, log, about) -> None:
    tenant = about()
    await publish(tenant.requested, tenant.cancelled, tenant.entitled)
    await log.facts("provisioner.environment_retained")
    shown = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()

    assert (shown["status"], shown["plan"]) == ("retained", None)


async def test_an_unknown_tier_is_refused_and_holds_up_nobody(provisioner, publish, log, about) -> None:
    unknown, known = about(tier="platinum"), about()
    await publish(unknown.requested, unknown.entitled, known.requested, known.entitled)
    await log.facts("provisioner.environment_ready")

    refusals = await log.facts("provisioner.request_refused")
    shown = (await provisioner.client.get(f"/v1/environments/{unknown.environment}")).json()

    assert [fact.event.code for fact in refusals] == ["tier_unknown"]
    assert shown["status"] == "registered"


async def test_a_failed_environment_says_why_and_is_built_after_another_try(
    provisioner, site, publish, log, about
) -> None:
    first, second = about(), about()
    await publish(first.requested, first.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    database = ready.event.endpoint.database
    await site.owner(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
    await publish(second.requested, second.entitled)
    await log.facts("provisioner.environment_failed")
    shown = (await provisioner.client.get(f"/v1/environments/{second.tenant}")).json()

    assert shown["status"] == "failed"
    assert "not kept apart in documents" in shown["failure"]["reason"]

    await site.owner(database, "ALTER TABLE product.documents FORCE ROW LEVEL SECURITY")
    answers = [
        await provisioner.client.post(
            f"/v1/environments/{second.tenant}/retry", headers={"Idempotency-Key": "try-again"}
        )
        for _ in range(2)
    ]
    await log.facts("provisioner.environment_ready", at_least=2)
    shown = (await provisioner.client.get(f"/v1/environments/{second.environment}")).json()

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["status"] == "building"
    assert (shown["status"], shown["access"], shown["failure"]) == ("ready", "open", None)
    assert all(step["done"] for step in shown["plan"]["steps"])


async def test_an_environment_is_shown_with_its_plan_and_without_its_secret(
    provisioner, site, publish, log, about
) -> None:
    tenant = about(Preset.BRIDGE)
    await publish(tenant.requested, tenant.entitled)
    (planned,) = await log.facts("provisioner.environment_planned")
    (ready,) = await log.facts("provisioner.environment_ready")
    answer = await provisioner.client.get(f"/v1/environments/{tenant.tenant}")
    shown = answer.json()

    assert shown["plan"]["hash"] == planned.event.plan_hash
    assert shown["endpoint"] == ready.event.endpoint.model_dump(exclude={"secret"})
    assert {each["address"] for each in shown["resources"]} == {each["address"] for each in shown["plan"]["steps"]}
    assert (shown["preset"], shown["tier"], shown["epoch"]) == ("bridge", "team", 1)
    assert shown["placement"]["data"] == "bridge"
    assert "secret://" not in answer.text
    assert await site.secrets.get(ready.event.endpoint.secret) not in answer.text


async def test_environments_are_listed_by_page_and_filter(provisioner, publish, log, about) -> None:
    tenants = [about() for _ in range(3)]
    await publish(*(tenant.requested for tenant in tenants), tenants[0].entitled)
    await log.facts("provisioner.environment_ready")
    await log.facts("provisioner.environment_registered", at_least=3)
    client = provisioner.client

    first = (await client.get("/v1/environments", params={"limit": 2})).json()
    second = (await client.get("/v1/environments", params={"limit": 2, "after": first["next"]})).json()
    ready = (await client.get("/v1/environments", params={"status": "ready", "preset": "pooled"})).json()
    elsewhere = (await client.get("/v1/environments", params={"region": "us-east"})).json()

    shown = [each["id"] for page in (first, second) for each in page["environments"]]
    assert shown == sorted(tenant.environment for tenant in tenants)
    assert second["next"] is None
    assert [each["id"] for each in ready["environments"]] == [tenants[0].environment]
    assert elsewhere == {"environments": [], "next": None}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v1/environments/env_{'0' * 32}", 404, "environment_unknown"),
        ("POST", f"/v1/environments/ten_{'0' * 32}/retry", 404, "environment_unknown"),
        ("GET", "/v1/environments/acme", 422, "invalid_request"),
        ("GET", "/v1/environments?limit=0", 422, "invalid_request"),
        ("GET", "/v1/environments?after=x", 422, "invalid_request"),
    ],
)
async def test_bad_requests_get_a_clear_answer(provisioner, method, path, status, code) -> None:
    answer = await provisioner.client.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_only_a_failed_environment_is_tried_again(provisioner, publish, log, about) -> None:
    tenant = about()
    await publish(tenant.requested)
    await log.facts("provisioner.environment_registered")
    answer = await provisioner.client.post(f"/v1/environments/{tenant.tenant}/retry")

    assert (answer.status_code, answer.json()["code"]) == (409, "environment_not_failed")


async def test_without_a_key_nothing_is_shown(provisioner) -> None:
    for path in ("/v1/blueprint", "/v1/environments"):
        assert (await provisioner.client.get(path, headers={"Authorization": ""})).status_code == 401


async def test_the_migrations_make_the_tables_that_the_code_knows(databases, postgres) -> None:
    database = Database(await databases.fresh("provisioner"), postgres.password("provisioner"), "test")
    await check(database, "provisioner")
    await database.close()


def job_of(environment, event):
    async def state(*_):
        return environment

    return SimpleNamespace(event=event, state=state)


async def test_a_plan_that_is_not_the_recorded_one_is_not_carried_out(site) -> None:
    planned = site.planned(Preset.POOLED)
    forged = SimpleNamespace(tenant_id=planned.tenant_id, plan=planned.plan, plan_hash="cd" * 32)

    with pytest.raises(Refused, match="recorded is"):
        async for _ in build(job_of(planned, forged), {"local": site.driver}):
            pass


async def test_work_for_a_cloud_without_a_driver_waits(site) -> None:
    planned = site.planned(Preset.POOLED)
    event = SimpleNamespace(tenant_id=planned.tenant_id, plan=planned.plan, plan_hash=planned.plan_hash)

    with pytest.raises(NoDriverError):
        async for _ in build(job_of(planned, event), {}):
            pass


async def test_a_wish_that_was_taken_back_is_left_to_the_later_one(site) -> None:
    environment = await site.ready(Preset.POOLED)
    event = SimpleNamespace(tenant_id=environment.tenant_id, access=Access.CLOSED)

    assert [each async for each in change_access(job_of(environment, event), {})] == []
    assert [each async for each in retain(job_of(environment, event), {})] == []


def test_the_blueprint_in_the_package_can_be_built() -> None:
    settings = Settings.model_construct(blueprints_file=None)
    blueprint = settings.blueprint()

    check_blueprint(blueprint)
    assert [tier.placement for tier in blueprint.tiers] == list(Preset)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "should be an object"),
        (b"- a", "should be an object"),
        (b"a: [", "expected"),
        (b"\xff\xfe\x00", "unacceptable"),
        (b"name: x\nregions: [a]\ntiers: []\ntables: []\nregoins: [b]", "no meaning"),
        (b"name: x\nregions: [2026-01-01]\ntiers: []\ntables: []", "regions"),
        (b"name: X\nregions: []\ntiers: []\ntables: []", "name"),
        (b"{name: x, 1: y}", "must be str"),
        (b"a: &a [*a]", "Recursion"),
        (b"!!python/object/apply:os.system ['true']", "constructor"),
    ],
)
def test_a_blueprint_file_with_a_mistake_says_where(text, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_blueprint(text)


def test_a_missing_blueprint_file_is_named_without_its_folder(tmp_path) -> None:
    settings = Settings.model_construct(blueprints_file=tmp_path / "nowhere.yaml")

    with pytest.raises(ConfigurationError, match=r"^the blueprints file nowhere\.yaml cannot be read"):
        settings.blueprint()


def test_the_service_declares_what_it_is() -> None:
    assert service().name == "provisioner"
