"""Waits for a server or a disk that refuses: shown with its message, and continued by itself (faults 12, 16, 17)."""

import errno
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from driver_harness import DRIVER
from paybill_contracts.placement import Preset
from paybill_provisioner.api.waits import may_be_unsettled
from paybill_provisioner.domain.policy import SAFE
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_provisioner.tables import ENVIRONMENTS
from paybill_runtime.http.listing import load_page
from paybill_runtime.jobs.kinds import RetryAfter
from paybill_runtime.testing.waiting import until

ERRORS = {
    "53100": asyncpg.DiskFullError,
    "53200": asyncpg.OutOfMemoryError,
    "25006": asyncpg.ReadOnlySQLTransactionError,
    "55P03": asyncpg.LockNotAvailableError,
    "40P01": asyncpg.DeadlockDetectedError,
}
TIMES = 6
# What a transaction has written is gone after the error; a sequence keeps its value.
REFUSE = f"""
CREATE SCHEMA faults;
SET search_path = faults;
CREATE TABLE faults (state text, tenant text, raised regclass);
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = faults AS $$
DECLARE
    fault faults;
BEGIN
    SELECT f.* INTO fault FROM pg_event_trigger_ddl_commands() AS c JOIN faults AS f
    ON position(f.tenant in c.object_identity) > 0 WHERE c.command_tag = 'CREATE SCHEMA';
    IF FOUND AND nextval(fault.raised) <= {TIMES} THEN
        RAISE EXCEPTION 'refused by the test' USING ERRCODE = fault.state;
    END IF;
END $$;
CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse();
"""


async def script(harness: Any, database: str, statements: str) -> None:
    """Runs statements as the superuser of the server."""
    url, password = harness.postgres.url("postgres", database), harness.postgres.password("postgres")
    connection = await asyncpg.connect(url, password=password)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def shown(provisioner: Any, tenant: SimpleNamespace) -> dict[str, Any]:
    return dict((await provisioner.client.get(f"/v1/environments/{tenant.tenant}")).json())


async def unsettled(provisioner: Any) -> dict[str, Any]:
    """Returns what doctor reads, by tenant."""
    page = (await provisioner.client.get("/v1/environments", params={"unsettled": "true"})).json()
    return {each["tenant_id"]: each["unsettled"] for each in page["environments"]}


async def wait_of(provisioner: Any, tenant: SimpleNamespace) -> dict[str, Any]:
    async def wait() -> Any:
        return (await shown(provisioner, tenant)).get("wait")  # the tenant is unknown at first

    return dict(await until(wait))


@pytest.mark.e2e
async def test_a_server_that_refuses_six_times_is_waited_for_and_shown(
    provisioner, harness, publish, log, about
) -> None:
    """Before, the build failed after its sixth attempt, in 31 s, and each tenant needed a retry by hand."""
    first = about(Preset.BRIDGE)
    await publish(first.requested, first.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    database = ready.event.connections[0].database
    tenants = {state: about(Preset.BRIDGE) for state in ERRORS}
    await script(harness, database, REFUSE)
    for state, tenant in tenants.items():
        name, number = f"raised_{state.lower()}", tenant.tenant.removeprefix("ten_")
        await script(
            harness,
            database,
            f"SET search_path = faults; CREATE SEQUENCE {name};"
            f"INSERT INTO faults VALUES ('{state}', '{number}', '{name}')",
        )
        await publish(tenant.requested, tenant.entitled)
    for state, tenant in tenants.items():
        wait = await wait_of(provisioner, tenant)
        why = (await provisioner.client.get(f"/v1/why/{tenant.tenant}")).json()
        found = (await unsettled(provisioner))[tenant.tenant]

        assert (wait["kind"], wait["step"]) == ("build", "schema.main")
        assert f"refuses: refused by the test ({state})" in wait["reason"]
        assert (found["reason"], found["is_problem"]) == ("waits", True)
        assert found["command"] == f"paybill jobs retry {wait['job']}"
        assert found["text"].startswith("schema.main waits, tried ")
        assert wait["tries"] >= 1
        assert why["environment"]["unsettled"]["reason"] == "waits"
        assert why["environment"]["status"] == "building"

    built = await log.facts("provisioner.environment_ready", at_least=len(ERRORS) + 1, timeout_s=120)
    raised = [
        await harness.as_superuser(database, f"SELECT last_value FROM faults.raised_{state.lower()}")
        for state in ERRORS
    ]

    assert {fact.event.tenant_id for fact in built} == {first.tenant, *(each.tenant for each in tenants.values())}
    assert [row for ((row,),) in raised] == [TIMES + 1] * len(ERRORS)
    assert await unsettled(provisioner) == {}


async def test_a_pool_without_row_level_security_is_repaired_and_built_by_a_retry(
    provisioner, harness, publish, log, about
) -> None:
    first, second = about(), about()
    await publish(first.requested, first.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    database = ready.event.connections[0].database
    await harness.as_driver(database, "ALTER TABLE product.documents DISABLE ROW LEVEL SECURITY")
    await publish(second.requested, second.entitled)
    await log.facts("provisioner.environment_failed")
    failed = (await unsettled(provisioner))[second.tenant]
    await harness.as_driver(database, "ALTER TABLE product.documents ENABLE ROW LEVEL SECURITY")
    slug = (await shown(provisioner, second))["slug"]
    await provisioner.client.post(f"/v1/environments/{second.tenant}/retry")
    await log.facts("provisioner.environment_ready", at_least=2)
    counts = (await provisioner.client.get("/v1/operations")).json()

    assert (failed["reason"], failed["is_problem"]) == ("failed", True)
    assert failed["command"] == f"paybill environment retry {slug}"
    assert "not isolated in documents" in failed["text"]
    assert await unsettled(provisioner) == {}
    assert (counts["effects_failed"], counts["jobs_failing"]) == (0, 0)


async def test_a_driver_that_lost_its_rights_is_waited_for_and_continues_when_they_are_back(
    provisioner, harness, publish, log, about
) -> None:
    tenant = about(Preset.SILO)
    await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver NOCREATEDB NOCREATEROLE")
    try:
        await publish(tenant.requested, tenant.entitled)
        wait = await wait_of(provisioner, tenant)
        found = (await unsettled(provisioner))[tenant.tenant]
        environment = await shown(provisioner, tenant)
        now, late = datetime.now(UTC), datetime.now(UTC) + timedelta(seconds=SAFE.change_within_s)
        context = provisioner.running.context
        by_time = [
            await load_page(context, ENVIRONMENTS, None, 9, may_be_unsettled({}, SAFE, at)) for at in (now, late)
        ]
    finally:
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver CREATEDB CREATEROLE")
    await log.facts("provisioner.environment_ready")

    assert environment["status"] == "building"
    assert [[each.tenant_id for each in page] for page, _ in by_time] == [[], [tenant.tenant]]
    assert "permission denied to create database (42501)" in wait["reason"]
    assert (found["reason"], found["is_problem"]) == ("waits", True)
    assert "permission denied" in found["text"]
    assert await unsettled(provisioner) == {}


async def test_a_build_whose_job_is_cancelled_has_failed_and_can_be_retried(
    provisioner, harness, publish, log, about
) -> None:
    """Before, it was `building` without a reason, and a retry had no effect."""
    tenant = about(Preset.SILO)
    await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver NOCREATEDB")
    try:
        await publish(tenant.requested, tenant.entitled)
        wait = await wait_of(provisioner, tenant)
        cancelled = await provisioner.client.post(
            f"/v1/operations/jobs/{wait['job']}/cancel", json={"reason": "wrong tier"}
        )
        (failed,) = await log.facts("provisioner.environment_failed")
        environment = await shown(provisioner, tenant)
        found = (await unsettled(provisioner))[tenant.tenant]
        why = (await provisioner.client.get(f"/v1/why/{tenant.tenant}")).json()
    finally:
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver CREATEDB")
    await provisioner.client.post(f"/v1/environments/{tenant.tenant}/retry")
    await log.facts("provisioner.environment_ready")
    # The plan of a job that is taken back later is not the current one, and it changes nothing.
    again = await provisioner.client.post(f"/v1/operations/jobs/{wait['job']}/retry")
    await until(lambda: _is_done(provisioner, wait["job"]))

    assert cancelled.json()["state"] == "cancelled"
    assert failed.event.reason.endswith("cancelled its job: wrong tier")
    assert (environment["status"], environment["wait"]) == ("failed", None)
    assert (found["reason"], found["is_problem"]) == ("failed", True)
    assert found["command"] == f"paybill environment retry {environment['slug']}"
    assert "cancelled its job: wrong tier" in why["environment"]["failure"]
    assert again.status_code == 200
    assert (await shown(provisioner, tenant))["status"] == "ready"
    assert await unsettled(provisioner) == {}


async def _is_done(provisioner: Any, job: str) -> bool:
    return bool((await provisioner.client.get(f"/v1/operations/jobs/{job}")).json()["state"] == "done")


@pytest.mark.parametrize(
    ("preset", "foreign"),
    [(Preset.SILO, 'DATABASE "silo_{number}"'), (Preset.BRIDGE, 'SCHEMA "t_{number}"')],
)
async def test_a_name_that_belongs_to_somebody_else_fails_at_once_and_what_is_desired_is_planned(
    provisioner, harness, publish, log, about, preset, foreign
) -> None:
    """Before, `must be owner of database` was waited for, and another plan of the subscription was never planned."""
    first, tenant = about(preset), about(preset)
    await publish(first.requested, first.entitled)
    (ready,) = await log.facts("provisioner.environment_ready")
    number = tenant.tenant.removeprefix("ten_")
    database = ready.event.connections[0].database if preset is Preset.BRIDGE else "postgres"
    await harness.as_superuser(database, f"CREATE {foreign.format(number=number)}")
    try:
        await publish(tenant.requested, tenant.entitled)
        (failed,) = await log.facts("provisioner.environment_failed")
        pooled = about(Preset.POOLED).entitled.model_copy(
            update={"tenant_id": tenant.tenant, "entitlements_hash": "cd" * 32}
        )
        await publish(pooled)
        await log.facts("provisioner.environment_ready", at_least=2)
    finally:  # a database that is not the driver's is open to every login of the server
        await harness.as_superuser(database, f"DROP {foreign.format(number=number)}")

    assert "exists and belongs to postgres; rename or remove it, then retry" in failed.event.reason
    assert (await shown(provisioner, tenant))["preset"] == "pooled"


async def test_a_plan_that_waits_is_replaced_by_what_is_desired_now(provisioner, harness, publish, log, about) -> None:
    tenant = about(Preset.SILO)
    pooled = about(Preset.POOLED).entitled.model_copy(
        update={"tenant_id": tenant.tenant, "entitlements_hash": "cd" * 32}
    )
    await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver NOCREATEDB")
    try:
        await publish(tenant.requested, tenant.entitled)
        await wait_of(provisioner, tenant)
        await provisioner.client.post(f"/v1/environments/{tenant.tenant}/retry")
        unchanged = await shown(provisioner, tenant)
        await publish(pooled)
        await log.facts("provisioner.environment_desired")
        found = (await unsettled(provisioner))[tenant.tenant]
        retried = await provisioner.client.post(f"/v1/environments/{tenant.tenant}/retry")
    finally:
        await harness.as_superuser("postgres", "ALTER ROLE provisioner_driver CREATEDB")
    job = (await shown(provisioner, tenant))["wait"]
    if job is not None:
        await provisioner.client.post(f"/v1/operations/jobs/{job['job']}/retry")
    await log.facts("provisioner.environment_ready")

    assert (unchanged["preset"], unchanged["status"]) == ("silo", "building")
    assert found["command"] == f"paybill environment retry {unchanged['slug']}"
    assert "is entitled by now" in found["text"]
    assert (retried.json()["status"], retried.json()["preset"]) == ("building", "pooled")
    assert (await shown(provisioner, tenant))["preset"] == "pooled"
    assert await unsettled(provisioner) == {}


class FullDisk:
    """A secret store on a disk without room."""

    async def latest(self, _: str) -> None:
        """Returns no version."""

    async def put(self, *_: Any) -> str:
        """Raises the error of the operating system."""
        raise OSError(errno.ENOSPC, "No space left on device", "/secrets")


async def test_a_full_disk_is_waited_for(harness) -> None:
    environment = harness.planned(Preset.SILO)
    server = TenantServer(harness.postgres.url(DRIVER, "postgres"), harness.postgres.password(DRIVER))
    driver = LocalDriver(server, harness.directory, FullDisk())
    secret = environment.resources["secret.database"]

    with pytest.raises(RetryAfter, match="No space left on device") as waits:
        await driver.create(secret, SimpleNamespace(), "token")

    assert waits.value.after_s is None
