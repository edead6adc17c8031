"""Rules of the purge of a tenant, and of the approvals, changes and quarantines that its status shows."""

from dataclasses import replace
from datetime import timedelta

import pytest
from paybill_contracts.environment_plans import Resource, Step, StepAction
from paybill_contracts.event import digest
from paybill_contracts.kinds import Bucket
from paybill_contracts.placement import Isolation
from paybill_contracts.plan_approvals import ApprovalRejected, ApprovalRequested, ApprovalUsed
from paybill_contracts.policy import PolicyReason
from paybill_contracts.purges import Certificate, DeletionStopped, EnvironmentPurged
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    ReturnRuledOut,
    SuspensionMode,
    TenantReactivated,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import (
    ChangeEnded,
    ChangeStarted,
    PurgeStarted,
    PurgeStopped,
    QuarantineEnded,
    TenantPurged,
    TenantQuarantined,
)
from paybill_tenant.domain import access, environments, holds, offboarding, purging
from paybill_tenant.domain.holds import NotRunningError
from paybill_tenant.domain.invariants import waiting
from paybill_tenant.domain.purging import NotRetainedError, RetentionNotOverError
from paybill_tenant.domain.tenants import LegalHoldError, Status, Tenant, TenantLeftError, next_change
from tenant_samples import (
    ACTIVE,
    BILLING,
    CANCELLED,
    DAY_S,
    ENTITLED,
    EVENTS,
    FAILED,
    HASH,
    ID,
    NOW,
    OFFBOARDING,
    PROVISIONING,
    REQUESTED,
    RETAINED,
    RETURNING,
    SUSPENDED,
    after,
)

OVER = NOW + timedelta(seconds=DAY_S)
OF = {"tenant_id": ID, "environment_id": EVENTS.ready.environment_id}
BUCKET = Resource(
    address="bucket.data",
    layer="storage",
    isolation=Isolation.SILO,
    attributes=Bucket(name="x"),
    needs=(),
)
CHANGE = EVENTS.planned.model_copy(
    update={
        "plan": EVENTS.planned.plan.model_copy(
            update={"steps": (Step(action=StepAction.CREATE, before=None, after=BUCKET),)}
        )
    }
)
REQUEST = ApprovalRequested(
    **OF,
    approval_id=f"apr_{digest('x')[:32]}",
    plan_hash=HASH,
    plan=EVENTS.planned.plan,
    reasons=(PolicyReason(rule="deletes", text="the plan deletes role.main"),),
    policy_hash=HASH,
    requester="service:provisioner",
    other_person=True,
    requested_at=NOW,
    expires_at=OVER,
    valid_s=DAY_S,
)
REJECTED = ApprovalRejected(
    **OF, approval_id=REQUEST.approval_id, plan_hash=HASH, rejected_by="user:bo", reason="not now"
)
USED = ApprovalUsed(**OF, approval_id=REQUEST.approval_id, plan_hash=HASH)
DONE = EnvironmentPurged(**OF, certificate=Certificate(plan_hash=HASH, resources=(), export=None, purged_at=OVER))


def legal(tenant: Tenant, case: str = "2026-17") -> Tenant:
    return after(tenant, holds.place_legal_hold(tenant, case))


PURGING = after(RETAINED, purging.purge(RETAINED, OVER))
AWAITING = after(PURGING, environments.on_approval_requested(PURGING, REQUEST))
PURGED = after(PURGING, purging.on_environment_purged(PURGING, DONE))
CHANGING = after(ACTIVE, environments.on_environment_planned(ACTIVE, CHANGE, NOW))
QUARANTINED = after(ACTIVE, holds.quarantine(ACTIVE, "leaked password"))


def test_the_timer_starts_the_purge_at_the_end_of_the_retention_period_and_not_before() -> None:
    started = offboarding.on_time(RETAINED, OVER)

    assert RETAINED.retain_until == OVER
    assert next_change(RETAINED) == OVER
    assert offboarding.on_time(RETAINED, OVER - timedelta(seconds=1)) == []
    assert [type(each) for each in started] == [ReturnRuledOut, PurgeStarted]
    assert after(RETAINED, started).status is Status.PURGING
    assert next_change(PURGING) is None


def test_a_purge_before_its_date_is_refused() -> None:
    with pytest.raises(RetentionNotOverError, match="is kept until 2026-11-23 18:00:00 UTC"):
        purging.purge(RETAINED, OVER - timedelta(seconds=1))

    assert RetentionNotOverError.code == "retention_not_over"


def test_a_purge_under_a_legal_hold_is_refused_and_waits_for_its_end() -> None:
    kept = legal(RETAINED)
    released = after(kept, holds.release_legal_hold(kept, "2026-17"))

    with pytest.raises(LegalHoldError, match="2026-17"):
        purging.purge(kept, OVER)
    assert (next_change(kept), offboarding.on_time(kept, OVER)) == (None, [])
    assert next_change(released) == OVER


@pytest.mark.parametrize(
    "tenant", [REQUESTED, PROVISIONING, FAILED, ACTIVE, SUSPENDED, OFFBOARDING, RETURNING, CANCELLED]
)
def test_only_a_retained_tenant_is_purged(tenant: Tenant) -> None:
    with pytest.raises(NotRetainedError, match="offboard it first"):
        purging.purge(tenant, OVER)
    assert purging.on_environment_purged(tenant, DONE) == []


@pytest.mark.parametrize("tenant", [PURGING, AWAITING, PURGED])
def test_a_purge_that_has_begun_is_not_started_again_and_its_customer_does_not_return(tenant: Tenant) -> None:
    entitled = replace(tenant, entitlement=ENTITLED)

    assert purging.purge(tenant, OVER) == []
    assert access.on_entitlements_set(entitled, EVENTS.allowed, OVER) == []
    assert offboarding.offboard(tenant, "again", OVER) == []
    with pytest.raises(TenantLeftError):
        holds.suspend(tenant, SuspensionMode.BLOCKED, "late")


def test_a_purge_that_waits_for_an_approval_is_shown_so() -> None:
    rejected = after(AWAITING, environments.on_approval_settled(AWAITING, REJECTED))
    used = after(AWAITING, environments.on_approval_settled(AWAITING, USED))

    assert (AWAITING.status, AWAITING.has_left) == (Status.AWAITING_APPROVAL, True)
    assert waiting(AWAITING).reason == f"the approval {REQUEST.approval_id}"  # type: ignore[union-attr]
    assert rejected == used == PURGING
    assert environments.on_environment_planned(AWAITING, CHANGE, OVER) == []


def test_a_sign_up_whose_plan_waits_for_an_approval_is_shown_so_until_it_is_built() -> None:
    awaiting = after(REQUESTED, environments.on_approval_requested(REQUESTED, REQUEST))
    planned = after(awaiting, environments.on_environment_planned(awaiting, EVENTS.planned, NOW))

    assert (awaiting.status, awaiting.has_left) == (Status.AWAITING_APPROVAL, False)
    assert environments.on_approval_requested(awaiting, REQUEST) == []
    assert (planned.status, planned.awaits) == (Status.PROVISIONING, None)
    held = after(awaiting, holds.suspend(awaiting, SuspensionMode.BLOCKED, "check"))
    assert [each.reason for each in held.holds] == ["check"]
    assert held.status is Status.AWAITING_APPROVAL


@pytest.mark.parametrize("tenant", [ACTIVE, SUSPENDED, CHANGING, QUARANTINED])
def test_a_tenant_that_runs_does_not_wait_for_an_approval_of_a_change(tenant: Tenant) -> None:
    assert environments.on_approval_requested(tenant, REQUEST) == []


def test_a_legal_hold_before_the_first_deletion_retains_the_tenant_again() -> None:
    stopped = DeletionStopped(**OF, cases=("2026-17",), is_intact=True)
    kept = legal(AWAITING)
    retained = after(kept, purging.on_deletion_stopped(kept, stopped))

    assert purging.on_deletion_stopped(kept, stopped) == [PurgeStopped(tenant_id=ID)]
    assert (retained.status, retained.awaits, retained.due) == (Status.RETAINED, None, None)
    released = after(retained, holds.release_legal_hold(retained, "2026-17"))
    assert [type(each) for each in offboarding.on_time(released, OVER)] == [PurgeStarted]


def test_a_legal_hold_during_the_deletion_is_what_the_purge_waits_for() -> None:
    kept = legal(PURGING)

    assert purging.on_deletion_stopped(kept, DeletionStopped(**OF, cases=("2026-17",), is_intact=False)) == []
    assert waiting(kept).reason == "the end of the legal hold 2026-17"  # type: ignore[union-attr]
    assert waiting(kept).until is None  # type: ignore[union-attr]
    assert waiting(PURGING).until == OVER + purging.PURGE_TIME  # type: ignore[union-attr]


def test_a_purged_tenant_has_a_free_slug_and_nothing_to_keep() -> None:
    assert purging.on_environment_purged(PURGING, DONE) == [
        TenantPurged(tenant_id=ID, environment_id=DONE.environment_id)
    ]
    assert (PURGED.status, PURGED.slug_is_free, waiting(PURGED)) == (Status.PURGED, True, None)
    with pytest.raises(TenantLeftError, match="no data to keep"):
        holds.place_legal_hold(PURGED, "late")


def test_a_change_of_the_environment_is_shown_until_it_ends() -> None:
    (started,) = environments.on_environment_planned(ACTIVE, CHANGE, NOW)

    assert started == ChangeStarted(tenant_id=ID, plan_hash=HASH)
    assert environments.on_environment_planned(ACTIVE, EVENTS.planned, NOW) == []
    assert environments.on_environment_planned(SUSPENDED, CHANGE, NOW) == []
    assert environments.on_change_ended(CHANGING, "d" * 64) == []
    assert environments.on_environment_failed(CHANGING, EVENTS.failed) == [ChangeEnded(tenant_id=ID, plan_hash=HASH)]
    assert after(CHANGING, environments.on_change_ended(CHANGING, HASH)) == ACTIVE


def test_a_hold_during_a_change_suspends_and_the_end_of_the_change_leaves_it_so() -> None:
    suspended = after(CHANGING, holds.hold(CHANGING, BILLING))

    assert (suspended.status, suspended.holds) == (Status.SUSPENDED, (BILLING,))
    assert environments.on_change_ended(suspended, HASH) == []
    assert holds.lift(suspended, HoldOrigin.BILLING) == [TenantReactivated(tenant_id=ID, lifted=HoldOrigin.BILLING)]


def test_a_quarantine_blocks_whatever_the_holds_are_and_ends_in_their_access() -> None:
    (event,) = holds.quarantine(ACTIVE, "leaked password")
    blocking = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.BLOCKED, reason="leaked password")

    assert event == TenantQuarantined(tenant_id=ID, reason="leaked password", holds=(blocking,))
    assert (QUARANTINED.status, QUARANTINED.holds, QUARANTINED.quarantine) == (Status.QUARANTINED, (), blocking)
    assert holds.quarantine(QUARANTINED, "leaked password") == []
    (held,) = holds.hold(QUARANTINED, BILLING)
    assert held == HoldsChanged(tenant_id=ID, holds=(BILLING, blocking))
    unpaid = after(QUARANTINED, [held])
    (lifted,) = holds.lift(unpaid, HoldOrigin.BILLING)
    assert lifted == HoldsChanged(tenant_id=ID, holds=(blocking,))
    assert holds.resume(unpaid) == []
    assert [type(each) for each in holds.end_quarantine(unpaid)] == [QuarantineEnded, TenantSuspended]
    ended = holds.end_quarantine(QUARANTINED)
    assert [type(each) for each in ended] == [QuarantineEnded, TenantReactivated]
    assert after(QUARANTINED, ended) == ACTIVE
    assert holds.end_quarantine(ACTIVE) == []


@pytest.mark.parametrize("tenant", [REQUESTED, PROVISIONING, FAILED, RETURNING])
def test_a_tenant_without_an_environment_is_not_quarantined(tenant: Tenant) -> None:
    with pytest.raises(NotRunningError, match="only a tenant that runs"):
        holds.quarantine(tenant, "leaked password")


def test_a_quarantined_tenant_is_offboarded_as_another_one() -> None:
    left = after(QUARANTINED, offboarding.offboard(QUARANTINED, "closed", NOW))

    assert (left.status, left.quarantine) == (Status.OFFBOARDING, None)
