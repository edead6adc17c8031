"""The reason why an environment is not as it has to be, with the next command; a problem after the policy's time."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from approval_samples import BO, approved, compared, without_bucket
from environment_samples import (
    BLOCKED,
    BLUEPRINT,
    BUILDING,
    CELLS,
    FAILED,
    NOW,
    READY,
    REGISTERED,
    RETAINED,
    after,
    entitled,
)
from paybill_contracts.placement import Preset
from paybill_provisioner.domain import access, approvals, planning
from paybill_provisioner.domain.environment_parts import Move, Purge, Refusal
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.policy import SAFE
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.domain.unsettled import Reason, Unsettled, Wait, unsettled

DAY = timedelta(seconds=SAFE.change_within_s)
SHORTLY = NOW + timedelta(minutes=13)
LATER = NOW + DAY + timedelta(seconds=1)
WAIT = Wait("job-1", "build", "role.main", "the server refuses: disk full (53100)", 3, NOW)


def entitle(environment: Environment, **fields: Any) -> Environment:
    return after(environment, planning.on_entitlements_set(environment, entitled(**fields), BLUEPRINT, CELLS, NOW))


PENDING = entitle(READY, tier="business", placement=Preset.SILO)
GRANTED = approved(PENDING, BLUEPRINT)
REPAIR = compared(READY, without_bucket())
APPROVAL = PENDING.approval.id if PENDING.approval else ""
REJECTED = after(PENDING, approvals.reject(PENDING, APPROVAL, BO, "too expensive"))
PURGING = replace(RETAINED, status=Status.PURGING, purge=Purge(NOW))


def found(environment: Environment, now: Any = SHORTLY, wait: Wait | None = None) -> Unsettled:
    result = unsettled(environment, wait, SAFE, now)
    assert result is not None
    return result


@pytest.mark.parametrize("environment", [READY, BUILDING, REGISTERED, RETAINED, PURGING])
def test_what_is_built_or_becomes_so_by_itself_needs_no_reason(environment: Environment) -> None:
    assert unsettled(environment, None, SAFE, SHORTLY) is None


@pytest.mark.parametrize(
    ("environment", "reason", "text", "command"),
    [
        (FAILED, Reason.FAILED, "environment could not be built: disk full", "paybill environment retry acme"),
        (
            entitle(REGISTERED, tier="platinum"),
            Reason.REFUSED,
            "(tier_unknown): no blueprint has the tier platinum",
            "paybill blueprint list",
        ),
        (
            replace(PURGING, failure=FAILED.failure),
            Reason.FAILED,
            "could not be deleted: disk full",
            "paybill environment retry acme",
        ),
        (
            replace(PURGING, purge=replace(PURGING.purge, is_deleted=True), failure=FAILED.failure),
            Reason.FAILED,
            "could not be verified as deleted: disk full",
            "paybill environment retry acme",
        ),
        (
            replace(READY, built_size=None),
            Reason.NOT_PLANNED,
            "starter (pooled) is entitled, nothing is built, and there is no plan",
            "paybill environment plan acme",
        ),
    ],
)
def test_what_needs_an_operator_is_a_problem_at_once(
    environment: Environment, reason: Reason, text: str, command: str
) -> None:
    result = found(environment, NOW)

    assert (result.reason, result.command, result.is_problem) == (reason, command, True)
    assert text in result.text


@pytest.mark.parametrize("environment", [READY, BUILDING, PENDING, FAILED, RETAINED])
def test_a_job_that_waits_is_named_before_anything_else(environment: Environment) -> None:
    result = found(environment, wait=WAIT)

    assert (result.reason, result.command, result.is_problem) == (Reason.WAITS, "paybill jobs retry job-1", True)
    assert result.text == (
        "role.main waits, tried 3 times, next at 2026-11-22 00:00:00 UTC: the server refuses: disk full (53100)"
    )


@pytest.mark.parametrize(
    ("environment", "reason", "text", "command"),
    [
        (
            PENDING,
            Reason.APPROVAL_REQUESTED,
            f"the approval {APPROVAL} by another",
            f"paybill approval show {APPROVAL}",
        ),
        (GRANTED, Reason.TRANSFER, "would transfer data", "paybill environment show acme"),
        (REJECTED, Reason.APPROVAL_REJECTED, "is rejected: too expensive", "paybill environment plan acme"),
        (
            replace(PENDING, approval=None),
            Reason.TRANSFER,
            "needs business (silo); it waits for",
            "paybill environment show acme",
        ),
    ],
)
def test_a_paid_change_that_is_pending_becomes_a_problem_after_the_time_of_the_policy(
    environment: Environment, reason: Reason, text: str, command: str
) -> None:
    early, late = found(environment, SHORTLY), found(replace(environment), LATER)

    assert (early.reason, early.command, early.since) == (reason, command, NOW)
    assert text in early.text
    assert (early.is_problem, late.is_problem) == (False, True)


def test_an_expired_approval_is_requested_again_by_another_plan() -> None:
    result = found(PENDING, NOW + timedelta(hours=73))

    assert (result.reason, result.command) == (Reason.APPROVAL_EXPIRED, "paybill environment plan acme")
    assert result.text.endswith("expired at 2026-11-25 00:00:00 UTC")


def test_a_plan_that_changes_nothing_of_what_is_paid_for_is_never_late() -> None:
    granted = approved(REPAIR, without_bucket())

    assert (found(REPAIR, LATER).reason, found(REPAIR, LATER).is_problem) == (Reason.APPROVAL_REQUESTED, False)
    assert found(granted).command == "paybill environment apply acme"


def test_a_plan_that_takes_longer_than_the_policy_allows_names_its_next_step() -> None:
    result = found(BUILDING, LATER)

    assert (result.reason, result.is_problem) == (Reason.SLOW, True)
    assert (
        result.text
        == f"it is building by the plan of 2026-11-22 00:00:00 UTC, and {BUILDING.remaining[0].address} is next"
    )


def test_a_plan_of_a_suspended_tenant_is_paused_and_a_legal_hold_stops_a_purge() -> None:
    paused = found(after(BUILDING, access.on_tenant_suspended(BUILDING, BLOCKED)), LATER)
    held = found(replace(PURGING, purge=Purge(NOW, held_by=("2026-17",))), LATER)

    assert (paused.reason, paused.command, paused.is_problem) == (Reason.PAUSED, "paybill tenant show acme", False)
    assert (held.reason, held.is_problem) == (Reason.LEGAL_HOLD, False)
    assert held.text == "legal holds stop its purge: 2026-17"


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("region_full", "paybill cell list"),
        ("tables_have_foreign_objects", "paybill environment retry acme"),
        ("tables_not_inspected", "paybill environment show acme"),
        ("tier_unknown", "paybill blueprint list"),
    ],
)
def test_each_refusal_has_the_command_that_ends_it(code: str, command: str) -> None:
    result = found(replace(READY, refusal=Refusal(code, "a reason", "a next step")))

    assert (result.reason, result.command) == (Reason.REFUSED, command)
    assert result.is_problem is (code != "tables_not_inspected")  # the inspection runs by itself


def test_another_placement_for_a_person_is_no_paid_change_and_a_compensation_no_failure() -> None:
    by_person = replace(PENDING, move=Move(Size("business", Preset.SILO), BO, NOW))

    assert (found(PENDING, LATER).is_problem, found(by_person, LATER).is_problem) == (True, False)
    assert "is entitled" not in found(by_person).text
    assert unsettled(replace(FAILED, status=Status.COMPENSATING), None, SAFE, SHORTLY) is None
