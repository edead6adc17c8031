"""Purges on real servers: the catalogues of PostgreSQL and the file system have nothing of the tenant afterwards."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import LegalHoldPlaced, LegalHoldReleased
from paybill_contracts.tenant_lifecycle import PurgeStarted
from paybill_provisioner.app import service
from paybill_provisioner.domain import policy
from paybill_provisioner.domain.policy import POLICY_ID, SAFE
from paybill_provisioner.domain.steps import is_shared
from paybill_provisioner.drivers import Site
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.tables import POLICY
from paybill_runtime.replay.verify import replay

YAML = {"Content-Type": "application/yaml"}
POLICY_TEXT = """
name: standard
version: {version}
creates: unattended
updates: unattended
clean_up: unattended
deletes: {deletes}
replaces: other_person
moves_data: other_person
approval_valid_hours: 1
"""
LEFT_IN_CATALOGUES = """
SELECT 'database' AS kind, datname::text AS name FROM pg_database WHERE strpos(datname, $1) > 0
UNION ALL SELECT 'role', rolname::text FROM pg_roles WHERE strpos(rolname, $1) > 0
UNION ALL SELECT 'schema', nspname::text FROM pg_namespace WHERE strpos(nspname, $1) > 0
UNION ALL SELECT 'setting', setconfig::text FROM pg_db_role_setting WHERE strpos(setconfig::text, $1) > 0
UNION ALL SELECT 'grant', datacl::text FROM pg_database WHERE strpos(datacl::text, $1) > 0
"""


async def publish_policy(provisioner: Any, deletes: str, version: int = 2) -> None:
    answer = await provisioner.client.post(
        "/v1/policies", content=POLICY_TEXT.format(version=version, deletes=deletes), headers=YAML
    )
    assert answer.status_code == 200, answer.text


def purge_of(tenant: Any) -> PurgeStarted:
    return PurgeStarted(tenant_id=tenant.tenant, expected_by=datetime.now(UTC))


def files_about(directory: Path, number: str) -> list[str]:
    """Returns the files and folders of the driver whose name or content has the tenant's number."""
    found = [path for path in directory.rglob("*") if number in path.name]
    contents = [path for path in directory.rglob("*") if path.is_file() and number.encode() in path.read_bytes()]
    return sorted(str(path) for path in {*found, *contents})


def secrets_of(directory: Path, number: str) -> list[str]:
    """Returns the versions of the tenant's secrets. Of a destroyed one only the number of its last version stays."""
    return sorted(str(path) for path in directory.rglob("*") if number in str(path) and path.name.isdigit())


async def left_of(harness: Any, tenant: Any, databases: list[str]) -> list[Any]:
    """Returns everything of the tenant in the catalogues, the rows of pools, the files and the secrets."""
    number = tenant.tenant.removeprefix("ten_")
    left: list[Any] = [
        *files_about(harness.directory, number),
        *secrets_of(harness.directory.parent / "secrets", number),
    ]
    existing = {name for (name,) in await harness.as_superuser("postgres", "SELECT datname FROM pg_database")}
    for database in {"postgres", *databases} & existing:
        left += await harness.as_superuser(database, LEFT_IN_CATALOGUES, number)
        tables = await harness.as_superuser(
            database,
            "SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
            "WHERE c.relkind = 'r' AND a.attname = 'tenant_id'",
        )
        for (table,) in tables:
            left += await harness.as_superuser(
                database, f"SELECT '{table}', tenant_id FROM {table} WHERE tenant_id = $1", tenant.tenant
            )
    return left


async def retained(harness: Any, publish: Any, log: Any, tenant: Any) -> SimpleNamespace:
    """Builds the tenant's environment with a row and a file, and retains it."""
    await publish(tenant.requested, tenant.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    environment = SimpleNamespace(connections=ready.event.connections)
    async with harness.connect(environment) as connection:
        await connection.execute("INSERT INTO documents (id) VALUES ('a')")
    await publish(tenant.leaves)
    await log.facts("provisioner.environment_retained")
    return environment


@pytest.mark.parametrize("preset", list(Preset))
async def test_nothing_of_a_purged_tenant_is_left_and_its_neighbour_has_everything(
    provisioner, harness, publish, log, about, preset
) -> None:
    """django-tenants/django-tenants#845: residue after a deletion."""
    await publish_policy(provisioner, "unattended")
    tenant, neighbour = about(preset), about(preset)
    environment = await retained(harness, publish, log, tenant)
    await publish(neighbour.requested, neighbour.entitled)
    other = (await log.facts("provisioner.environment_ready", at_least=2))[-1]
    beside = SimpleNamespace(connections=other.event.connections)
    async with harness.connect(beside) as connection:
        await connection.execute("INSERT INTO documents (id) VALUES ('b')")
    databases = [environment.connections[0].database]
    before = await left_of(harness, tenant, databases)

    await publish(purge_of(tenant), copies=2)
    (done,) = await log.facts("provisioner.environment_purged")
    removed = await log.facts("provisioner.resource_removed")
    shown = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}/certificate")).json()
    view = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()

    assert {each[0] if isinstance(each, tuple) else "file" for each in before} >= {"role", "file"}
    assert await left_of(harness, tenant, databases) == []
    assert {each.address for each in done.event.certificate.resources} == {each.event.address for each in removed}
    assert len(removed) == (5 if preset is Preset.SILO else 4)
    assert shown == done.event.certificate.model_dump(mode="json")
    assert all(each["how"] for each in shown["resources"])
    assert shown["export"]["how"] == "no file has its name"
    assert (view["status"], view["cells"], view["export"], view["connections"]) == ("purged", [], None, [])
    assert view["resources"] == []
    async with harness.connect(beside) as connection:
        assert [row["id"] for row in await connection.fetch("SELECT id FROM documents")] == ["b"]
    report = await replay(service(), provisioner.running.settings, provisioner.running.database)
    assert report.equal


async def test_a_purge_under_the_first_policy_waits_for_a_person(provisioner, harness, publish, log, about) -> None:
    tenant = about()
    environment = await retained(harness, publish, log, tenant)
    await publish(purge_of(tenant))
    (request,) = await log.facts("provisioner.approval_requested")
    shown = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}/plans")).json()
    refused = await provisioner.client.get(f"/v1/environments/{tenant.tenant}/certificate")

    assert shown["plan"]["hash"] == request.event.plan_hash
    assert {step["action"] for step in shown["plan"]["steps"]} == {"delete"}
    assert (refused.status_code, refused.json()["code"]) == (409, "not_purged")
    assert await left_of(harness, tenant, [environment.connections[0].database]) != []
    await publish_policy(provisioner, "unattended")
    await log.facts("provisioner.environment_purged")
    assert await left_of(harness, tenant, [environment.connections[0].database]) == []


async def test_the_approval_of_a_purge_is_requested_again_when_it_expired(
    provisioner, harness, publish, log, about
) -> None:
    brief = SAFE.model_copy(update={"name": "standard", "version": 2, "approval_valid_s": 1})
    await provisioner.running.context.decide(
        Origin("test", "test", "service:test", ""),
        lambda unit, _: unit.record(POLICY, POLICY_ID, policy.publish(unit.get(POLICY, POLICY_ID), brief)),
        writes=[POLICY.key(POLICY_ID)],
    )
    tenant = about()
    environment = await retained(harness, publish, log, tenant)
    await publish(purge_of(tenant))
    first, second = (await log.facts("provisioner.approval_requested", at_least=2))[:2]
    void = (await log.facts("provisioner.approval_void"))[0]

    assert (void.event.approval_id, void.event.reason) == (first.event.approval_id, "it expired")
    assert second.event.approval_id != first.event.approval_id
    assert second.event.requested_at >= first.event.expires_at
    assert second.event.plan.purge
    await publish_policy(provisioner, "unattended", version=3)
    await log.facts("provisioner.environment_purged")
    assert await left_of(harness, tenant, [environment.connections[0].database]) == []


async def test_a_legal_hold_keeps_everything_until_it_is_released(provisioner, harness, publish, log, about) -> None:
    tenant = about()
    environment = await retained(harness, publish, log, tenant)
    databases = [environment.connections[0].database]
    before = await left_of(harness, tenant, databases)
    await publish(purge_of(tenant))
    await log.facts("provisioner.approval_requested")
    await publish(LegalHoldPlaced(tenant_id=tenant.tenant, case="2026-17"))
    (stopped,) = await log.facts("provisioner.deletion_stopped")
    await publish_policy(provisioner, "unattended")

    view = (await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json()
    assert (stopped.event.is_intact, stopped.event.cases, view["status"]) == (True, ("2026-17",), "retained")
    assert await left_of(harness, tenant, databases) == before
    await publish(LegalHoldReleased(tenant_id=tenant.tenant, case="2026-17"), purge_of(tenant))
    await log.facts("provisioner.environment_purged")
    assert await left_of(harness, tenant, databases) == []


@pytest.mark.parametrize("preset", list(Preset))
async def test_every_deletion_can_be_repeated_in_any_order(harness, preset) -> None:
    environment = await harness.ready(preset)
    driver: LocalDriver = harness.driver
    site = Site(environment, environment.known_resources, environment.outputs)
    own = [each.resource for each in environment.built if not is_shared(each.resource)]

    for resource in [*own, *own, *reversed(own)]:
        await driver.delete(resource, site)
    assert None not in [await driver.absence(each, site) for each in own]


async def test_the_rows_of_a_deleted_login_are_found_and_deleted(harness) -> None:
    pair = await harness.tenant_pair(Preset.POOLED)
    environment = pair.tenant
    site = Site(environment, environment.known_resources, environment.outputs)
    schema, role = environment.resources["schema.main"], environment.resources["role.main"]
    await harness.driver.delete(role, site)
    without_role = Site(environment, {"schema.main": schema}, environment.outputs)

    assert await harness.driver.absence(schema, without_role) is None
    await harness.driver.delete(schema, without_role)
    await harness.driver.delete(schema, without_role)
    assert await harness.driver.absence(schema, without_role) is not None
    async with harness.connect(pair.neighbour) as connection:
        assert await connection.fetchval("SELECT count(*) FROM documents") == 1
