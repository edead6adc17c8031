"""The end of the last subscription has a delay, and a customer whose data is retained can return."""

from dataclasses import replace
from datetime import timedelta

import pytest
from paybill_contracts.accounts import DebtChanged, LeftoverAction, LeftoverEnded, LeftoverFound
from paybill_contracts.money import Money
from paybill_contracts.tenant import (
    EntitlementNoted,
    Hold,
    HoldOrigin,
    OffboardingScheduled,
    OffboardingStarted,
    OffboardingWithdrawn,
    ReturnRuledOut,
    ReturnStarted,
    SuspensionMode,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRetained,
    TenantSuspended,
)
from paybill_tenant.domain import access, environments, offboarding, policies
from paybill_tenant.domain.tenants import BUILD_TIME, Status, evolve
from tenant_samples import (
    ACTIVE,
    BILLING,
    CANCELLED,
    DAY_S,
    DELAY,
    ENTITLED,
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
)

RUNNING = [REQUESTED, PROVISIONING, FAILED, ACTIVE, SUSPENDED, RETURNING]
OPERATOR = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="audit")


def after(tenant, events):
    for event in events:
        tenant = evolve(tenant, event)
    return tenant


def ended(tenant):
    return after(tenant, offboarding.on_subscription_ended(tenant, EVENTS.ended, POLICY, NOW))


def types(events):
    return [type(event) for event in events]


def test_the_end_of_the_last_subscription_closes_access_and_schedules_the_offboarding() -> None:
    events = offboarding.on_subscription_ended(ACTIVE, EVENTS.ended, POLICY, NOW)

    assert types(events) == [TenantSuspended, OffboardingScheduled]
    assert events[1].at == NOW + DELAY
    assert after(ACTIVE, events).due == NOW + DELAY
    assert offboarding.on_subscription_ended(after(ACTIVE, events), EVENTS.ended, POLICY, NOW) == []


@pytest.mark.parametrize("tenant", RUNNING)
@pytest.mark.parametrize("kind", ["activated", "recovered", "grace", "allowed"])
def test_a_subscription_that_gives_access_within_the_delay_withdraws_it(tenant, kind) -> None:
    waiting = ended(tenant)
    handled = (
        access.on_entitlements_set(waiting, EVENTS.allowed, NOW)
        if kind == "allowed"
        else access.on_subscription_entitling(waiting)
    )
    back = after(waiting, handled)

    assert OffboardingWithdrawn in types(handled)
    assert (back.scheduled, back.due) == (None, None)
    assert back.holds == ()
    assert offboarding.on_time(back, NOW + 10 * DELAY) == []


@pytest.mark.parametrize("tenant", [PROVISIONING, ACTIVE, SUSPENDED, RETURNING])
def test_without_another_subscription_the_tenant_is_offboarded_after_the_delay(tenant) -> None:
    waiting = ended(tenant)
    late = NOW + DELAY + timedelta(seconds=5)

    assert offboarding.on_time(waiting, NOW + DELAY - timedelta(seconds=1)) == []
    (started,) = offboarding.on_time(waiting, late)
    assert started == OffboardingStarted(
        tenant_id=ID,
        origin=HoldOrigin.BILLING,
        reason="the subscription ended",
        retain_until=late + timedelta(days=2),
        expected_by=late + offboarding.EXPORT_TIME,
    )
    assert after(waiting, [started]).due is None


def test_an_operator_can_offboard_within_the_delay() -> None:
    gone = after(ended(ACTIVE), offboarding.offboard(ended(ACTIVE), "closed", NOW))

    assert (gone.status, gone.left_by, gone.scheduled) == (Status.OFFBOARDING, HoldOrigin.OPERATOR, None)


def test_a_retained_tenant_returns_with_its_data_when_its_customer_subscribes_again() -> None:
    left = replace(RETAINED, holds=(BILLING, OPERATOR))
    noted, returns = access.on_entitlements_set(left, EVENTS.allowed, NOW)
    back = after(left, [noted, returns])

    assert isinstance(noted, EntitlementNoted)
    assert returns == ReturnStarted(
        tenant_id=ID,
        holds=(OPERATOR,),
        plan="pro",
        tier="standard",
        placement=EVENTS.allowed.placement,
        entitlements_hash=EVENTS.allowed.entitlements_hash,
        expected_by=NOW + BUILD_TIME,
    )
    assert (back.status, back.retain_until, back.left_by) == (Status.RETURNING, None, None)
    assert access.on_entitlements_set(back, EVENTS.allowed, NOW) == []


def test_a_returning_tenant_is_active_when_its_environment_is_ready_again() -> None:
    assert environments.on_environment_ready(RETURNING, EVENTS.ready) == []
    events = environments.on_environment_ready(RETURNING, EVENTS.ready.model_copy(update={"epoch": 2}))

    assert types(events) == [TenantActivated]
    assert after(RETURNING, events) == replace(ACTIVE, epoch=2)


def test_a_customer_that_subscribes_during_the_export_returns_after_it() -> None:
    noted = access.on_entitlements_set(OFFBOARDING, EVENTS.allowed, NOW)
    retained = offboarding.on_environment_retained(after(OFFBOARDING, noted), EVENTS.retained, NOW)

    assert types(noted) == [EntitlementNoted]
    assert types(retained) == [TenantRetained, ReturnStarted]


def test_only_offboarding_by_billing_is_undone_by_a_subscription() -> None:
    for tenant in (OFFBOARDING, RETAINED, CANCELLED):
        closed = replace(tenant, left_by=HoldOrigin.OPERATOR, entitlement=ENTITLED)

        assert access.on_entitlements_set(closed, EVENTS.allowed, NOW) == []
    closed = replace(OFFBOARDING, left_by=HoldOrigin.OPERATOR, entitlement=ENTITLED)
    assert types(offboarding.on_environment_retained(closed, EVENTS.retained, NOW)) == [TenantRetained]


@pytest.mark.parametrize("tenant", [OFFBOARDING, RETAINED, CANCELLED])
def test_an_operator_rules_out_the_return_of_a_tenant_that_billing_offboarded(tenant) -> None:
    left = replace(tenant, left_by=HoldOrigin.BILLING)
    ruled_out = offboarding.offboard(left, "fraud", NOW)
    final = after(left, ruled_out)

    assert ruled_out == [ReturnRuledOut(tenant_id=ID, reason="fraud")]
    assert (final.status, final.retain_until) == (left.status, left.retain_until)
    assert types(access.on_entitlements_set(final, EVENTS.allowed, NOW)) == [EntitlementNoted]
    assert offboarding.offboard(final, "fraud", NOW) == []


def test_a_returning_tenant_with_data_is_offboarded_and_never_cancelled() -> None:
    failed = after(RETURNING, environments.on_environment_failed(RETURNING, EVENTS.failed))

    assert failed.status is Status.PROVISION_FAILED
    assert types(offboarding.offboard(failed, "closed", NOW)) == [OffboardingStarted]


@pytest.mark.parametrize("tenant", RUNNING)
def test_the_hold_of_billing_follows_the_entitlements(tenant) -> None:
    free = replace(tenant, holds=(), status=Status.ACTIVE if tenant is SUSPENDED else tenant.status)
    denied = after(free, access.on_entitlements_set(free, EVENTS.not_allowed, NOW))
    allowed = after(denied, access.on_entitlements_set(denied, EVENTS.allowed, NOW))

    assert [hold.origin for hold in denied.holds] == [HoldOrigin.BILLING]
    assert allowed.holds == ()
    assert access.on_entitlements_set(denied, EVENTS.not_allowed, NOW) == []


def test_a_failed_renewal_after_a_pause_gives_access_while_its_grace_lasts() -> None:
    paused = after(ACTIVE, access.on_subscription_suspended(ACTIVE, EVENTS.paused))

    assert paused.status is Status.SUSPENDED
    assert access.on_subscription_entitling(paused) == [TenantReactivated(tenant_id=ID, lifted=HoldOrigin.BILLING)]


def test_a_sign_up_that_nobody_pays_is_abandoned_and_frees_its_slug() -> None:
    unpaid = replace(REQUESTED, valid_until=NOW, due=NOW)
    (cancelled,) = offboarding.on_time(unpaid, NOW)
    gone = after(unpaid, [cancelled])

    assert isinstance(cancelled, TenantCancelled)
    assert cancelled.is_abandoned
    assert (gone.status, gone.slug_is_free, gone.due) == (Status.CANCELLED, True, None)
    assert offboarding.on_time(unpaid, NOW - timedelta(seconds=1)) == []


def test_an_operator_that_offboards_an_unpaid_sign_up_frees_its_slug() -> None:
    gone = after(REQUESTED, offboarding.offboard(REQUESTED, "the coupon was refused", NOW))
    paid = replace(REQUESTED, entitlement=ENTITLED)

    assert (gone.status, gone.slug_is_free, gone.left_by) == (Status.CANCELLED, True, HoldOrigin.OPERATOR)
    assert not after(paid, offboarding.offboard(paid, "closed", NOW)).slug_is_free


@pytest.mark.parametrize("tenant", [PROVISIONING, FAILED, ACTIVE, replace(REQUESTED, entitlement=ENTITLED)])
def test_a_sign_up_with_a_subscription_is_never_abandoned(tenant) -> None:
    assert offboarding.on_time(replace(tenant, valid_until=NOW), NOW + timedelta(days=999)) == []


def test_what_can_still_charge_the_customer_is_known_until_it_ends() -> None:
    fields = {"tenant_id": ID, "provider": "stripe", "subscription": "sub_9"}
    found = LeftoverFound(**fields, customer="cus_1", action=LeftoverAction.REPORT)
    ended_with_more = EVENTS.ended.model_copy(update={"remaining": ("sub_2",)})
    waiting = after(ACTIVE, offboarding.on_subscription_ended(ACTIVE, ended_with_more, POLICY, NOW))

    fresh = after(waiting, offboarding.on_account_closed(waiting))
    charged = after(fresh, offboarding.on_leftover_found(fresh, found))
    over = after(charged, offboarding.on_leftover_ended(charged, LeftoverEnded(**fields)))

    assert (waiting.remaining, fresh.remaining, charged.remaining, over.remaining) == (("sub_2",), (), ("sub_9",), ())
    assert offboarding.on_leftover_found(charged, found) == offboarding.on_account_closed(over) == []


def test_open_debt_is_shown_and_changes_no_access() -> None:
    owed = DebtChanged(tenant_id=ID, provider="stripe", debt=(Money(minor=2900, currency="EUR"),))
    (event,) = access.on_debt_changed(ACTIVE, owed)
    indebted = after(ACTIVE, [event])

    assert (indebted.debt, indebted.status) == (owed.debt, Status.ACTIVE)
    assert access.on_debt_changed(indebted, owed) == []
    assert after(indebted, access.on_debt_changed(indebted, owed.model_copy(update={"debt": ()}))) == ACTIVE


def test_the_policy_is_recorded_once_and_when_it_changes() -> None:
    (first,) = policies.configure(None, offboarding_delay_s=900, signup_valid_s=30 * DAY_S)
    policy = policies.evolve(None, first)

    assert policy == POLICY
    assert policies.configure(policy, offboarding_delay_s=900, signup_valid_s=30 * DAY_S) == []
    assert len(policies.configure(policy, offboarding_delay_s=1, signup_valid_s=30 * DAY_S)) == 1
    with pytest.raises(policies.PolicyMissingError):
        policies.existing(None)


def test_a_tenant_that_was_cancelled_before_its_environment_was_ready_returns_when_its_customer_pays_again() -> None:
    cancelled = after(ended(REQUESTED), offboarding.on_time(ended(REQUESTED), NOW + DELAY))

    handled = access.on_entitlements_set(cancelled, EVENTS.allowed, NOW + DELAY)

    assert cancelled.status is Status.CANCELLED
    assert types(handled) == [EntitlementNoted, ReturnStarted]
    assert after(cancelled, handled).status is Status.RETURNING


def test_an_abandoned_sign_up_does_not_return() -> None:
    abandoned = replace(CANCELLED, left_by=HoldOrigin.BILLING, slug_is_free=True)

    assert types(access.on_entitlements_set(abandoned, EVENTS.allowed, NOW)) == [EntitlementNoted]
