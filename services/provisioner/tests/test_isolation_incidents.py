"""Incidents of scheduled checks name what the last check found."""

import pytest
from paybill_provisioner.app import service
from paybill_runtime.testing.waiting import until

EVERY_S = 0.3


@pytest.fixture
async def checking(start, settings):
    """Returns a service whose period is short."""
    return await start(service(), **{**settings, "isolation_every_s": EVERY_S, "isolation_trusted_s": 60})


async def test_the_incident_names_the_breaches_of_the_last_check(checking, harness, publish, log, about) -> None:
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    database, role = ready.event.connections[0].database, ready.event.connections[0].username

    async def incident():
        found = (await checking.client.get("/v1/incidents", params={"kind": "isolation_breach"})).json()["incidents"]
        return found[0] if found else None

    async def is_about(*parts):
        found = await incident()
        return found is not None and all(each in found["summary"] for each in parts)

    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" BYPASSRLS')
    await until(lambda: is_about(role, "BYPASSRLS"))
    await harness.as_superuser(database, "CREATE PUBLICATION everything FOR TABLE product.documents")
    await harness.as_superuser(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
    await harness.as_superuser("postgres", f'ALTER ROLE "{role}" NOBYPASSRLS')
    await until(lambda: is_about("everything: a publication of postgres, and 1 more"))
    shown = await incident()
    await harness.as_superuser(database, "DROP PUBLICATION everything")
    await harness.as_superuser(database, "ALTER TABLE product.documents FORCE ROW LEVEL SECURITY")
    await log.facts("provisioner.isolation_restored")

    assert [each["name"] for each in shown["evidence"]] == ["publications", "row_level_security"]
    assert role not in str(shown)


async def test_a_right_that_the_driver_lost_is_an_incident_until_it_is_back(checking, harness) -> None:
    async def problems():
        answer = await checking.client.get("/v1/incidents", params={"kind": "driver_problem"})
        return [each["summary"] for each in answer.json()["incidents"]]

    await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver NOCREATEDB")
    try:
        found = await until(problems)
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver CREATEDB NOCREATEROLE")
        await until(lambda: _names("CREATEROLE", problems()))
    finally:
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver CREATEDB CREATEROLE")
    await until(lambda: _is_empty(problems()))

    assert found == [
        "the driver local cannot work: the role of the driver has no CREATEDB; as a superuser, ALTER ROLE it"
    ]


async def _names(right, found) -> bool:
    return [right in each for each in await found] == [True]


async def _is_empty(found) -> bool:
    return not await found
