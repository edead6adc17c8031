"""Driver suite: what every driver does, on the local driver and on a cloud in memory."""

import asyncio
from dataclasses import replace

import pytest
from blueprint_samples import blueprint_of, tier_blueprint
from driver_suite_harnesses import CloudSuiteHarness, LocalSuiteHarness, LosesAnswer, found
from environment_samples import after
from paybill_contracts.environment_plans import Step, StepAction
from paybill_contracts.placement import Preset
from paybill_definitions.resources import Values, render
from paybill_provisioner.domain import access, building
from paybill_provisioner.domain.drift import differences
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.steps import diff, is_shared
from paybill_provisioner.drivers import Scope, Site
from paybill_provisioner.execution import Execution, StepError
from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter

PRESETS = list(Preset)


@pytest.fixture(params=["local", "cloud"])
async def provider(request, harness):
    """Returns a provider, and the plans of tenants in a region of this test."""
    if request.param == "cloud":
        yield CloudSuiteHarness()
        return
    local = LocalSuiteHarness(harness)
    yield local
    for driver in local.drivers:
        await driver.close()


def rendered(environment, preset, limit=5):
    tier = tier_blueprint("any", preset, limit)
    content = blueprint_of(tier, regions=(environment.region,))
    cells = {} if preset is Preset.SILO else {tier.layers.data: 1}
    values = Values(environment.tenant_id, environment.slug, environment.region, {}, cells)
    return list(render(content, tier, values))


def towards(environment: Environment, target) -> Environment:
    """Returns the environment with a plan from what exists to `target`."""
    steps = diff(target, [each.resource for each in environment.built], environment.replaced)
    return with_steps(environment, steps)


def with_steps(environment: Environment, steps) -> Environment:
    assert environment.plan is not None
    plan = environment.plan.model_copy(update={"steps": tuple(steps)})
    return replace(environment, plan=plan, status=Status.CHANGING if environment.epoch else environment.status)


async def attempt(driver, environment: Environment) -> tuple[Environment, float | None]:
    """Applies the plan once, and returns the environment with what was recorded, and when to try again."""
    execution = Execution(driver, environment, "job")
    try:
        async for progress in execution.run():
            events = building.progress_recorded(environment, environment.plan_hash or "", progress)
            environment = after(environment, events)
    except (StepError, RetryAfter):
        return environment, 0.01
    return environment, execution.check_after_s


async def applied(driver, environment: Environment) -> Environment:
    """Applies the plan as the job does until nothing of it remains, then sets the access."""
    async with asyncio.timeout(60):
        while environment.remaining:
            environment, again_s = await attempt(driver, environment)
            await asyncio.sleep(again_s or 0)
    await driver.set_access(environment, environment.target_access)
    return after(environment, access.access_changed(environment, environment.target_access))


def new(harness, preset=Preset.SILO) -> Environment:
    return harness.planned(preset)


def site_of(environment: Environment) -> Site:
    return Site(environment, environment.known_resources, environment.outputs)


def own(environment: Environment):
    return {(each.resource.kind, each.resource.identity) for each in environment.built if is_own(each.resource)}


def is_own(resource) -> bool:
    # The schema of a pool is in no tag of the tenant: its rows are.
    return not is_shared(resource) and not (resource.kind == "schema" and resource.isolation == "pool")


async def observed(driver, environment: Environment):
    return [each async for page in driver.observe(Scope.of(environment.tenant_id)) for each in page]


@pytest.mark.parametrize("preset", PRESETS)
async def test_what_is_created_is_found_with_the_same_outputs_and_observed_without_a_difference(
    provider, harness, preset
) -> None:
    environment = await applied(provider.driver, new(harness, preset))
    other = await provider.new_driver()
    site = site_of(environment)
    read = {each.resource.address: found(await other.find(each.resource, site)) for each in environment.built}

    assert read == {each.resource.address: each.outputs for each in environment.built}
    assert differences(environment, await observed(other, environment)) == []


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_repeated_creation_makes_nothing_twice(provider, harness, preset) -> None:
    planned = new(harness, preset)
    environment = await applied(provider.driver, planned)
    before = await provider.existing(environment)
    again = await applied(await provider.new_driver(), planned)

    assert again.outputs == environment.outputs
    assert await provider.existing(environment) == before
    assert set(before.values()) == {1}
    assert own(environment) <= before.keys()


async def test_a_change_in_place_keeps_the_resource(provider, harness) -> None:
    environment = await applied(provider.driver, new(harness))
    before = await provider.existing(environment)
    changed = await applied(provider.driver, towards(environment, rendered(environment, Preset.SILO, 9)))
    limits = {
        each.attributes["connection_limit"] for each in await observed(provider.driver, changed) if is_login(each)
    }

    assert limits == {"9"}
    assert await provider.existing(changed) == before
    assert changed.outputs == environment.outputs


async def test_a_replacement_leaves_nothing_of_what_it_replaced(provider, harness) -> None:
    environment = await applied(provider.driver, new(harness))
    replaced = await applied(provider.driver, towards(environment, rendered(environment, Preset.BRIDGE)))
    there = await provider.existing(replaced)

    assert (replaced.replaced, replaced.status) == ((), Status.READY)
    assert set(there) == own(replaced)
    assert own(environment) & there.keys() == {("role", login_of(replaced)), ("secret", secret_of(replaced))}
    assert differences(replaced, await observed(provider.driver, replaced)) == []


async def test_what_exists_is_adopted(provider, harness) -> None:
    planned = new(harness)
    environment = await applied(provider.driver, planned)
    adopts = [Step(action=StepAction.ADOPT, before=None, after=step.after) for step in planned.remaining]
    driver = LosesAnswer(await provider.new_driver())
    adopted = await applied(driver, with_steps(planned, adopts))

    assert driver.calls == []
    assert adopted.outputs == environment.outputs


async def test_a_throttled_call_waits_and_changes_nothing(provider, harness) -> None:
    planned = new(harness)
    async with provider.throttled() as driver:
        with pytest.raises(RetryAfter):
            async for _ in Execution(driver, planned, "job").run():
                pass
    environment = await applied(driver, planned)

    assert set((await provider.existing(environment)).values()) == {1}


@pytest.mark.parametrize("lost", range(5))
async def test_a_plan_that_failed_half_way_is_resumed_although_the_last_effect_is_in_no_record(
    provider, harness, lost
) -> None:
    halfway, _ = await attempt(LosesAnswer(provider.driver, lost), new(harness))
    environment = await applied(await provider.new_driver(), halfway)

    assert len(halfway.built) < 5
    assert environment.status is Status.READY
    assert set((await provider.existing(environment)).values()) == {1}
    assert differences(environment, await observed(provider.driver, environment)) == []


@pytest.mark.parametrize("lost", range(5))
async def test_a_plan_that_failed_half_way_is_deleted_with_what_is_in_no_record(provider, harness, lost) -> None:
    halfway, _ = await attempt(LosesAnswer(provider.driver, lost), new(harness))
    failed = after(halfway, building.build_failed(halfway, halfway.plan_hash or "", "it failed"))
    deleted = await applied(await provider.new_driver(), towards(failed, []))

    assert (deleted.built, deleted.replaced) == ((), ())
    assert await provider.existing(deleted) == {}


async def test_a_pending_creation_is_continued_by_its_reference(provider, harness) -> None:
    slow = provider.slow()
    if slow is None:
        with pytest.raises(Refused, match="no operation"):
            await provider.driver.poll("op-1")
        return
    async with slow as driver:
        pending, again_s = await attempt(driver, new(harness))
        environment = await applied(await provider.new_driver(), pending)

    assert again_s
    assert pending.operations
    assert set((await provider.existing(environment)).values()) == {1}
    assert not environment.operations


@pytest.mark.parametrize("preset", PRESETS)
async def test_resources_are_deleted_in_order_and_their_absence_is_observed(provider, harness, preset) -> None:
    environment = await applied(provider.driver, new(harness, preset))
    needs = {each.resource.address: each.resource.needs for each in environment.built}
    site, resources = (
        site_of(environment),
        [each.resource for each in environment.built if not is_shared(each.resource)],
    )
    before = [await provider.driver.absence(each, site) for each in resources if is_own(each)]
    driver = LosesAnswer(provider.driver)
    deleted = await applied(driver, towards(environment, []))
    order = [call.name for call in driver.calls]
    site = site_of(replace(deleted, replaced=tuple(resources)))
    read = [await provider.driver.absence(each, site) for each in resources]

    assert all(
        order.index(address) < order.index(need) for address in order for need in needs[address] if need in order
    )
    assert set(before) == {None}
    assert all(read)
    assert await provider.existing(deleted) == {}
    assert differences(replace(deleted, status=Status.PURGED), await observed(provider.driver, deleted)) == []


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_deletion_of_a_tenant_leaves_its_neighbour(provider, harness, preset) -> None:
    tenant, neighbour = [await applied(provider.driver, new(harness, preset)) for _ in range(2)]
    before = await provider.existing(neighbour)
    tags = {each.tenant_id for each in await observed(provider.driver, tenant)} - {None}
    await applied(provider.driver, towards(tenant, []))

    assert tags == {tenant.tenant_id}
    assert await provider.existing(neighbour) == before
    assert differences(neighbour, await observed(provider.driver, neighbour)) == []


async def test_a_create_of_a_unique_name_that_is_under_way_has_no_effect_after_its_deletion(provider, harness) -> None:
    planned = new(harness)
    address, creating = await provider.create_under_way(planned)
    site = site_of(planned)
    await provider.driver.delete(site.resources[address], site)
    await asyncio.gather(creating, return_exceptions=True)

    assert await provider.driver.absence(site.resources[address], site)
    assert await provider.existing(planned) == {}


def is_login(each) -> bool:
    return each.kind == "role"


def login_of(environment: Environment) -> str:
    return environment.resources["role.main"].identity


def secret_of(environment: Environment) -> str:
    return environment.resources["secret.database"].identity
