"""Holds accumulate with their reasons, and a legal hold prevents everything that leads to deletion."""

from dataclasses import replace

import pytest
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    LegalHoldPlaced,
    LegalHoldReleased,
    OffboardingStarted,
    SuspensionMode,
    TenantReactivated,
)
from paybill_tenant.domain import access, environments, holds, offboarding
from paybill_tenant.domain.tenants import LegalHoldError, Status, TenantLeftError, evolve
from tenant_samples import (
    ACTIVE,
    BILLING,
    CANCELLED,
    DELAY,
    EVENTS,
    FAILED,
    ID,
    NOW,
    OFFBOARDING,
    POLICY,
    PROVISIONING,
    REQUESTED,
    RETAINED,
    RETURNING,
    SUSPENDED,
    after,
    suspended,
)

AUDIT = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="audit")
ABUSE = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.BLOCKED, reason="abuse")
RUNNING = [REQUESTED, PROVISIONING, FAILED, ACTIVE, SUSPENDED, RETURNING]


def test_a_second_hold_keeps_the_first_with_its_reason_and_the_strictest_mode_applies() -> None:
    audited = after(ACTIVE, holds.suspend(ACTIVE, SuspensionMode.READ_ONLY, "audit"))
    both = holds.suspend(audited, SuspensionMode.BLOCKED, "abuse")

    assert both == suspended(AUDIT, ABUSE)
    assert holds.suspend(after(audited, both), SuspensionMode.BLOCKED, "abuse") == []


def test_the_same_reason_with_another_mode_replaces_the_hold() -> None:
    audited = after(ACTIVE, holds.suspend(ACTIVE, SuspensionMode.READ_ONLY, "audit"))

    assert holds.suspend(audited, SuspensionMode.BLOCKED, "audit") == suspended(
        AUDIT.model_copy(update={"mode": SuspensionMode.BLOCKED})
    )


def test_one_of_several_holds_is_lifted_by_its_reason_or_all_at_once() -> None:
    both = replace(ACTIVE, status=Status.SUSPENDED, holds=(AUDIT, ABUSE))

    assert holds.resume(both, "abuse") == suspended(AUDIT, mode=SuspensionMode.READ_ONLY)
    assert holds.resume(both) == [TenantReactivated(tenant_id=ID, lifted=HoldOrigin.OPERATOR)]
    with pytest.raises(holds.NoSuchHoldError, match=r"only for 'audit', 'abuse'"):
        holds.resume(both, "fraud")


def test_billing_has_one_hold_whose_reason_follows_the_subscription() -> None:
    paused = access.on_subscription_suspended(SUSPENDED, EVENTS.paused)

    assert paused == suspended(BILLING.model_copy(update={"reason": "the subscription is paused"}))


def test_holds_are_limited_in_number() -> None:
    tenant = ACTIVE
    for number in range(holds.MAX_HOLDS):
        tenant = after(tenant, holds.suspend(tenant, SuspensionMode.BLOCKED, f"reason {number}"))
        tenant = after(tenant, holds.place_legal_hold(tenant, f"case {number}"))

    assert holds.suspend(tenant, SuspensionMode.READ_ONLY, "reason 1") != []
    with pytest.raises(holds.TooManyHoldsError):
        holds.suspend(tenant, SuspensionMode.BLOCKED, "one more")
    with pytest.raises(holds.TooManyHoldsError):
        holds.place_legal_hold(tenant, "one more")


@pytest.mark.parametrize("tenant", [REQUESTED, PROVISIONING, FAILED, RETURNING])
def test_an_operators_hold_before_the_environment_is_ready_takes_effect(tenant) -> None:
    events = holds.suspend(tenant, SuspensionMode.BLOCKED, "abuse")
    held = after(tenant, events)
    ready = EVENTS.ready.model_copy(update={"epoch": 2})

    assert events == [HoldsChanged(tenant_id=ID, holds=(ABUSE,))]
    assert environments.on_environment_ready(held, ready)[1:] == suspended(ABUSE)


@pytest.mark.parametrize("tenant", RUNNING)
def test_under_a_legal_hold_no_verb_starts_a_deletion(tenant) -> None:
    kept = after(tenant, holds.place_legal_hold(tenant, "2026-17"))
    ended = after(kept, offboarding.on_subscription_ended(kept, EVENTS.ended, POLICY, NOW))
    unpaid = replace(kept, valid_until=NOW)

    with pytest.raises(LegalHoldError, match="2026-17"):
        offboarding.offboard(kept, "closed", NOW)
    assert offboarding.on_time(ended, NOW + 100 * DELAY) == []
    assert offboarding.on_time(unpaid, NOW + 100 * DELAY) == []
    assert ended.due is None
    assert ended.status not in {Status.OFFBOARDING, Status.CANCELLED}


def test_offboarding_that_was_due_begins_when_the_last_legal_hold_is_released() -> None:
    kept = after(ACTIVE, [*holds.place_legal_hold(ACTIVE, "2026-17"), *holds.place_legal_hold(ACTIVE, "2026-18")])
    ended = after(kept, offboarding.on_subscription_ended(kept, EVENTS.ended, POLICY, NOW))
    one_left = after(ended, holds.release_legal_hold(ended, "2026-17"))
    released = after(one_left, holds.release_legal_hold(one_left, "2026-18"))

    assert (one_left.due, released.due) == (None, NOW + DELAY)
    assert [type(event) for event in offboarding.on_time(released, NOW + 2 * DELAY)] == [OffboardingStarted]


@pytest.mark.parametrize("tenant", [ACTIVE, OFFBOARDING, RETAINED])
def test_legal_holds_are_kept_by_case_and_do_not_change_access(tenant) -> None:
    (placed,) = holds.place_legal_hold(tenant, "2026-17")
    kept = evolve(tenant, placed)
    (released,) = holds.release_legal_hold(kept, "2026-17")

    assert placed == LegalHoldPlaced(tenant_id=ID, case="2026-17")
    assert (kept.status, kept.holds, kept.legal_holds) == (tenant.status, tenant.holds, ("2026-17",))
    assert holds.place_legal_hold(kept, "2026-17") == []
    assert released == LegalHoldReleased(tenant_id=ID, case="2026-17")
    assert evolve(kept, released) == tenant
    with pytest.raises(holds.NoSuchHoldError, match=r"^acme has no legal hold for 2026-17$"):
        holds.release_legal_hold(tenant, "2026-17")
    with pytest.raises(holds.NoSuchHoldError, match="only for 2026-17"):
        holds.release_legal_hold(kept, "2026-18")


def test_a_cancelled_tenant_has_no_data_to_keep() -> None:
    with pytest.raises(TenantLeftError):
        holds.place_legal_hold(CANCELLED, "2026-17")
