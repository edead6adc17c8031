"""Tenants cancelled during their build: it stops, what exists is exported, and a purge deletes it all."""

import asyncio
import gzip
from datetime import UTC, datetime
from typing import Any

import pytest
from approval_samples import policy
from driver_harness import DRIVER
from environment_samples import LEAVES, after
from paybill_contracts.environment_plans import EnvironmentReady, Resource, ResourceBuilt
from paybill_contracts.placement import Preset
from paybill_contracts.policy import Handling
from paybill_contracts.provisioner import Access, EnvironmentFailed
from paybill_contracts.tenant_lifecycle import PurgeStarted
from paybill_provisioner.domain import access, building, purging
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.steps import is_shared
from paybill_provisioner.drivers import Done, Result, Site
from paybill_provisioner.drivers.local import LocalDriver
from paybill_provisioner.drivers.server import TenantServer
from paybill_provisioner.execution import CHECK_AFTER_S, Execution
from schedules import service_on

NOW = datetime(2027, 1, 1, tzinfo=UTC)
UNATTENDED = PlanInputs(published_policy=policy(deletes=Handling.UNATTENDED))


async def built_up_to(harness: Any, environment: Environment, count: int) -> Environment:
    """Applies the first steps of the plan. The next one has begun, and its end is in no record."""
    for number, step in enumerate(environment.remaining[: count + 1]):
        assert step.after is not None
        site = Site(environment, environment.known_resources, environment.outputs)
        done = await harness.driver.create(step.after, site, "token")
        assert isinstance(done, Done)
        if number < count:
            progress = Progress(built={step.address: done.outputs})
            environment = after(
                environment, building.progress_recorded(environment, environment.plan_hash or "", progress)
            )
    return environment


async def purged(harness: Any, environment: Environment) -> Environment:
    """Applies the plan of the purge, and records the certificate by what the driver reads back."""
    fact = PurgeStarted(tenant_id=environment.tenant_id, expected_by=NOW)
    environment = after(environment, purging.on_purge_started(environment, fact, UNATTENDED, NOW))
    execution = Execution(harness.driver, environment, "job")
    async for progress in execution.run():
        events = building.progress_recorded(environment, environment.plan_hash or "", progress)
        environment = after(environment, events)
    assert environment.purge is not None
    site = Site(environment, environment.known_resources, environment.outputs)
    found = [(each, await harness.driver.absence(each, site)) for each in environment.purge.removed]
    absences = [purging.absence(each, how, NOW) for each, how in found if how is not None]
    assert len(absences) == len(environment.purge.removed)
    return after(environment, purging.purged(environment, absences, None, NOW))


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("preset", list(Preset))
async def test_what_exists_of_a_half_built_environment_is_exported_and_purged(harness, preset, count) -> None:
    await harness.ready(preset)
    environment = await built_up_to(harness, harness.planned(preset), count)
    number = environment.tenant_id.removeprefix("ten_")
    left = after(environment, access.on_tenant_left(environment, LEAVES))
    await harness.driver.set_access(left, Access.CLOSED)
    export = await harness.driver.export(left)
    retained = after(left, access.retained(left, export))
    gone = await purged(harness, retained)
    roles = await harness.as_superuser("postgres", "SELECT 1 FROM pg_roles WHERE strpos(rolname, $1) > 0", number)
    databases = await harness.as_superuser(
        "postgres", "SELECT 1 FROM pg_database WHERE strpos(datname, $1) > 0", number
    )

    assert (left.status, retained.status, gone.status) == (Status.RETAINING, Status.RETAINED, Status.PURGED)
    assert gzip.decompress((harness.directory / export.location).read_bytes()) == b""
    assert (roles, databases) == ([], [])
    assert list(harness.directory.glob(f"tenants/**/*{number}*")) == []
    assert all(is_shared(each.resource) for each in gone.built)
    assert (gone.replaced, gone.cells) == ((), frozenset())


async def test_the_first_tenant_of_a_pool_that_has_no_tables_yet_is_purged(harness) -> None:
    environment = await built_up_to(harness, harness.planned(Preset.POOLED), 2)
    left = after(environment, access.on_tenant_left(environment, LEAVES))
    retained = after(left, access.retained(left, await harness.driver.export(left)))

    assert {each.resource.address for each in environment.built} < set(environment.resources)
    assert (await purged(harness, retained)).status is Status.PURGED


async def test_a_build_stops_at_the_next_step_when_its_tenant_leaves(harness) -> None:
    environment, allowed = harness.planned(Preset.SILO), [True]
    create = harness.driver.create

    class SlowDriver(LocalDriver):
        """Local driver whose creations last until the executor checks again."""

        async def create(self, resource: Resource, site: Site, token: str) -> Result:
            await asyncio.sleep(CHECK_AFTER_S)
            return await create(resource, site, token)

    async def may_begin() -> bool:
        return allowed[0]

    slow = SlowDriver(harness.driver._server, harness.directory, harness.secrets)
    execution = Execution(slow, environment, "job", may_begin)
    async for progress in execution.run():
        allowed[0] = False
        environment = after(environment, building.progress_recorded(environment, environment.plan_hash or "", progress))
    left = after(environment, access.on_tenant_left(environment, LEAVES))

    assert environment.remaining
    assert not execution.is_complete
    assert left.status is Status.RETAINING
    assert (
        await purged(harness, after(left, access.retained(left, await harness.driver.export(left))))
    ).cells == frozenset()


@pytest.mark.parametrize("preset", list(Preset))
async def test_a_cancellation_stops_the_running_build_at_the_next_step_and_exports_what_exists(
    start, settings, harness, publish, log, about, preset
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    class GatedDriver(LocalDriver):
        """Local driver whose creation of a schema lasts until the test allows its end."""

        async def create(self, resource: Resource, site: Site, token: str) -> Result:
            if resource.kind == "schema":
                begun.set()
                await may_end.wait()
                await asyncio.sleep(CHECK_AFTER_S)
            return await super().create(resource, site, token)

    password = harness.postgres.password(DRIVER)
    server = TenantServer(harness.postgres.url(DRIVER, "postgres"), password)
    gated = GatedDriver(server, harness.directory, harness.secrets)
    served = await start(service_on(gated), **settings)
    tenant = about(preset)
    await publish(tenant.requested, tenant.entitled)
    await begun.wait()
    await publish(tenant.leaves)
    await log.facts("provisioner.retention_started")
    may_end.set()
    (retained,) = await log.facts("provisioner.environment_retained")
    facts = [each.event for each in await log.facts() if each.event.tenant == tenant.tenant]
    built = {each.address for event in facts if isinstance(event, ResourceBuilt) for each in event.resources}
    logins = await harness.as_superuser(
        "postgres", "SELECT 1 FROM pg_roles WHERE strpos(rolname, $1) > 0", tenant.tenant.removeprefix("ten_")
    )
    shown = (await served.client.get(f"/v1/environments/{tenant.tenant}")).json()
    await served.running.__aexit__()
    await gated.close()

    assert built == {"secret.database", "bucket.data", "database.main", "schema.main"}
    assert logins == []
    assert shown["status"] == "retained"
    assert not any(isinstance(event, EnvironmentReady | EnvironmentFailed) for event in facts)
    export = retained.event.export
    assert (export.rows, gzip.decompress((harness.directory / export.location).read_bytes())) == (0, b"")
