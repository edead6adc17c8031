"""The whole service on real servers, from subscribed events to usable environments."""

from itertools import groupby
from types import SimpleNamespace

import asyncpg
import pytest
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access
from paybill_definitions.blueprint_rules import errors
from paybill_provisioner.app import service
from paybill_provisioner.jobs import NoDriverError, build, change_access, retain
from paybill_provisioner.settings import Settings
from paybill_runtime.database.migrate import check
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.replay.verify import replay


def own(facts, tenant):
    return [fact for fact in facts if fact.event.tenant == tenant and fact.event.OWNER == "provisioner"]


async def test_the_start_publishes_the_blueprint_once(provisioner, log) -> None:
    (fact,) = await log.facts("provisioner.blueprint_published")
    shown = (await provisioner.client.get("/v1/blueprint")).json()

    assert shown["content_hash"] == fact.event.content_hash
    assert shown["content"]["name"] == fact.event.content.name == "test"


@pytest.mark.parametrize("preset", list(Preset))
async def test_duplicate_events_lead_to_one_lifecycle(provisioner, harness, publish, log, about, preset) -> None:
    assert (await provisioner.client.get("/readyz")).status_code == 200
    tenant = about(preset)
    await publish(tenant.requested, tenant.entitled, copies=2)
    (ready,) = await log.facts("provisioner.environment_ready")
    environment = SimpleNamespace(connections=ready.event.connections)
    async with harness.connect(environment) as connection:
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")

    await publish(tenant.blocked, copies=2)
    await log.facts("provisioner.access_closed")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with harness.connect(environment):
            pass
    await publish(tenant.reactivated, copies=2)
    await log.facts("provisioner.access_opened")
    async with harness.connect(environment) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 1

    await publish(tenant.leaves, tenant.blocked, tenant.reactivated, copies=2)
    (retained,) = await log.facts("provisioner.environment_retained")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with harness.connect(environment):
            pass
    await publish(tenant.returns, copies=2)
    back = (await log.facts("provisioner.environment_ready", at_least=2))[-1]
    async with harness.connect(environment) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 1
    published = [fact for fact in own(await log.facts(), tenant.tenant) if fact.event.AGGREGATE == "environment"]

    # How many steps end together depends on the machine.
    assert [name for name, _ in groupby(fact.event.TYPE.partition(".")[2] for fact in published)] == [
        "environment_registered",
        "environment_planned",
        "resource_built",
        "access_change_started",
        "environment_ready",
        "access_change_started",
        "access_closed",
        "access_change_started",
        "access_opened",
        "retention_started",
        "environment_retained",
        "restoration_started",
        "environment_ready",
    ]
    assert [fact.revision for fact in published] == list(range(1, len(published) + 1))
    assert retained.event.export.rows == 1
    assert (back.event.epoch, back.event.connections) == (2, ready.event.connections)
    report = await replay(service(), provisioner.running.settings, provisioner.running.database)
    assert report.equal


async def test_a_cancelled_tenant_is_never_built(provisioner, publish, log, about) -> None:
    tenant = about()
    await publish(tenant.requested, tenant.cancelled, tenant.entitled)
    await log.facts("provisioner.environment_retained")
    shown = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()

    assert (shown["status"], shown["plan"]) == ("retained", None)


async def test_an_unknown_tier_is_refused_with_its_reason_and_blocks_no_other_tenant(
    provisioner, publish, log, about
) -> None:
    unknown, known = about(tier="platinum"), about()
    await publish(unknown.requested, unknown.entitled, known.requested, known.entitled)
    await log.facts("provisioner.environment_ready")

    (refused,) = await log.facts("provisioner.plan_refused")
    why = (await provisioner.client.get(f"/v1/why/{unknown.tenant}")).json()
    shown = (await provisioner.client.get(f"/v1/environments/{unknown.environment}")).json()

    assert (refused.event.tenant_id, refused.event.code) == (unknown.tenant, "tier_unknown")
    assert (shown["status"], shown["refusal"]["code"], shown["desired"]["tier"]) == (
        "registered",
        "tier_unknown",
        "platinum",
    )
    assert "no blueprint has the tier platinum" in why["environment"]["refusal"]
    assert (why["environment"]["refusal_code"], why["environment"]["failure"]) == ("tier_unknown", None)


async def test_a_failed_environment_reports_its_reason_and_is_built_by_a_retry(
    provisioner, harness, publish, log, about
) -> None:
    """awslabs/aws-saas-boost#86, #215: the reason of a failed onboarding is not shown."""
    first, second = about(), about()
    await publish(first.requested, first.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    database = ready.event.connections[0].database
    await harness.as_driver(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
    await publish(second.requested, second.entitled)
    await log.facts("provisioner.environment_failed")
    shown = (await provisioner.client.get(f"/v1/environments/{second.tenant}")).json()

    assert shown["status"] == "failed"
    assert "not isolated in documents" in shown["failure"]["reason"]

    await harness.as_driver(database, "ALTER TABLE product.documents FORCE ROW LEVEL SECURITY")
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
    provisioner, harness, publish, log, about
) -> None:
    tenant = about(Preset.BRIDGE)
    await publish(tenant.requested, tenant.entitled)
    (planned,) = await log.facts("provisioner.environment_planned")
    (ready,) = await log.facts("provisioner.environment_ready")
    answer = await provisioner.client.get(f"/v1/environments/{tenant.tenant}")
    shown = answer.json()

    assert shown["plan"]["hash"] == planned.event.plan_hash
    assert shown["connections"] == [each.model_dump() for each in ready.event.connections]
    assert {each["address"] for each in shown["resources"]} == {each["address"] for each in shown["plan"]["steps"]}
    assert (shown["preset"], shown["tier"], shown["epoch"]) == ("bridge", "team", 1)
    assert shown["placement"]["data"] == "bridge"
    assert await harness.secrets.get(ready.event.connections[0].secret) not in answer.text


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
async def test_invalid_requests_have_status_and_code(provisioner, method, path, status, code) -> None:
    answer = await provisioner.client.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_only_a_failed_environment_can_be_retried(provisioner, publish, log, about) -> None:
    tenant = about()
    await publish(tenant.requested)
    await log.facts("provisioner.environment_registered")
    answer = await provisioner.client.post(f"/v1/environments/{tenant.tenant}/retry")

    assert (answer.status_code, answer.json()["code"]) == (409, "environment_not_failed")


async def test_requests_without_a_key_are_refused(provisioner) -> None:
    for path in ("/v1/blueprint", "/v1/environments"):
        assert (await provisioner.client.get(path, headers={"Authorization": ""})).status_code == 401


async def test_the_migrations_create_exactly_the_tables_of_the_code(databases, postgres) -> None:
    database = Database(await databases.fresh("provisioner"), postgres.password("provisioner"), "test")
    await check(database, "provisioner")
    await database.close()


def job_of(environment, event):
    async def state(*_):
        return environment

    return SimpleNamespace(event=event, state=state, attempt=2)


async def test_a_plan_other_than_the_recorded_one_is_not_built(harness) -> None:
    planned = harness.planned(Preset.POOLED)
    forged = SimpleNamespace(tenant_id=planned.tenant_id, plan=planned.plan, plan_hash="cd" * 32)

    with pytest.raises(Refused, match="the recorded one"):
        async for _ in build(job_of(planned, forged), {"local": harness.driver}):
            pass


async def test_a_job_for_a_cloud_without_a_driver_is_retried(harness) -> None:
    planned = harness.planned(Preset.POOLED)
    event = SimpleNamespace(tenant_id=planned.tenant_id, plan=planned.plan, plan_hash=planned.plan_hash)

    with pytest.raises(NoDriverError):
        async for _ in build(job_of(planned, event), {}):
            pass


async def test_a_superseded_access_change_is_ignored(harness) -> None:
    environment = await harness.ready(Preset.POOLED)
    event = SimpleNamespace(tenant_id=environment.tenant_id, access=Access.CLOSED)

    assert [each async for each in change_access(job_of(environment, event), {})] == []
    assert [each async for each in retain(job_of(environment, event), {})] == []


def test_the_blueprint_in_the_package_can_be_built() -> None:
    settings = Settings.model_construct(blueprints_file=None)
    blueprint = settings.blueprint()

    assert list(errors(blueprint)) == []
    assert [tier.placement for tier in blueprint.tiers] == list(Preset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "blueprints.yaml:1: the file is empty"),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
        (b"name: x\nregions: [2026-01-01]\n", "blueprints.yaml:2: regions.0: write a text"),
    ],
)
def test_an_error_in_a_blueprint_file_stops_the_start_with_its_line(tmp_path, text, message) -> None:
    file = tmp_path / "blueprints.yaml"
    file.write_bytes(text)

    with pytest.raises(ConfigurationError, match=message):
        Settings.model_construct(blueprints_file=file).blueprint()


def test_a_missing_blueprint_file_is_named_without_its_directory(tmp_path) -> None:
    settings = Settings.model_construct(blueprints_file=tmp_path / "nowhere.yaml")

    with pytest.raises(ConfigurationError, match=r"^the blueprints file nowhere\.yaml cannot be read"):
        settings.blueprint()


def test_the_service_has_its_name() -> None:
    assert service().name == "provisioner"
