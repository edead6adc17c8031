"""Drift on real servers: what the local driver observes, and the service that compares, reports and repairs."""

import shutil

import pytest
from paybill_contracts.drift import ResourceDriftKind
from paybill_contracts.placement import Preset
from paybill_provisioner.app import service
from paybill_provisioner.domain.drift import differences
from paybill_provisioner.drivers import Scope
from paybill_provisioner.tables import BREACH_COUNTS, DRIFT_COUNTS
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing.waiting import until

EVERY_S = 0.4
YAML = {"Content-Type": "application/yaml"}
POLICY = """
name: standard
version: 2
creates: unattended
updates: unattended
clean_up: unattended
deletes: other_person
replaces: other_person
moves_data: other_person
drift: {drift}
approval_valid_hours: 72
"""


async def observed(harness, environment):
    return [each async for page in harness.driver.observe(Scope.of(environment.tenant_id)) for each in page]


async def found(harness, environment):
    compared = differences(environment, await observed(harness, environment))
    return [(each.kind, each.address or each.name, each.attribute, each.observed) for each in compared]


@pytest.mark.parametrize("preset", list(Preset))
async def test_what_the_driver_builds_does_not_differ_from_its_record(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    tenants = {each.tenant_id for each in await observed(harness, pair.tenant)}

    assert await found(harness, pair.tenant) == []
    assert tenants - {None} == {pair.tenant.tenant_id}


@pytest.mark.parametrize("preset", list(Preset))
async def test_the_driver_observes_everything_of_the_tenants_in_the_scope(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    pages = [each async for page in harness.driver.observe(Scope("", "g")) for each in page]
    there = {(each.kind, each.name) for each in pages}

    for environment in (pair.tenant, pair.neighbour):
        recorded = {(each.resource.kind, each.resource.identity) for each in environment.built}
        assert recorded <= there


@pytest.mark.parametrize("preset", list(Preset))
async def test_each_change_of_a_real_server_is_observed(harness, preset) -> None:
    environment = await harness.ready(preset)
    connection = environment.connections[0]
    table, role = f'"{connection.schema_name}".documents', connection.username
    await harness.as_superuser(connection.database, f"ALTER TABLE {table} DROP COLUMN body")
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 500 BYPASSRLS')
    await harness.secrets.delete(f"environments/{environment.tenant_id.removeprefix('ten_')}/database")
    shutil.rmtree(harness.directory / "tenants" / environment.outputs["bucket.data"]["bucket"])
    stray = f"environments/{environment.tenant_id.removeprefix('ten_')}/old"
    await harness.secrets.put(stray, "a-value")

    assert sorted(await found(harness, environment), key=str) == sorted(
        [
            (ResourceDriftKind.CHANGED, "schema.main", "documents.body", "absent"),
            (ResourceDriftKind.CHANGED, "role.main", "connection_limit", "500"),
            (ResourceDriftKind.CHANGED, "role.main", "privileges", "BYPASSRLS"),
            (ResourceDriftKind.MISSING, "secret.database", None, None),
            (ResourceDriftKind.MISSING, "bucket.data", None, None),
            (ResourceDriftKind.UNKNOWN, stray, None, stray),
        ],
        key=str,
    )


async def test_a_silo_that_is_open_to_public_has_changed_and_a_dropped_one_is_missing(harness) -> None:
    environment = await harness.ready(Preset.SILO)
    database = environment.connections[0].database
    await harness.as_superuser("postgres", f'GRANT CONNECT ON DATABASE "{database}" TO PUBLIC')
    opened = await found(harness, environment)
    await harness.as_superuser("postgres", f'DROP DATABASE "{database}"')

    assert opened == [(ResourceDriftKind.CHANGED, "database.main", "public", "CONNECT")]
    assert await found(harness, environment) == [
        (ResourceDriftKind.MISSING, "database.main", None, None),
        (ResourceDriftKind.MISSING, "schema.main", None, None),
    ]


async def test_the_check_of_the_driver_names_a_right_that_it_lacks(harness) -> None:
    well = await harness.driver.check()
    await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver NOCREATEROLE")
    try:
        lacks = await harness.driver.check()
    finally:
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver CREATEROLE")

    assert well is None
    assert "no CREATEROLE" in lacks


@pytest.fixture
async def checking(start, settings):
    """Returns a service whose period is short."""
    return await start(service(), **{**settings, "drift_every_s": EVERY_S, "drift_calls_per_s": 1000})


async def built(publish, log, tenant):
    await publish(tenant.requested, tenant.entitled)
    (ready,) = [
        each for each in await log.facts("provisioner.environment_ready") if each.event.tenant_id == tenant.tenant
    ]
    return ready.event.connections[0]


async def test_the_scheduled_check_publishes_drift_once_and_its_end(checking, harness, publish, log, about) -> None:
    tenant = about()
    connection = await built(publish, log, tenant)
    role, client = connection.username, checking.client
    await client.post("/v1/policies", content=POLICY.format(drift="report"), headers=YAML)
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 500')
    (fact,) = await log.facts("provisioner.drift_found")
    listed = (await client.get("/v1/drift")).json()
    own = (await client.get(f"/v1/environments/{tenant.tenant}/drift")).json()
    (incident,) = (await client.get("/v1/incidents", params={"tenant": tenant.tenant})).json()["incidents"]
    why = (await client.get(f"/v1/why/{tenant.tenant}")).json()
    counts = [tuple(row) for row in await checking.running.context.rows(DRIFT_COUNTS.query)]
    breaches = await checking.running.context.rows(BREACH_COUNTS.query)
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" CONNECTION LIMIT 5')
    await log.facts("provisioner.drift_ended")
    facts = await log.facts("provisioner.drift_found", "provisioner.drift_ended", at_least=2)

    difference = fact.event.difference
    assert (difference.expected, difference.observed, difference.address) == ("5", "500", "role.main")
    assert (counts, breaches) == ([("changed", 1)], [])
    assert listed["differences"] == own["differences"]
    assert [(each["id"], each["kind"]) for each in own["differences"]] == [(difference.id, "changed")]
    assert (incident["kind"], incident["tenant_id"]) == ("drift", tenant.tenant)
    assert "connection_limit is 500 instead of 5" in incident["summary"]
    assert [each["kind"] for each in why["incidents"]] == ["drift"]
    assert [each.event.TYPE for each in facts] == ["provisioner.drift_found", "provisioner.drift_ended"]
    assert (await client.get("/v1/drift")).json()["differences"] == []
    assert (await client.get("/v1/incidents", params={"tenant": tenant.tenant})).json()["incidents"] == []


async def test_drift_is_repaired_by_policy_and_confirmed_by_a_check(checking, harness, publish, log, about) -> None:
    tenant = about()
    connection = await built(publish, log, tenant)
    answer = await checking.client.post("/v1/policies", content=POLICY.format(drift="repair"), headers=YAML)
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" BYPASSRLS CONNECTION LIMIT 500')
    await log.facts("provisioner.environment_changed")
    await log.facts("provisioner.drift_ended", at_least=2)
    (role,) = await harness.as_superuser(
        "postgres", "SELECT rolbypassrls, rolconnlimit FROM pg_roles WHERE rolname = $1", connection.username
    )
    report = await replay(service(), checking.running.settings, checking.running.database)

    assert (answer.status_code, role) == (200, (False, 5))
    assert report.equal


async def test_drift_on_demand_is_proposed_and_applied_by_a_person(provisioner, harness, publish, log, about) -> None:
    tenant, client = about(), provisioner.client
    connection = await built(publish, log, tenant)
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" CONNECTION LIMIT 500')
    path = f"/v1/environments/{tenant.tenant}/drift"
    found_ = (await client.post(path)).json()["differences"]
    again = (await client.post(path)).json()["differences"]
    (request,) = await log.facts("provisioner.approval_requested")

    assert [each["observed"] for each in found_] == ["500"]
    assert again == found_
    assert [each.rule for each in request.event.reasons] == ["drift"]
    assert len(await log.facts("provisioner.drift_found")) == 1


async def test_the_incident_names_what_is_left_after_a_repair_and_an_acceptance(
    provisioner, harness, publish, log, about
) -> None:
    tenant, client = about(), provisioner.client
    connection = await built(publish, log, tenant)
    path = f"/v1/environments/{tenant.tenant}/drift"
    stray = f"environments/{tenant.tenant.removeprefix('ten_')}/old"
    await harness.secrets.put(stray, "a-value")
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" CONNECTION LIMIT 3')
    found_ = (await client.post(path)).json()["differences"]
    (first,) = (await client.get("/v1/incidents", params={"tenant": tenant.tenant})).json()["incidents"]
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" BYPASSRLS')
    await client.post(path)
    (second,) = (await client.get("/v1/incidents", params={"tenant": tenant.tenant})).json()["incidents"]
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" NOBYPASSRLS')
    await client.post(path)
    await client.post(f"{path}/{found_[0]['id']}/accept", json={"reason": "less load this month"})
    (third,) = (await client.get("/v1/incidents", params={"tenant": tenant.tenant})).json()["incidents"]
    why = (await client.get(f"/v1/why/{tenant.tenant}")).json()
    await client.post(path)

    assert [each["observed"] for each in found_] == ["3", stray]
    assert first["summary"].endswith("connection_limit is 3 instead of 5, and 1 more")
    assert second["summary"].endswith("privileges is BYPASSRLS instead of none, and 2 more")
    assert third["summary"].endswith(f"({stray}) is in no record")
    assert [each["value"] for each in third["evidence"]] == [f"secret ({stray}) is in no record"]
    assert [each["summary"] for each in why["incidents"]] == [third["summary"]]
    assert {(each["id"], each["since"]) for each in (first, second, third)} == {(first["id"], first["since"])}
    assert len(await log.facts("provisioner.incident_changed", at_least=3)) == 3


async def test_an_accepted_difference_closes_its_incident(provisioner, harness, publish, log, about) -> None:
    tenant, client = about(), provisioner.client
    connection = await built(publish, log, tenant)
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" CONNECTION LIMIT 500')
    path = f"/v1/environments/{tenant.tenant}/drift"
    (difference,) = (await client.post(path)).json()["differences"]
    before = (await client.get("/v1/incidents", params={"kind": "drift"})).json()["incidents"]
    accepted = await client.post(f"{path}/{difference['id']}/accept", json={"reason": "more load this month"})
    unknown = await client.post(f"{path}/dif_{'0' * 16}/accept", json={"reason": "none"})
    await client.post(path)
    (fact,) = await log.facts("provisioner.drift_accepted")

    assert [each["kind"] for each in before] == ["drift"]
    assert [each["accepted"] for each in accepted.json()["differences"]] == ["more load this month"]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "difference_unknown")
    assert fact.event.difference.observed == "500"
    assert (await client.get("/v1/incidents", params={"kind": "drift"})).json()["incidents"] == []
    assert len(await log.facts("provisioner.drift_found")) == 1


async def test_what_belongs_to_no_environment_is_an_incident_until_it_is_gone_or_accepted(
    checking, harness, about
) -> None:
    orphan, kept = (about().tenant.replace("ten_", "t_") for _ in range(2))
    for role in (orphan, kept):
        await harness.as_driver("postgres", f'CREATE ROLE "{role}" NOLOGIN')

    async def incidents(status="open"):
        """Returns the ids by subject, from every page: other tests leave resources on the same server."""
        found, after = dict[str, str](), None
        while True:
            params = {"kind": "unknown_resource", "status": status, "limit": 200} | ({"after": after} if after else {})
            page = (await checking.client.get("/v1/incidents", params=params)).json()
            found |= {each["subject"]: each["id"] for each in page["incidents"]}
            if (after := page["next"]) is None:
                return found

    async def has(*subjects, status="open"):
        return set(subjects) <= (await incidents(status)).keys()

    try:
        await until(lambda: has(f"role/{orphan}", f"role/{kept}"))
        id_ = (await incidents())[f"role/{kept}"]
        await checking.client.post(f"/v1/incidents/{id_}/close", json={"reason": "a test of the operators"})
        await harness.as_driver("postgres", f'DROP ROLE "{orphan}"')
        await until(lambda: has(f"role/{orphan}", f"role/{kept}", status="closed"))
        # Another check, which opens what is new, leaves the accepted one closed.
        await harness.as_driver("postgres", f'CREATE ROLE "{orphan}" NOLOGIN')
        await until(lambda: has(f"role/{orphan}"))

        assert f"role/{kept}" not in await incidents()
    finally:
        for role in (orphan, kept):
            await harness.as_driver("postgres", f'DROP ROLE IF EXISTS "{role}"')


async def test_a_page_of_the_fleet_is_checked_on_demand(provisioner, harness, publish, log, about) -> None:
    tenant = about()
    connection = await built(publish, log, tenant)
    await harness.as_superuser("postgres", f'ALTER ROLE "{connection.username}" CONNECTION LIMIT 500')
    checked = (await provisioner.client.post("/v1/drift")).json()
    listed = (await provisioner.client.get("/v1/drift")).json()
    drivers = (await provisioner.client.get("/v1/drivers")).json()

    assert checked == {"next": None}
    assert [each["tenant_id"] for each in listed["differences"]] == [tenant.tenant]
    assert drivers == {"drivers": [{"cloud": "local", "problem": None}]}
