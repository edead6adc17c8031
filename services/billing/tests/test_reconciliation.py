"""Rules of reconciliation: drifts, and the progress of a run."""

import json
from datetime import timedelta

import pytest
from billing_samples import NOW
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.reconciliation.domain import (
    Page,
    Run,
    RunEndedError,
    RunningAlreadyError,
    RunOrderError,
    Status,
    differences,
    drift_kind,
    evolve,
    progress,
    start,
    stop,
)
from paybill_billing.reconciliation.tables import RUNS
from paybill_contracts.billing import AccessState, Subscription
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.money import Money
from paybill_contracts.reconciliation import DriftKind, ReconciliationFinished, ReconciliationProgressed

RUN = "rec_" + "1" * 32


def held(**more) -> Subscription:
    return Subscription(
        **{
            "subscription_id": "sub_" + "a" * 32,
            "tenant_id": "ten_" + "a" * 32,
            "provider": "stripe",
            "provider_subscription": "sub_1",
            "provider_status": "active",
            "access": AccessState.ACTIVE,
            "plan": PlanRef(plan="starter", version=1, catalogue_hash="0" * 64),
            "quantity": 1,
            "price": Money(minor=2900, currency="EUR"),
            "period_start": NOW,
            "period_end": NOW + timedelta(days=30),
            "cancel_at": None,
            "grace_until": None,
        }
        | more
    )


def running(**more) -> Run:
    return Run(**{"id": RUN, "provider": "stripe", "repair": True, "started_at": NOW} | more)


def test_a_sync_that_changes_nothing_is_no_drift() -> None:
    assert drift_kind(held(), held()) is None
    assert drift_kind(held(), None) is None


def test_unknown_and_different_subscriptions_are_distinct_drifts() -> None:
    assert drift_kind(None, held()) is DriftKind.UNKNOWN_HERE
    assert drift_kind(held(), held(quantity=2)) is DriftKind.DIFFERENT


def test_differences_name_each_field_and_both_sides() -> None:
    found = differences(held(), held(quantity=2, cancel_at=NOW))

    assert [(d.field, d.here, d.there) for d in found] == [
        ("cancel_at", None, NOW.isoformat().replace("+00:00", "Z")),
        ("quantity", "1", "2"),
    ]


def test_a_second_concurrent_run_of_a_provider_is_refused() -> None:
    with pytest.raises(RunningAlreadyError, match="rec_other"):
        start(RUN, "stripe", "rec_other", repair=True, now=NOW)


def test_a_stopped_run_makes_no_progress() -> None:
    stopped = evolve(running(), stop(running())[0])

    assert stopped.status is Status.STOPPED
    assert progress(stopped, Page("sub_9", listed=False, mine=None, compared=3, drifts=())) == []
    with pytest.raises(RunEndedError, match="stopped"):
        stop(stopped)


def test_a_run_begins_with_its_start() -> None:
    with pytest.raises(RunOrderError):
        evolve(None, ReconciliationFinished(run_id=RUN, looked=0, drifted=0))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_the_counts_of_a_run_are_sums_of_its_pages_and_the_last_page_ends_it(sizes: list[int]) -> None:
    (began,) = start(RUN, "stripe", None, repair=True, now=NOW)
    run = evolve(None, began)
    for place, size in enumerate(sizes):
        done = place == len(sizes) - 1
        (event,) = progress(run, Page(f"sub_{place}", listed=done, mine=None, compared=size, drifts=(), done=done))
        assert isinstance(event, ReconciliationFinished if done else ReconciliationProgressed)
        run = evolve(run, event)

    assert run.compared == sum(sizes)
    assert run.status is Status.FINISHED


def test_the_stored_run_keeps_its_published_fields():
    run = Run(id=RUN, provider="stripe", repair=True, started_at=NOW, compared=3)
    document = json.loads(RUNS.dump(run))

    assert document["looked"] == 3
    assert "compared" not in document
    assert RUNS.load(json.dumps(document)) == run
