"""Random schedules of faults and crashes end converged or cleanly failed, without orphans and with nothing built twice.

PAYBILL_TEST_SCHEDULES is their number (default 100), PAYBILL_TEST_SCHEDULES_SEED repeats a run, whose seed is printed.
"""

import asyncio
import faulthandler
import os
import secrets
from random import Random

import pytest
from blueprint_samples import blueprint_text
from fake_cloud import SETTLED_AFTER_S, Cloud, CloudDriver, Fault
from paybill_contracts.placement import Preset
from paybill_contracts.policy import AfterFailure
from paybill_provisioner.domain.environment_state import Status
from paybill_runtime.testing import until
from schedules import UNATTENDED, Process, Schedule, faults_of, pause, problems, service_on
from test_purge_service import purge_of

SCHEDULES = int(os.environ.get("PAYBILL_TEST_SCHEDULES", "100"))
SEED = int(os.environ.get("PAYBILL_TEST_SCHEDULES_SEED", "0")) or secrets.randbelow(2**32)
MANY = 100
GROUP = 10
CRASHES = 3
BLUEPRINTS = 0.5
"""Share of the rounds that publish a blueprint, which changes every login in place."""


async def run(number, driver, begin, publish, about, region) -> list[str]:
    """Runs a group of schedules in one process that crashes; returns what is wrong at the end."""
    random, cloud = Random(f"{SEED}/{number}"), driver.cloud  # a test, repeated by its seed
    schedules = [
        Schedule(about(random.choice(list(Preset))), Random(f"{SEED}/{number}/{index}"))  # as above
        for index in range(GROUP)
    ]
    cloud.faults = faults_of(schedules)
    process: Process = await begin(driver)
    after_failure = list(AfterFailure)[number % 2]
    await process.publish_policy(UNATTENDED.model_copy(update={"after_failure": after_failure, "version": number + 2}))
    for each in schedules:
        await publish(each.tenant.requested, each.tenant.entitled)
    first = 2 + CRASHES * number  # all groups have one database
    for version in range(first, first + random.randint(1, CRASHES)):
        await pause(random)
        if random.random() < BLUEPRINTS:
            limit = f"connection_limit: {5 + version}"
            await process.publish_blueprint(blueprint_text(region, version).replace("connection_limit: 5", limit))
        for each in random.sample(schedules, GROUP // 2):
            await publish(*each.next_facts(about))
            await process.check_drift(each.id)
        await pause(random)
        await process.crash()
        await process.begin()

    found: list[str] = []
    await process.handled()
    for each in schedules:
        environment = await process.settled(each.id, Status.READY, Status.FAILED, or_paused=not each.open)
        found += [f"{each.id}: {problem}" for problem in problems(environment, cloud, is_open=each.open)]
        each.faults = 0
    await publish(*(each.tenant.reactivated for each in schedules if not each.open))
    await process.handled()
    for each in schedules:
        # A deletion of what a failed plan had built, which was paused, ends with the failure.
        await process.settled(each.id, Status.READY, Status.FAILED)
        await process.retry(each.id)
    for each in schedules:
        # A call that had begun can still fail although the provider works now.
        while (await process.settled(each.id, Status.READY, Status.FAILED)).status is Status.FAILED:
            await process.retry(each.id)
        await process.check_drift(each.id)
        environment = await process.settled(each.id, Status.READY)
        left = problems(environment, cloud, is_open=True, is_checked=True)
        found += [f"{each.id} after its retry: {problem}" for problem in left]
        each.faults = 3
        await publish(each.tenant.leaves)
    for each in schedules:
        await process.settled(each.id, Status.RETAINED)
        await publish(purge_of(each.tenant))
    await pause(random)
    await process.crash()
    await process.begin()
    for each in schedules:
        while (await process.settled(each.id, Status.PURGED, Status.PURGING)).status is Status.PURGING:
            await process.retry(each.id)
    await asyncio.sleep(2 * SETTLED_AFTER_S)
    found += [f"{each.id} has left {left}" for each in schedules if (left := cloud.of(each.id))]
    await process.crash()
    return found


@pytest.fixture
async def begin(start, settings, databases):
    """Returns the process of a driver, on the database of the test."""
    url = await databases.fresh("provisioner")

    async def begun(driver) -> Process:
        process = Process(start, service_on(driver), settings, url, driver)
        await process.begin()
        return process

    return begun


@pytest.mark.e2e
async def test_random_schedules_end_converged_or_cleanly_failed(begin, publish, about, harness) -> None:
    if SCHEDULES > MANY:
        faulthandler.cancel_dump_traceback_later()  # the watch of a test that hangs
    print(f"PAYBILL_TEST_SCHEDULES_SEED={SEED} PAYBILL_TEST_SCHEDULES={SCHEDULES}")  # noqa: T201  # the record
    found: list[str] = []
    for number in range(max(SCHEDULES // GROUP, 1)):
        driver = CloudDriver(Cloud())
        found += await run(number, driver, begin, publish, about, harness.region)

    assert found == []


class CreatesWithoutFind(CloudDriver):
    """A driver with a planted fault: its search finds nothing, as if nobody had written it."""

    async def find(self, resource, site):
        await super().find(resource, site)


async def test_a_driver_that_creates_without_a_search_is_caught(begin, publish, about) -> None:
    process = await begin(driver := CreatesWithoutFind(Cloud()))
    driver.cloud.faults = lambda call: Fault.LOST if (call.method, call.kind) == ("create", "bucket") else Fault.NONE
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    failed = await process.settled(tenant.tenant, Status.FAILED)

    assert any("exists 6 times" in each for each in problems(failed, driver.cloud, is_open=True))


async def test_what_a_failed_deletion_may_have_deleted_is_created_again(begin, publish, about) -> None:
    process = await begin(driver := CloudDriver(Cloud()))
    await process.publish_policy(UNATTENDED.model_copy(update={"after_failure": AfterFailure.COMPENSATE}))
    faults = {("create", "role"): [Fault.REFUSED], ("delete", "bucket"): [Fault.LATE, Fault.REFUSED]}
    driver.cloud.faults = once_each(faults)
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    await until(lambda: _is_empty(faults))
    await process.settled(tenant.tenant, Status.FAILED)
    await process.retry(tenant.tenant)
    ready = await process.settled(tenant.tenant, Status.READY)
    await until(lambda: _is_settled(driver.cloud))

    assert problems(ready, driver.cloud, is_open=True) == []


async def test_what_a_failed_update_may_have_changed_is_set_again(begin, publish, about, harness) -> None:
    process = await begin(driver := CloudDriver(Cloud()))
    tenant = about()
    await publish(tenant.requested, tenant.entitled)
    await process.settled(tenant.tenant, Status.READY)
    faults = {("update", "role"): [Fault.LATE, Fault.REFUSED]}
    driver.cloud.faults = once_each(faults)
    text = blueprint_text(harness.region, 2)
    await process.publish_blueprint(text.replace("connection_limit: 5", "connection_limit: 9"))
    await until(lambda: _is_empty(faults))
    await process.settled(tenant.tenant, Status.READY)
    await process.publish_blueprint(text.replace("version: 2", "version: 3"))
    await until(lambda: _is_settled(driver.cloud))
    await until(lambda: _is_planned_by(process, tenant, 3))
    ready = await process.settled(tenant.tenant, Status.READY)

    assert ready.failure is None
    assert ready.unconfirmed == ()
    assert problems(ready, driver.cloud, is_open=True) == []


def once_each(faults):
    """Returns the faults of calls by method and kind, each once in its order; it removes those that have happened."""

    def fault(call):
        left = faults.get((call.method, call.kind), [])
        found = left.pop(0) if left else Fault.NONE
        if not left:
            faults.pop((call.method, call.kind), None)
        return found

    return fault


async def _is_empty(faults) -> bool:
    return not faults


async def _is_settled(cloud) -> bool:
    cloud.settle()
    return not cloud.is_working


async def _is_planned_by(process, tenant, version) -> bool:
    environment = await process.environment(tenant.tenant)
    return environment.plan.blueprint.version == version
