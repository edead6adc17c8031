"""Public reports about deletion in other systems, none of which is true here."""

import asyncio

from approval_samples import policy
from blueprint_samples import published
from environment_samples import (
    BLUEPRINT,
    CELLS,
    CONTENT,
    EVERYTHING,
    EXPORT,
    LEAVES,
    NOW,
    READY,
    REGISTERED,
    TENANT,
    after,
    built,
    entitled,
)
from paybill_contracts.environment_plans import PlanRefused, Resource
from paybill_contracts.placement import Preset
from paybill_contracts.policy import Handling
from paybill_contracts.tenant import LegalHoldPlaced
from paybill_contracts.tenant_lifecycle import PurgeStarted
from paybill_provisioner.domain import access, building, planning, purging
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.drivers import Done, Site
from paybill_provisioner.execution import CHECK_AFTER_S, Execution

UNATTENDED = PlanInputs(published_policy=policy(deletes=Handling.UNATTENDED))


EVERY_ADDRESS = {address for address, _ in EVERYTHING}


class SlowDriver:
    """Driver whose deletions take several turns of the event loop; it records when each begins and ends."""

    unique_names = frozenset({"database", "schema", "role", "bucket", "secret"})
    settled_after_s = 0.0

    def __init__(self, takes_s: float = 0.0) -> None:
        self.existing: dict[str, Resource] = {}
        self.outlived: list[str] = []
        self._takes_s = takes_s

    async def delete(self, resource: Resource, _: Site) -> Done:
        await asyncio.sleep(self._takes_s)
        self.existing.pop(resource.address)
        self.outlived += [each.address for each in self.existing.values() if resource.address in each.needs]
        return Done({})


def is_needed(resource: Resource, others: dict[str, Resource]) -> bool:
    return any(resource.address in each.needs for each in others.values())


def purging_silo() -> Environment:
    silo = entitled(tier="business", placement=Preset.SILO)
    planned = after(REGISTERED, planning.on_entitlements_set(REGISTERED, silo, BLUEPRINT, CELLS, NOW))
    ready = after(planned, building.progress_recorded(planned, planned.plan_hash or "", built(EVERYTHING)))
    leaving = after(ready, access.on_tenant_left(ready, LEAVES))
    retained = after(leaving, access.retained(leaving, EXPORT))
    fact = PurgeStarted(tenant_id=retained.tenant_id, expected_by=NOW)
    return after(retained, purging.on_purge_started(retained, fact, UNATTENDED, NOW))


async def test_nothing_outlives_what_it_needs_when_everything_is_deleted_at_once() -> None:
    """crossplane/crossplane#6393: dependents outlive what they need."""
    environment, driver = purging_silo(), SlowDriver()
    driver.existing = {each.resource.address: each.resource for each in environment.built}
    execution = Execution(driver, environment, "job")  # type: ignore[arg-type]
    removed = [each.address async for progress in execution.run() for each in progress.removed]

    assert len(removed) == 5
    assert driver.existing == {}
    assert driver.outlived == []


async def test_a_legal_hold_during_a_deletion_stops_the_steps_that_have_not_begun() -> None:
    environment, driver = purging_silo(), SlowDriver(takes_s=2 * CHECK_AFTER_S)
    driver.existing = {each.resource.address: each.resource for each in environment.built}
    begun = {each.address for each in driver.existing.values() if not is_needed(each, driver.existing)}
    held = after(environment, purging.on_legal_hold_placed(environment, LegalHoldPlaced(tenant_id=TENANT, case="a")))

    async def may_begin() -> bool:
        return held.is_applied

    execution = Execution(driver, environment, "job", may_begin)  # type: ignore[arg-type]
    removed = [each.address async for progress in execution.run() for each in progress.removed]

    assert begun < EVERY_ADDRESS
    assert set(removed) == begun
    assert driver.existing.keys() == EVERY_ADDRESS - begun


def test_a_version_without_the_tier_deletes_nothing_that_an_earlier_one_built() -> None:
    """syntasso/kratix#820: deleting a version deletes what was built by it."""
    without = published(CONTENT.model_copy(update={"tiers": CONTENT.tiers[1:], "version": CONTENT.version + 1}))
    events = planning.compare(READY, without, CELLS, NOW, UNATTENDED)
    environment = after(READY, events)

    assert [type(each) for each in events] == [PlanRefused]
    assert (environment.status, environment.built, environment.remaining) == (Status.READY, READY.built, ())
