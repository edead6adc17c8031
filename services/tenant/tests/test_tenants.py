"""Rules of the tenant lifecycle."""

from dataclasses import replace
from datetime import timedelta

import pytest
from paybill_contracts.billing import AccountRegistered
from paybill_contracts.environment_plans import EnvironmentReady
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    OffboardingScheduled,
    OffboardingStarted,
    ProvisioningFailed,
    ProvisioningStarted,
    RetentionNoted,
    Source,
    SuspensionMode,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantRetained,
    TenantSuspended,
)
from paybill_tenant.domain import access, environments, holds, offboarding, signups, tenants
from paybill_tenant.domain.signup_options import SignupOptions, SlugReservedError, UnknownPlanError
from paybill_tenant.domain.tenants import Status, evolve
from tenant_samples import (
    ACTIVE,
    BILLING,
    CANCELLED,
    DAY_S,
    DELAY,
    EMAIL,
    EVENTS,
    FAILED,
    HASH,
    ID,
    NOW,
    OFFBOARDING,
    POLICY,
    PROVISIONING,
    REQUESTED,
    RETAINED,
    SUSPENDED,
    after,
    suspended,
)

PLANS = SignupOptions(id="plans", keys=("pro",), source_hash=HASH)
REGIONS = SignupOptions(id="regions", keys=("eu-1",), source_hash=HASH)
OPERATOR_BLOCKED = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.BLOCKED, reason="abuse")
OPERATOR_READ_ONLY = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="audit")
ENDED = EVENTS.ended.model_copy(update={"retention_s": 3 * DAY_S})

BEFORE = [REQUESTED, PROVISIONING, FAILED]
LEFT = [OFFBOARDING, RETAINED, CANCELLED]


def ready(epoch: int = 1) -> EnvironmentReady:
    return EVENTS.ready.model_copy(update={"epoch": epoch})


def registered(retention_s: int = DAY_S) -> AccountRegistered:
    return EVENTS.registered.model_copy(update={"retention_s": retention_s})


def request(slug: str = "acme", plan: str = "pro"):
    return signups.request(
        PLANS,
        REGIONS,
        tenant_id=ID,
        slug=slug,
        name="Acme",
        plan=plan,
        region="eu-1",
        contact_email=EMAIL,
        source=Source.API,
    )


def test_a_request_is_recorded_completely_with_the_address_encrypted() -> None:
    (event,) = request()

    assert event == TenantRequested(
        tenant_id=ID,
        slug="acme",
        name="Acme",
        plan="pro",
        region="eu-1",
        contact_email=EMAIL,
        source=Source.API,
    )
    assert evolve(None, event) == REQUESTED


@pytest.mark.parametrize("slug", ["postgres", "admin", "www", "pg-catalog", "xn--acme"])
def test_a_reserved_slug_is_refused(slug) -> None:
    with pytest.raises(SlugReservedError):
        request(slug=slug)


def test_an_unknown_plan_cannot_be_requested() -> None:
    with pytest.raises(UnknownPlanError):
        request(plan="gold")


def test_only_a_request_can_be_the_first_event() -> None:
    with pytest.raises(tenants.TenantNotFoundError):
        evolve(None, TenantReactivated(tenant_id=ID, lifted=HoldOrigin.BILLING))


def test_the_lifecycle_from_requested_to_retained() -> None:
    journey = [
        (tenants.on_account_registered, registered()),
        (environments.on_environment_planned, EVENTS.planned, NOW),
        (environments.on_environment_ready, ready()),
        (access.on_subscription_suspended, EVENTS.suspended),
        (access.on_subscription_entitling,),
        (offboarding.on_subscription_ended, ENDED, POLICY, NOW),
        (offboarding.on_time, NOW + DELAY),
        (offboarding.on_environment_retained, EVENTS.retained, NOW),
    ]
    tenant = REQUESTED
    published = []
    for verb, *arguments in journey:
        events = verb(tenant, *arguments)
        tenant = after(tenant, events)
        published += [type(event) for event in events]
        assert verb(tenant, *arguments) == []

    assert published == [
        RetentionNoted,
        ProvisioningStarted,
        TenantActivated,
        TenantSuspended,
        TenantReactivated,
        TenantSuspended,
        OffboardingScheduled,
        OffboardingStarted,
        TenantRetained,
    ]
    assert tenant.status is Status.RETAINED
    assert tenant.retain_until == NOW + DELAY + timedelta(days=3)


@pytest.mark.parametrize("tenant", [REQUESTED, FAILED])
def test_a_plan_starts_provisioning_and_clears_the_last_failure(tenant) -> None:
    events = environments.on_environment_planned(tenant, EVENTS.planned, NOW)

    assert events == [
        ProvisioningStarted(
            tenant_id=ID,
            environment_id=EVENTS.ready.environment_id,
            plan_hash=HASH,
            expected_by=NOW + tenants.BUILD_TIME,
        )
    ]
    assert after(tenant, events).status is Status.PROVISIONING
    assert after(tenant, events).failure is None


@pytest.mark.parametrize("tenant", [PROVISIONING, ACTIVE, SUSPENDED, *LEFT])
def test_a_plan_is_ignored_for_a_provisioned_or_offboarded_tenant(tenant) -> None:
    assert environments.on_environment_planned(tenant, EVENTS.planned, NOW) == []


@pytest.mark.parametrize("tenant", [REQUESTED, PROVISIONING])
def test_a_failed_environment_is_recorded_with_its_reason(tenant) -> None:
    events = environments.on_environment_failed(tenant, EVENTS.failed)

    assert events == [ProvisioningFailed(tenant_id=ID, environment_id=EVENTS.ready.environment_id, reason="disk full")]
    assert after(PROVISIONING, events) == FAILED


@pytest.mark.parametrize("tenant", [FAILED, ACTIVE, SUSPENDED, *LEFT])
def test_a_failure_does_not_affect_a_working_tenant(tenant) -> None:
    assert environments.on_environment_failed(tenant, EVENTS.failed) == []


@pytest.mark.parametrize("tenant", BEFORE)
def test_a_ready_environment_activates_even_after_a_failure(tenant) -> None:
    events = environments.on_environment_ready(tenant, ready())

    assert events == [TenantActivated(tenant_id=ID, slug="acme", environment_id=EVENTS.ready.environment_id, epoch=1)]
    assert after(PROVISIONING, events) == ACTIVE


@pytest.mark.parametrize("tenant", [ACTIVE, SUSPENDED, *LEFT])
def test_a_known_environment_activates_only_once(tenant) -> None:
    assert environments.on_environment_ready(tenant, ready()) == []


def test_a_new_placement_activates_again_and_keeps_the_holds() -> None:
    events = environments.on_environment_ready(SUSPENDED, ready(epoch=2))

    assert [type(event) for event in events] == [TenantActivated, TenantSuspended]
    assert after(SUSPENDED, events) == replace(SUSPENDED, epoch=2)
    assert after(ACTIVE, environments.on_environment_ready(ACTIVE, ready(epoch=2))) == replace(ACTIVE, epoch=2)


@pytest.mark.parametrize("tenant", BEFORE)
def test_a_hold_before_the_environment_is_ready_is_kept(tenant) -> None:
    events = access.on_subscription_suspended(tenant, EVENTS.suspended)
    held = after(tenant, events)

    assert events == [HoldsChanged(tenant_id=ID, holds=(BILLING,))]
    assert held.status is tenant.status
    assert environments.on_environment_ready(held, ready())[1:] == suspended(BILLING)


@pytest.mark.parametrize("tenant", BEFORE)
def test_a_hold_lifted_before_the_environment_is_ready_has_no_effect(tenant) -> None:
    held = replace(tenant, holds=(BILLING, OPERATOR_BLOCKED))
    events = access.on_subscription_entitling(held)

    assert events == [HoldsChanged(tenant_id=ID, holds=(OPERATOR_BLOCKED,))]
    assert after(held, events) == replace(tenant, holds=(OPERATOR_BLOCKED,))


def test_a_paused_subscription_suspends_as_an_unpaid_one() -> None:
    events = access.on_subscription_suspended(ACTIVE, EVENTS.paused)

    assert events == suspended(BILLING.model_copy(update={"reason": "the subscription is paused"}))


def test_each_origin_lifts_only_its_own_hold() -> None:
    both = after(SUSPENDED, holds.suspend(SUSPENDED, SuspensionMode.READ_ONLY, "audit"))
    paid = access.on_subscription_entitling(both)
    resumed = holds.resume(both)

    assert both.holds == (BILLING, OPERATOR_READ_ONLY)
    assert paid == suspended(OPERATOR_READ_ONLY, mode=SuspensionMode.READ_ONLY)
    assert resumed == suspended(BILLING)
    assert holds.resume(after(both, paid)) == [TenantReactivated(tenant_id=ID, lifted=HoldOrigin.OPERATOR)]


def test_an_operator_cannot_lift_the_hold_of_billing() -> None:
    assert holds.resume(SUSPENDED) == []


@pytest.mark.parametrize("tenant", [*BEFORE, ACTIVE])
def test_lifting_an_absent_hold_records_nothing(tenant) -> None:
    assert holds.resume(tenant) == []
    assert access.on_subscription_entitling(tenant) == []


@pytest.mark.parametrize("tenant", LEFT)
def test_an_offboarded_tenant_cannot_be_suspended_or_resumed(tenant) -> None:
    with pytest.raises(tenants.TenantLeftError) as refusal:
        holds.suspend(tenant, SuspensionMode.BLOCKED, "abuse")
    with pytest.raises(tenants.TenantLeftError):
        holds.resume(tenant)

    assert refusal.value.code == "tenant_left"


@pytest.mark.parametrize("tenant", LEFT)
def test_payment_and_account_events_are_ignored_after_offboarding(tenant) -> None:
    held = replace(tenant, holds=(BILLING,))

    assert access.on_subscription_suspended(tenant, EVENTS.suspended) == []
    assert access.on_subscription_entitling(held) == []
    assert tenants.on_account_registered(tenant, registered(5)) == []
    assert offboarding.on_subscription_ended(tenant, ENDED, POLICY, NOW) == []
    assert offboarding.offboard(replace(tenant, left_by=HoldOrigin.OPERATOR), "closed", NOW) == []


@pytest.mark.parametrize("tenant", [*BEFORE, ACTIVE, SUSPENDED])
def test_a_new_retention_period_replaces_the_old_one(tenant) -> None:
    events = tenants.on_account_registered(tenant, registered(5))

    assert events == [RetentionNoted(tenant_id=ID, retention_s=5)]
    assert after(tenant, events) == replace(tenant, retention_s=5)


@pytest.mark.parametrize("tenant", [PROVISIONING, ACTIVE, SUSPENDED])
def test_offboarding_keeps_the_data_for_the_retention_period_of_the_plan(tenant) -> None:
    events = offboarding.offboard(tenant, "closed", NOW)

    assert events == [
        OffboardingStarted(
            tenant_id=ID,
            origin=HoldOrigin.OPERATOR,
            reason="closed",
            retain_until=NOW + timedelta(days=1),
            expected_by=NOW + offboarding.EXPORT_TIME,
        )
    ]
    assert after(tenant, events).status is Status.OFFBOARDING


def test_offboarding_needs_a_known_retention_period() -> None:
    with pytest.raises(tenants.RetentionUnknownError) as refusal:
        offboarding.offboard(replace(ACTIVE, retention_s=None), "closed", NOW)

    assert refusal.value.code == "retention_unknown"


@pytest.mark.parametrize("tenant", [REQUESTED, FAILED])
def test_a_tenant_without_an_environment_is_cancelled(tenant) -> None:
    by_operator = offboarding.offboard(tenant, "closed", NOW)
    scheduled = after(tenant, offboarding.on_subscription_ended(tenant, ENDED, POLICY, NOW))
    by_billing = offboarding.on_time(scheduled, NOW + DELAY)

    assert [(type(event), event.origin, event.reason) for event in by_operator] == [
        (TenantCancelled, HoldOrigin.OPERATOR, "closed")
    ]
    assert by_billing == [TenantCancelled(tenant_id=ID, origin=HoldOrigin.BILLING, reason="the subscription ended")]
    assert after(tenant, by_operator).status is Status.CANCELLED


@pytest.mark.parametrize("tenant", [*BEFORE, ACTIVE, SUSPENDED, RETAINED, CANCELLED])
def test_only_an_offboarding_tenant_becomes_retained(tenant) -> None:
    assert offboarding.on_environment_retained(tenant, EVENTS.retained, NOW) == []


def test_offboarding_without_a_date_is_not_retained() -> None:
    with pytest.raises(tenants.RetentionUnknownError):
        offboarding.on_environment_retained(replace(OFFBOARDING, retain_until=None), EVENTS.retained, NOW)
