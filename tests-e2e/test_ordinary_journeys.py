"""No invariant is reported as violated during ordinary journeys, and one that does not hold for too long is."""

from collections import Counter
from dataclasses import replace

import pytest
from ordinary_journeys import Journey, ordinary_journey
from paybill_contracts.tenant import Hold, HoldOrigin, SuspensionMode
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.tables import ENVIRONMENTS
from paybill_tenant.domain.tenants import Status
from paybill_tenant.tables import TENANTS

HELD = Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="the subscription is suspended")


def status_of(journey: Journey) -> Status:
    status: Status = journey.tenant.states[TENANTS.key(journey.id)][0].status
    return status


def active_journey() -> Journey:
    """Returns a journey that ended with an active tenant."""
    return next(journey for journey in map(ordinary_journey, range(100)) if status_of(journey) is Status.ACTIVE)


@pytest.mark.e2e
def test_a_thousand_ordinary_journeys_violate_no_invariant_and_rest_without_a_difference() -> None:
    statuses: Counter[Status] = Counter()
    for seed in range(1000):
        journey = ordinary_journey(seed)
        statuses[status_of(journey)] += 1

        assert (journey.violations, journey.differences()) == ([], {}), seed
    assert statuses[Status.ACTIVE] > 800
    assert statuses[Status.CANCELLED] > 20


@pytest.mark.parametrize(("lasts_s", "reported"), [(30, False), (90, True)])
def test_a_hold_that_contradicts_billing_is_reported_once_it_has_lasted(lasts_s: int, *, reported: bool) -> None:
    journey = active_journey()
    key = TENANTS.key(journey.id)
    right, revision = journey.tenant.states[key]
    wrong = replace(right, status=Status.SUSPENDED, holds=(HELD,))
    journey.at(0, lambda: journey.tenant.states.update({key: (wrong, revision)}))
    journey.at(lasts_s, lambda: journey.tenant.states.update({key: (right, revision)}))

    journey.run()

    assert any("('tenant', 1)" in each for each in journey.violations) is reported


def test_infrastructure_that_differs_without_a_pending_change_is_reported() -> None:
    journey = active_journey()
    key = ENVIRONMENTS.key(id_of(journey.id))
    right, revision = journey.provisioner.states[key]
    wrong = replace(right, desired=replace(right.desired, size=Size("platinum", right.plan.preset)))
    journey.at(0, lambda: journey.provisioner.states.update({key: (wrong, revision)}))
    journey.at(90, lambda: None)

    journey.run()

    assert any("('provisioner', 6)" in each for each in journey.violations)
