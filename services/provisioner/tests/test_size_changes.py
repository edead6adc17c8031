"""A change of the entitled tier or placement is pending until the infrastructure follows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from environment_samples import BLUEPRINT, BUILDING, CLOSED, EVERYTHING, FAILED, READY, RETAINED, after, entitled
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_provisioner.domain import environments, size_changes
from paybill_provisioner.domain.environments import Environment, Status
from paybill_provisioner.domain.size_changes import check_size
from paybill_provisioner.domain.sizes import Size

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LARGER = entitled(tier="business", placement=Preset.SILO)
BUSINESS = Size("business", Preset.SILO)


def changed(environment: Environment) -> Environment:
    return after(environment, size_changes.on_entitlements_set(environment, LARGER, NOW))


def test_a_larger_plan_of_a_built_environment_is_a_pending_change() -> None:
    [event] = size_changes.on_entitlements_set(READY, LARGER, NOW)

    assert isinstance(event, EnvironmentChangePending)
    assert (event.from_tier, event.to_tier, event.to_preset, event.since) == ("starter", "business", Preset.SILO, NOW)
    assert (changed(READY).planned_size, changed(READY).entitled_size) == (Size("starter", Preset.POOLED), BUSINESS)


def test_a_change_is_recorded_once_and_keeps_its_begin() -> None:
    pending = changed(READY)
    later = NOW + timedelta(days=1)
    [changed_again] = size_changes.on_entitlements_set(pending, entitled(tier="business"), later)

    assert size_changes.on_entitlements_set(pending, LARGER, later) == []
    assert isinstance(changed_again, EnvironmentChangePending)
    assert (changed_again.to_preset, changed_again.since) == (Preset.POOLED, NOW)


def test_the_change_ends_when_the_plan_changes_back() -> None:
    [event] = size_changes.on_entitlements_set(changed(READY), entitled(), NOW)
    back = after(changed(READY), [event])

    assert isinstance(event, EnvironmentChangeSettled)
    assert (back.pending, back.entitled_size) == (None, back.planned_size)


def test_entitlements_without_access_and_tenants_without_infrastructure_have_no_pending_change() -> None:
    assert size_changes.on_entitlements_set(READY, entitled(tier="business", allows_access=False), NOW) == []
    for environment in (None, FAILED, RETAINED):
        assert size_changes.on_entitlements_set(environment, LARGER, NOW) == []


def test_a_failed_environment_is_planned_again_with_the_entitled_size() -> None:
    failed = after(changed(BUILDING), environments.build_failed(BUILDING, BUILDING.plan_hash or "", "disk full"))
    settled = after(failed, size_changes.on_retry(failed))
    again = after(settled, environments.retry(settled, settled.id, BLUEPRINT))

    assert failed.status is Status.FAILED
    assert (again.status, again.planned_size, again.pending) == (Status.BUILDING, BUSINESS, None)


def test_a_tenant_that_leaves_keeps_what_it_has() -> None:
    [event] = size_changes.on_leaving(changed(CLOSED))

    assert isinstance(event, EnvironmentChangeSettled)
    assert event.reason == "the tenant leaves"
    assert size_changes.on_leaving(CLOSED) == []


def test_every_state_that_events_lead_to_satisfies_the_invariant() -> None:
    built = environments.resources_built(changed(BUILDING), BUILDING.plan_hash or "", EVERYTHING)
    for environment in (
        None,
        BUILDING,
        READY,
        FAILED,
        CLOSED,
        RETAINED,
        changed(READY),
        after(changed(BUILDING), built),
    ):
        assert check_size([environment], NOW) is None


def test_a_size_that_is_not_built_and_not_pending_violates_the_invariant() -> None:
    unexplained = replace(changed(READY), pending=None)
    incomplete = replace(READY, built=READY.built[1:])

    difference = check_size([unexplained], NOW)

    assert difference is not None
    assert difference.left == "starter (pooled) is built"
    assert difference.right == "business (silo) is entitled, without a pending change"
    assert check_size([incomplete], NOW) is not None
