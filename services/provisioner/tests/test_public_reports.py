"""Public reports about plans, retries and half-made tenants in other systems, none of which is true here."""

import pytest
from approval_samples import ADA, BO, policy, without_bucket
from blueprint_samples import blueprint_of, published, tier_blueprint
from driver_suite_harnesses import LocalSuiteHarness
from environment_samples import BLUEPRINT, CELLS, FAILED, NOW, READY, TENANT, after
from paybill_contracts.approval import ApprovalMismatchError
from paybill_contracts.placement import Preset
from paybill_contracts.policy import AfterFailure, Handling
from paybill_provisioner.app import service
from paybill_provisioner.domain import applying, approvals, planning
from paybill_provisioner.domain.approvals import ApprovalEndedError, PlanSupersededError
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.inputs import PlanInputs
from schedules import UNATTENDED, Process

INPUTS = PlanInputs(published_policy=policy(deletes=Handling.OTHER_PERSON))
SMALLER = without_bucket()
SMALLEST = published(
    blueprint_of(
        tier_blueprint("starter", Preset.POOLED, 7).model_copy(
            update={"resources": SMALLER.in_force[0].content.tiers[0].resources}
        ),
        *SMALLER.in_force[0].content.tiers[1:],
        version=3,
    )
)


def requested(environment: Environment, blueprints) -> Environment:
    """Returns the environment whose plan, a deletion, waits for an approval that ada requested."""
    events = applying.make_plan(environment, TENANT, ADA, blueprints, CELLS, INPUTS, NOW)
    return after(environment, events)


def approve(environment: Environment, plan_hash: str, blueprints, approval_id: str = ""):
    id_ = approval_id or (environment.approval.id if environment.approval else "")
    return approvals.approve(environment, id_, plan_hash, BO, blueprints, INPUTS, NOW)


def hash_of(environment: Environment) -> str:
    return environment.approval.plan_hash if environment.approval else ""


def test_an_approval_that_an_apply_has_used_is_refused_to_whoever_comes_second() -> None:
    """runatlantis/atlantis#6529: an approval and an apply race."""
    waiting = requested(READY, SMALLER)
    granted = after(waiting, approve(waiting, hash_of(waiting), SMALLER))
    applied = after(granted, applying.apply(granted, TENANT, hash_of(granted), SMALLER, CELLS, INPUTS, NOW))

    assert applied.status is Status.CHANGING
    with pytest.raises(ApprovalEndedError):
        applying.apply(applied, TENANT, hash_of(granted), SMALLER, CELLS, INPUTS, NOW)
    with pytest.raises(ApprovalEndedError):
        approve(applied, hash_of(granted), SMALLER)


def test_a_plan_that_is_older_than_the_newest_is_neither_approved_nor_applied() -> None:
    """runatlantis/atlantis#2390: an older plan is applied after a newer one was made."""
    first = requested(READY, SMALLER)
    second = requested(first, SMALLEST)
    old, new = hash_of(first), hash_of(second)
    granted = after(second, approve(second, new, SMALLEST))

    assert old != new
    with pytest.raises((ApprovalEndedError, ApprovalMismatchError, PlanSupersededError)):
        approve(second, old, SMALLEST)
    with pytest.raises((ApprovalEndedError, PlanSupersededError)):
        approve(second, old, SMALLEST, first.approval.id if first.approval else "")
    with pytest.raises(PlanSupersededError):
        applying.apply(granted, TENANT, old, SMALLEST, CELLS, INPUTS, NOW)


def test_a_failure_is_not_shown_while_its_retry_runs() -> None:
    """syntasso/kratix#812: "failed" is shown while the retry runs."""
    retried = after(FAILED, planning.retry(FAILED, TENANT, BLUEPRINT, CELLS, NOW))

    assert (FAILED.status, FAILED.failure is None) == (Status.FAILED, False)
    assert (retried.status, retried.failure) == (Status.BUILDING, None)


@pytest.mark.parametrize("slug", ["a-b-c", "x--y"])
@pytest.mark.parametrize("preset", list(Preset))
async def test_a_dash_in_a_name_is_no_obstacle(harness, preset, slug) -> None:
    """awslabs/aws-saas-boost#231: a dash in the name of an environment breaks its build."""
    harness.region = f"{harness.region}-of-{slug}"
    environment = await harness.ready(preset)

    assert await harness.can_write(environment)


async def test_an_error_leaves_no_half_made_tenant_when_the_policy_compensates(
    start, settings, databases, publish, about, harness
) -> None:
    """rails-on-services/apartment#66, neondatabase/neon#4233: a half-made tenant is left after an error."""
    process = Process(start, service(), settings, await databases.fresh("provisioner"))
    await process.begin()
    await process.publish_policy(UNATTENDED.model_copy(update={"after_failure": AfterFailure.COMPENSATE}))
    first, second = about(), about()
    await publish(first.requested, first.entitled)
    ready = await process.settled(first.tenant, Status.READY)
    database = ready.connections[0].database
    await harness.as_driver(database, "ALTER TABLE product.documents NO FORCE ROW LEVEL SECURITY")
    await publish(second.requested, second.entitled)
    failed = await process.settled(second.tenant, Status.FAILED)

    assert failed.failure is not None
    assert "not isolated in documents" in failed.failure.reason
    assert await LocalSuiteHarness(harness).existing(failed) == {}
    await harness.as_driver(database, "ALTER TABLE product.documents FORCE ROW LEVEL SECURITY")
    await process.retry(second.tenant)
    assert await harness.can_write(await process.settled(second.tenant, Status.READY))
