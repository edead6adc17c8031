"""Rules of plan migrations: requested changes, counts, pause and end."""

import pytest
from billing_samples import CATALOGUE, NOW
from change_samples import SUBSCRIPTION, having
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.subscriptions.domain import changes, plan_migrations
from paybill_billing.subscriptions.domain.plan_migrations import ChangeCounts, Status
from paybill_contracts.billing import AccessState
from paybill_contracts.errors import DomainError
from paybill_contracts.money import Money

MIGRATION_ID = "mov_" + "1" * 32
NONE = ChangeCounts(0, 0, 0)


def sub(number):
    return f"sub_{number:032x}"


def start(*, to_version=2, from_version=1, total=3, from_plan="pro"):
    return plan_migrations.start(
        None,
        CATALOGUE,
        move_id=MIGRATION_ID,
        from_plan=from_plan,
        from_version=from_version,
        to_plan="pro",
        to_version=to_version,
        at_period_end=True,
        total=total,
        reason="new prices",
    )


def after(migration, events):
    for event in events:
        migration = plan_migrations.evolve(migration, event)
    return migration


def running():
    return after(None, start())


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"to_version": 1}, "same_version"),
        ({"to_version": 7}, "unknown_plan"),
        ({"from_plan": "gold"}, "unknown_plan"),
        ({"total": 0}, "nobody_to_move"),
    ],
)
def test_a_plan_migration_needs_two_published_versions_and_subscribers(more, code):
    with pytest.raises(DomainError) as caught:
        start(**more)

    assert caught.value.code == code


def test_each_subscription_gets_one_confirmed_change_and_keeps_its_quantity():
    (first,) = plan_migrations.request_change(running(), CATALOGUE, SUBSCRIPTION, None)
    (second,) = plan_migrations.request_change(running(), CATALOGUE, SUBSCRIPTION, None)

    assert first == second
    assert (first.confirmed, first.move_id, first.wanted.at_period_end) == (True, MIGRATION_ID, True)
    assert (first.wanted.plan.version, first.wanted.quantity) == (2, None)


@pytest.mark.parametrize(
    ("subscription", "open_change", "code"),
    [
        (having(access=AccessState.PAUSED), None, "subscription_paused"),
        (having(access=AccessState.SUSPENDED), None, "subscription_suspended"),
        (having(cancel_at=NOW), None, "subscription_cancels"),
        (having(price=Money(minor=2000, currency="USD")), None, "no_such_price"),
        (SUBSCRIPTION, "chg_other", "change_open"),
    ],
)
def test_a_refused_change_is_recorded_with_its_reason(subscription, open_change, code):
    requested, refused = plan_migrations.request_change(running(), CATALOGUE, subscription, open_change)
    change = changes.evolve(changes.evolve(None, requested), refused)

    assert (change.status, change.code, change.move_id) == (changes.Status.REFUSED, code, MIGRATION_ID)
    assert change.refusal


def test_a_batch_starts_after_the_last_one_and_progress_never_goes_back():
    migration = after(running(), plan_migrations.progress(running(), sub(2), 2, NONE))

    assert (migration.after, migration.asked) == (sub(2), 2)
    assert plan_migrations.progress(migration, sub(1), 2, ChangeCounts(2, 2, 0)) == []
    assert plan_migrations.progress(migration, sub(2), 2, ChangeCounts(2, 2, 0)) == []


def test_a_plan_migration_finishes_when_no_change_is_open():
    migration = running()

    assert plan_migrations.finish(migration, ChangeCounts(3, 1, 1), 0) == []
    done = after(migration, plan_migrations.finish(migration, ChangeCounts(3, 2, 1), 1))
    assert (done.status, done.moved, done.refused, done.left) == (Status.FINISHED, 2, 1, 1)
    for verb in (lambda: plan_migrations.pause(done, "x"), lambda: plan_migrations.resume(done)):
        with pytest.raises(plan_migrations.PlanMigrationFinishedError):
            verb()


def test_a_paused_plan_migration_requests_no_change_until_it_is_resumed():
    paused = after(running(), plan_migrations.pause(running(), "check first"))

    assert plan_migrations.progress(paused, sub(1), 1, NONE) == []
    assert plan_migrations.finish(paused, NONE, 0) == []
    assert plan_migrations.pause(paused, "again") == []
    resumed = after(paused, plan_migrations.resume(paused))
    assert resumed.status is Status.RUNNING
    assert plan_migrations.resume(resumed) == []


@given(st.lists(st.tuples(st.sampled_from(["progress", "finish", "pause", "resume"]), st.integers(0, 9)), max_size=25))
def test_a_plan_migration_only_progresses_and_finishes_once_in_any_order_of_commands(steps):
    migration, positions, finished = running(), [""], 0
    for verb, number in steps:
        try:
            events = {
                "progress": lambda migration=migration, number=number: plan_migrations.progress(
                    migration, sub(number + 1), 1, NONE
                ),
                "finish": lambda migration=migration, number=number: plan_migrations.finish(
                    migration, ChangeCounts(number, number, 0), 0
                ),
                "pause": lambda migration=migration: plan_migrations.pause(migration, "x"),
                "resume": lambda migration=migration: plan_migrations.resume(migration),
            }[verb]()
        except plan_migrations.PlanMigrationFinishedError:
            assert migration.status is Status.FINISHED
            continue
        assert migration.status is not Status.FINISHED or not events
        migration = after(migration, events)
        positions.append(migration.after)
        finished += sum(event.TYPE == "billing.move_finished" for event in events)

    assert positions == sorted(positions)
    assert finished <= 1


def test_an_event_before_the_start_is_refused():
    with pytest.raises(plan_migrations.PlanMigrationOrderError):
        plan_migrations.evolve(None, plan_migrations.pause(running(), "x")[0])
