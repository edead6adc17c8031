"""Blueprints are published over HTTP, and every environment follows them."""

import pytest
from blueprint_samples import blueprint_text
from paybill_contracts.placement import Preset
from paybill_provisioner.app import service

YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
def publish_blueprint(provisioner):
    """Returns a function that publishes a file and returns the answer."""

    async def publish(text, **query):
        return await provisioner.client.post("/v1/blueprints", content=text, headers=YAML, params=query)

    return publish


async def test_a_tenant_is_built_when_a_blueprint_has_its_tier(
    provisioner, harness, publish, log, about, publish_blueprint
) -> None:
    tenant = about(tier="platinum")
    await publish(tenant.requested, tenant.entitled)
    await log.facts("provisioner.plan_refused")

    answer = await publish_blueprint(blueprint_text(harness.region, 2, platinum="pooled"))
    await log.facts("provisioner.environment_ready")
    shown = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()

    assert answer.status_code == 200
    assert [each["after"] for each in answer.json()["differences"]] == ["platinum (pooled)"]
    assert (shown["status"], shown["tier"], shown["refusal"]) == ("ready", "platinum", None)
    assert shown["plan"]["blueprint"] == "test@2"


async def test_another_connection_limit_is_applied_in_place_to_every_tenant(
    provisioner, harness, publish, log, about, publish_blueprint
) -> None:
    tenants = [about(), about(Preset.SILO)]
    await publish(*(fact for tenant in tenants for fact in (tenant.requested, tenant.entitled)))
    await log.facts("provisioner.environment_ready", at_least=2)

    await publish_blueprint(blueprint_text(harness.region, 2).replace("connection_limit: 5", "connection_limit: 9"))
    changed = await log.facts("provisioner.environment_changed", at_least=2)
    limits = await harness.as_superuser(
        "postgres",
        "SELECT rolconnlimit FROM pg_roles WHERE rolname = ANY($1::text[])",
        [f"t_{tenant.tenant.removeprefix('ten_')}" for tenant in tenants],
    )

    assert {fact.event.tenant_id for fact in changed} == {tenant.tenant for tenant in tenants}
    assert limits == [(9,), (9,)]


async def test_a_start_with_an_older_file_keeps_the_newer_blueprint(
    provisioner, harness, start, settings, publish_blueprint, log
) -> None:
    await publish_blueprint(blueprint_text(harness.region, 2, platinum="pooled"))
    again = await start(service(), url=provisioner.running.settings.database_url, **settings)
    shown = (await again.client.get("/v1/blueprints")).json()["blueprints"]

    assert [(each["version"], each["in_force"]) for each in shown] == [(2, True), (1, False)]
    assert shown[0]["regions"] == [harness.region]
    assert len(await log.facts("provisioner.blueprint_published")) == 2


async def test_a_refused_blueprint_is_reported_by_line_and_changes_nothing(
    provisioner, harness, publish_blueprint, log
) -> None:
    wrong_type = blueprint_text(harness.region, 2).replace("type: jsonb", "type: text")
    same_version = blueprint_text(harness.region, 1, platinum="pooled")
    unknown = blueprint_text(harness.region, 2).replace("resource: role.main", "resource: rule.main")

    refused = await publish_blueprint(wrong_type, file="b.yaml")
    previewed = await publish_blueprint(wrong_type, dry_run=True)
    conflict = await publish_blueprint(same_version)
    invalid = await publish_blueprint(unknown)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_blueprint")
    assert refused.json()["detail"] == "b.yaml:6: documents.body is jsonb and cannot become text"
    assert previewed.json()["refused"] == ["blueprints.yaml:6: documents.body is jsonb and cannot become text"]
    assert (conflict.status_code, conflict.json()["code"]) == (409, "blueprint_version_conflict")
    assert (invalid.status_code, invalid.json()["code"]) == (422, "invalid_blueprint")
    assert len(await log.facts("provisioner.blueprint_published")) == 1


async def test_a_preview_refuses_the_versions_that_a_publication_refuses(
    provisioner, harness, publish_blueprint
) -> None:
    await publish_blueprint(blueprint_text(harness.region, 2, platinum="pooled"))
    texts = {
        "same version, other content": blueprint_text(harness.region, 2, gold="pooled"),
        "older version": blueprint_text(harness.region, 1),
        "in force": blueprint_text(harness.region, 2, platinum="pooled"),
        "newer": blueprint_text(harness.region, 3, gold="pooled"),
    }
    previews = {what: (await publish_blueprint(text, dry_run=True)).json() for what, text in texts.items()}
    refused = ["blueprints.yaml:3: test@2 is in force; write `version: 3` for another content"]

    for what in ("same version, other content", "older version"):
        published = await publish_blueprint(texts[what])
        assert previews[what]["refused"] == refused, what
        assert previews[what]["differences"], what
        assert previews[what]["refused_code"] == published.json()["code"] == "blueprint_version_conflict", what
    for what in ("in force", "newer"):
        assert (previews[what]["refused"], previews[what]["refused_code"]) == ([], None), what


async def test_a_blueprint_that_does_not_exist_is_named(provisioner) -> None:
    answer = await provisioner.client.get("/v1/blueprints/nope")

    assert (answer.status_code, answer.json()["code"]) == (404, "blueprint_not_published")
    assert answer.json()["detail"] == "there is no blueprint nope, only test"
