"""A planted violation of each invariant is found, and every status that a tenant can wait in has a reason."""

from dataclasses import replace
from datetime import timedelta
from functools import reduce

import pytest
from paybill_contracts.tenant import Hold, HoldOrigin, OpenIncident, SuspensionMode
from paybill_tenant.domain import access, invariants
from paybill_tenant.domain.tenants import BUILD_TIME, ScheduledOffboarding, Status, Tenant, evolve
from tenant_samples import (
    ACTIVE,
    BILLING,
    CANCELLED,
    ENTITLED,
    FAILED,
    NOW,
    OFFBOARDING,
    PROVISIONING,
    REQUESTED,
    RETAINED,
    RETURNING,
    SUSPENDED,
    entitlements,
)

UNOWNED, OWNED = (OpenIncident(incident_id=f"inc_{digit * 32}", is_owned=digit == "2") for digit in "12")
DENIED = replace(ENTITLED, allows_access=False)
OPERATOR = Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.BLOCKED, reason="abuse")
RULES = {rule.number: rule.check for rule in invariants.RULES}


def found(number: int, tenant: Tenant, now=NOW) -> tuple[str, str] | None:
    difference = RULES[number]([tenant], now)
    return None if difference is None else (difference.left, difference.right)


def test_each_invariant_has_one_rule() -> None:
    assert list(RULES) == [1, 2, 3, 7]


def test_access_that_contradicts_billing_is_found() -> None:
    held = replace(SUSPENDED, entitlement=ENTITLED)
    free = replace(ACTIVE, entitlement=DENIED)

    assert found(1, held) == ("billing allows access", "acme is suspended and is held by billing")
    assert found(1, free) == ("billing allows no access", "acme is active and has no hold of billing")
    assert found(1, replace(ACTIVE, entitlement=ENTITLED)) is None
    assert found(1, replace(SUSPENDED, entitlement=DENIED)) is None
    assert found(1, replace(ACTIVE, status=Status.SUSPENDED, holds=(OPERATOR,), entitlement=ENTITLED)) is None


@pytest.mark.parametrize("tenant", [OFFBOARDING, RETAINED, CANCELLED])
def test_a_charge_for_a_tenant_that_left_is_found(tenant) -> None:
    by_operator = replace(tenant, left_by=HoldOrigin.OPERATOR, entitlement=ENTITLED)

    assert found(2, replace(tenant, remaining=("sub_2",))) == (f"acme is {tenant.status}", "not cancelled: sub_2")
    assert found(2, by_operator) == (f"acme is {tenant.status}", "a subscription to pro is paid")
    assert found(2, replace(tenant, entitlement=DENIED)) is None
    assert found(2, replace(ACTIVE, remaining=("sub_2",), entitlement=ENTITLED)) is None


def test_a_charge_whose_own_incident_has_an_owner_is_no_violation() -> None:
    both = replace(RETAINED, remaining=("sub_2", "si_3"))
    own = OpenIncident(
        incident_id="inc_" + "3" * 32, is_owned=True, kind="charge_without_tenant", subject="subscription/sub_2"
    )
    other = own.model_copy(update={"kind": "second_subscription"})

    assert found(2, replace(both, incidents=(own,))) == ("acme is retained", "not cancelled: si_3")
    assert found(2, replace(both, remaining=("sub_2",), incidents=(own,))) is None
    for incident in (UNOWNED, OWNED, other, own.model_copy(update={"is_owned": False})):
        assert found(2, replace(both, incidents=(incident,))) == ("acme is retained", "not cancelled: sub_2, si_3")


def test_a_customer_that_pays_without_a_tenant_is_found() -> None:
    for tenant in (RETAINED, CANCELLED, FAILED):
        assert found(3, replace(tenant, entitlement=ENTITLED)) == (
            "a subscription to pro is paid",
            f"acme is {tenant.status}",
        )
        assert found(3, replace(tenant, entitlement=ENTITLED, incidents=(UNOWNED,))) is not None
        assert found(3, replace(tenant, entitlement=ENTITLED, incidents=(UNOWNED, OWNED))) is None
    for tenant in (REQUESTED, PROVISIONING, ACTIVE, SUSPENDED, RETURNING, OFFBOARDING):
        assert found(3, replace(tenant, entitlement=ENTITLED)) is None


@pytest.mark.parametrize("tenant", [ACTIVE, RETAINED, CANCELLED])
def test_a_resting_tenant_waits_for_nothing(tenant) -> None:
    assert invariants.waiting(tenant) is None


@pytest.mark.parametrize(
    ("tenant", "reason"),
    [
        (replace(REQUESTED, valid_until=NOW), "the first payment"),
        (replace(REQUESTED, entitlement=ENTITLED, expected_by=NOW), "the plan of the environment"),
        (replace(PROVISIONING, expected_by=NOW), "the environment to be ready"),
        (replace(RETURNING, expected_by=NOW), "the environment to be ready"),
        (replace(OFFBOARDING, expected_by=NOW), "the export of the data"),
        (
            replace(SUSPENDED, scheduled=ScheduledOffboarding(reason="ended", retention_s=1, at=NOW)),
            "offboarding waits for another subscription",
        ),
    ],
)
def test_a_wait_with_an_end_is_overdue_after_it(tenant, reason) -> None:
    wait = invariants.waiting(tenant)

    assert wait is not None
    assert (wait.reason, wait.until) == (reason, NOW)
    assert found(7, tenant, NOW + wait.tolerance) is None
    assert found(7, tenant, NOW + wait.tolerance + timedelta(seconds=1)) is not None


@pytest.mark.parametrize(
    ("tenant", "reason"),
    [
        (replace(REQUESTED, entitlement=DENIED), "a payment"),
        (replace(PROVISIONING, entitlement=DENIED, expected_by=NOW), "a subscription that gives access"),
        (FAILED, "an operator to retry the environment"),
        (replace(SUSPENDED, holds=(BILLING, OPERATOR)), "the end of a hold by billing and operator"),
        (
            replace(
                ACTIVE,
                legal_holds=("2026-17",),
                scheduled=ScheduledOffboarding(reason="ended", retention_s=1, at=NOW),
            ),
            "offboarding waits for the end of the legal hold 2026-17",
        ),
    ],
)
def test_a_wait_that_a_person_ends_has_a_reason_and_is_never_overdue(tenant, reason) -> None:
    assert invariants.waiting(tenant) == invariants.Waiting(reason)
    assert found(7, tenant, NOW + timedelta(days=999)) is None


def test_the_wait_for_an_environment_begins_again_with_access() -> None:
    denied = replace(PROVISIONING, entitlement=DENIED, expected_by=NOW)
    later = NOW + timedelta(days=9)

    events = access.on_entitlements_set(denied, entitlements(denied.id, allows=True), later)

    assert invariants.waiting(reduce(evolve, events, denied)) == invariants.Waiting(
        "the environment to be ready", later + BUILD_TIME
    )
