"""The rules of moves: who is asked, what is counted, and when one is over."""

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

MOVE_ID = "mov_" + "1" * 32
NONE = ChangeCounts(0, 0, 0)


def sub(number):
    return f"sub_{number:032x}"


def begin(*, to_version=2, from_version=1, total=3, from_plan="pro"):
    return plan_migrations.start(
        None,
        CATALOGUE,
        move_id=MOVE_ID,
        from_plan=from_plan,
        from_version=from_version,
        to_plan="pro",
        to_version=to_version,
        at_period_end=True,
        total=total,
        reason="new prices",
    )


def after(move, events):
    for event in events:
        move = plan_migrations.evolve(move, event)
    return move


def started():
    return after(None, begin())


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"to_version": 1}, "same_version"),
        ({"to_version": 7}, "unknown_plan"),
        ({"from_plan": "gold"}, "unknown_plan"),
        ({"total": 0}, "nobody_to_move"),
    ],
)
def test_a_move_needs_two_published_versions_and_somebody_to_move(more, code):
    with pytest.raises(DomainError) as caught:
        begin(**more)

    assert caught.value.code == code


def test_a_subscriber_is_asked_once_confirmed_and_keeps_quantity():
    (asked,) = plan_migrations.request_change(started(), CATALOGUE, SUBSCRIPTION, None)
    (again,) = plan_migrations.request_change(started(), CATALOGUE, SUBSCRIPTION, None)

    assert asked == again
    assert (asked.confirmed, asked.move_id, asked.wanted.at_period_end) == (True, MOVE_ID, True)
    assert (asked.wanted.plan.version, asked.wanted.quantity) == (2, None)


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
def test_one_that_cannot_be_moved_is_recorded_with_the_reason(subscription, open_change, code):
    asked, refused = plan_migrations.request_change(started(), CATALOGUE, subscription, open_change)
    change = changes.evolve(changes.evolve(None, asked), refused)

    assert (change.status, change.code, change.move_id) == (changes.Status.REFUSED, code, MOVE_ID)
    assert change.refusal


def test_a_move_goes_on_behind_the_last_batch_and_never_back():
    move = after(started(), plan_migrations.progress(started(), sub(2), 2, NONE))

    assert (move.after, move.asked) == (sub(2), 2)
    assert plan_migrations.progress(move, sub(1), 2, ChangeCounts(2, 2, 0)) == []
    assert plan_migrations.progress(move, sub(2), 2, ChangeCounts(2, 2, 0)) == []


def test_a_move_is_over_when_every_change_is():
    move = started()

    assert plan_migrations.finish(move, ChangeCounts(3, 1, 1), 0) == []
    done = after(move, plan_migrations.finish(move, ChangeCounts(3, 2, 1), 1))
    assert (done.status, done.moved, done.refused, done.left) == (Status.FINISHED, 2, 1, 1)
    for verb in (lambda: plan_migrations.pause(done, "x"), lambda: plan_migrations.resume(done)):
        with pytest.raises(plan_migrations.PlanMigrationFinishedError):
            verb()


def test_a_paused_move_asks_nobody_until_it_is_resumed():
    paused = after(started(), plan_migrations.pause(started(), "look first"))

    assert plan_migrations.progress(paused, sub(1), 1, NONE) == []
    assert plan_migrations.finish(paused, NONE, 0) == []
    assert plan_migrations.pause(paused, "again") == []
    resumed = after(paused, plan_migrations.resume(paused))
    assert resumed.status is Status.RUNNING
    assert plan_migrations.resume(resumed) == []


@given(st.lists(st.tuples(st.sampled_from(["progress", "finish", "pause", "resume"]), st.integers(0, 9)), max_size=25))
def test_in_any_order_a_move_only_goes_forward_and_ends_once(steps):
    move, seen, finished = started(), [""], 0
    for verb, number in steps:
        try:
            events = {
                "progress": lambda move=move, number=number: plan_migrations.progress(move, sub(number + 1), 1, NONE),
                "finish": lambda move=move, number=number: plan_migrations.finish(
                    move, ChangeCounts(number, number, 0), 0
                ),
                "pause": lambda move=move: plan_migrations.pause(move, "x"),
                "resume": lambda move=move: plan_migrations.resume(move),
            }[verb]()
        except plan_migrations.PlanMigrationFinishedError:
            assert move.status is Status.FINISHED
            continue
        assert move.status is not Status.FINISHED or not events
        move = after(move, events)
        seen.append(move.after)
        finished += sum(event.TYPE == "billing.move_finished" for event in events)

    assert seen == sorted(seen)
    assert finished <= 1


def test_a_fact_before_the_start_is_refused():
    with pytest.raises(plan_migrations.PlanMigrationOrderError):
        plan_migrations.evolve(None, plan_migrations.pause(started(), "x")[0])
