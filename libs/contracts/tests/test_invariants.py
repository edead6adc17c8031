"""A difference is a violation once it has lasted for longer than the tolerance, and ends once."""

from datetime import UTC, datetime, timedelta
from functools import reduce

from paybill_contracts.event import Event
from paybill_contracts.invariants import (
    Difference,
    Invariant,
    ProvisionerInvariantRestored,
    ProvisionerInvariantViolated,
    Violation,
    ViolationStatus,
    evolve,
    judge,
    violation_id,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TENANT = "ten_" + "a" * 32
SIZE = Invariant(6, "infrastructure matches the subscription", lambda _states, _now: None)
DIFFERENT = Difference(left="starter is built", right="business is entitled")
TOLERANCE = timedelta(seconds=60)


def after(
    violation: Violation | None, difference: Difference | None, since_s: int
) -> tuple[Violation | None, list[Event]]:
    """Returns the violation after a check at `since_s` seconds after the begin of the difference."""
    now = NOW + timedelta(seconds=since_s)
    events = judge("provisioner", violation, SIZE, TENANT, difference, NOW, now, TOLERANCE)
    return reduce(evolve, events, violation), events


def test_a_short_difference_is_no_violation() -> None:
    assert after(None, DIFFERENT, 59) == (None, [])


def test_a_difference_that_lasts_is_recorded_once_with_both_sides() -> None:
    violation, [event] = after(None, DIFFERENT, 60)

    assert isinstance(event, ProvisionerInvariantViolated)
    assert (event.tenant, event.number, event.left, event.right, event.since) == (
        TENANT,
        6,
        "starter is built",
        "business is entitled",
        NOW,
    )
    assert after(violation, DIFFERENT, 120) == (violation, [])


def test_the_end_is_recorded_once_and_a_new_case_is_a_new_violation() -> None:
    violation, _ = after(None, DIFFERENT, 60)
    restored, [event] = after(violation, None, 90)
    again, [second] = after(restored, DIFFERENT, 200)

    assert isinstance(event, ProvisionerInvariantRestored)
    assert restored is not None
    assert (restored.status, restored.restored_at) == (ViolationStatus.RESTORED, NOW + timedelta(seconds=90))
    assert after(restored, None, 100) == (restored, [])
    assert isinstance(second, ProvisionerInvariantViolated)
    assert again is not None
    assert again.status is ViolationStatus.OPEN


def test_the_id_names_service_number_and_tenant() -> None:
    ids = {violation_id(service, number, TENANT) for service in ("tenant", "billing") for number in (1, 2)}

    assert len(ids) == 4
