"""What time alone does while a provider is silent: access ends by our own clock, and the next look decides."""

from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import DAY, NOW, SOLD, TENANT, snapshot, sold
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.expiry import PROVIDER_TIMEOUT, SYNC_DELAY
from paybill_contracts.billing import (
    AccessState,
    SubscriptionChanged,
    SubscriptionGraceStarted,
    SubscriptionRecovered,
    SubscriptionSuspended,
)

WEEK = 7 * DAY
PERIOD_END = NOW + 29 * DAY
TRIAL_END = NOW + 13 * DAY
ON_TRIAL = snapshot("trialing", trial_end=TRIAL_END, period_end=TRIAL_END)


def look(standing, shown, now=NOW, pinned=SOLD):
    pinned = replace(pinned, item=shown.items[0])
    for event in subscriptions.sync(
        standing, shown, tenant_id=TENANT, provider="stripe", sold=pinned, failures=(), now=now
    ):
        standing = subscriptions.evolve(standing, event)
    return standing


def later(standing, now):
    """All that time alone brings by then."""
    said = []
    while standing.due is not None and standing.due <= now:
        events = subscriptions.on_time(standing, standing.due)
        assert events, "a timer that is due has something to say"
        for event in events:
            standing = subscriptions.evolve(standing, event)
        said += events
    return standing, said


ACTIVE = look(None, snapshot("active"))
TRIALING = look(None, ON_TRIAL)


@pytest.mark.parametrize(
    ("standing", "ends"),
    [
        (ACTIVE, PERIOD_END),
        (TRIALING, TRIAL_END),
        (look(None, snapshot("active", cancel_at=NOW + 5 * DAY)), NOW + 5 * DAY),
        (look(None, snapshot("active", cancel_at=PERIOD_END + 99 * DAY)), PERIOD_END),
    ],
    ids=["a period", "a trial", "all", "a period before all"],
)
def test_what_is_over_is_looked_at_soon_and_decided_alone_after_a_day_of_silence(standing, ends):
    assert (standing.next_sync, standing.due) == (ends + SYNC_DELAY, ends + PROVIDER_TIMEOUT)
    assert subscriptions.on_time(standing, ends + PROVIDER_TIMEOUT - timedelta(seconds=1)) == []


@pytest.mark.parametrize(("standing", "ends"), [(ACTIVE, PERIOD_END), (TRIALING, TRIAL_END)])
def test_a_period_or_a_trial_over_in_silence_is_a_failed_payment_at_its_end(standing, ends):
    (grace,) = subscriptions.on_time(standing, ends + PROVIDER_TIMEOUT)

    assert isinstance(grace, SubscriptionGraceStarted)
    assert grace.subscription.grace_until == ends + WEEK
    assert grace.subscription.provider_status == standing.subscription.provider_status


def test_grace_over_in_silence_is_suspended_and_nothing_is_due_any_more():
    gone, said = later(TRIALING, TRIAL_END + WEEK)

    assert [type(event) for event in said] == [SubscriptionGraceStarted, SubscriptionSuspended]
    assert (gone.subscription.access, gone.due) == (AccessState.SUSPENDED, None)


def test_without_grace_silence_suspends_at_once():
    standing = look(None, ON_TRIAL, pinned=sold(grace_s=0))

    (said,) = subscriptions.on_time(standing, TRIAL_END + PROVIDER_TIMEOUT)

    assert isinstance(said, SubscriptionSuspended)


def test_what_was_cancelled_for_a_day_ends_access_in_silence_and_never_the_subscription():
    standing = look(None, snapshot("active", cancel_at=NOW + 5 * DAY))

    (said,) = subscriptions.on_time(standing, NOW + 5 * DAY + PROVIDER_TIMEOUT)

    assert isinstance(said, SubscriptionSuspended)


def test_what_time_took_is_looked_at_until_the_provider_speaks():
    grace, _ = later(ACTIVE, PERIOD_END + PROVIDER_TIMEOUT)
    gone, _ = later(ACTIVE, PERIOD_END + WEEK)

    assert (grace.next_sync, gone.next_sync) == (PERIOD_END, PERIOD_END)


@pytest.mark.parametrize("silent_for", [PROVIDER_TIMEOUT, WEEK, 40 * DAY])
def test_after_silence_the_next_look_decides(silent_for):
    now = PERIOD_END + silent_for
    shut, _ = later(ACTIVE, now)
    renewed = snapshot(
        "active", period_start=PERIOD_END, period_end=PERIOD_END + 60 * DAY, paid_until=PERIOD_END + 60 * DAY
    )
    failed = snapshot(
        "past_due",
        period_start=PERIOD_END,
        period_end=PERIOD_END + 30 * DAY,
        failed_at=now - DAY,
        paid_until=PERIOD_END,
    )

    assert look(shut, renewed, now) == look(None, renewed, now)
    assert look(shut, failed, now) == look(None, failed, now)
    assert look(shut, failed, now).subscription.grace_until == now - DAY + WEEK


def test_a_provider_that_shows_nothing_new_after_the_end_is_believed_and_silence_is_over():
    now = PERIOD_END + PROVIDER_TIMEOUT
    shut, _ = later(ACTIVE, now)

    believed = look(shut, snapshot("active"), now)

    assert believed.subscription.past_end
    assert (believed.subscription.access, believed.due, believed.next_sync) == (AccessState.ACTIVE, None, None)
    assert later(believed, now + 99 * DAY) == (believed, [])


def test_a_look_right_at_the_end_does_not_count_as_late():
    standing = look(ACTIVE, snapshot("active"), PERIOD_END + timedelta(seconds=1))

    assert standing == ACTIVE


def test_a_new_period_is_timed_anew_after_one_that_was_believed():
    believed = look(ACTIVE, snapshot("active"), PERIOD_END + PROVIDER_TIMEOUT)

    renewed = look(
        believed,
        snapshot("active", period_start=PERIOD_END, period_end=PERIOD_END + 30 * DAY),
        PERIOD_END + 2 * PROVIDER_TIMEOUT,
    )

    assert not renewed.subscription.past_end
    assert renewed.due == PERIOD_END + 30 * DAY + PROVIDER_TIMEOUT


def test_grace_is_looked_at_before_it_ends_so_that_a_lost_message_shuts_nobody_out():
    grace = look(ACTIVE, snapshot("past_due"))

    assert grace.next_sync == grace.due - SYNC_DELAY


def test_nothing_is_due_that_gives_no_access_and_nothing_is_asked():
    for status in ("incomplete", "unpaid", "paused", "canceled"):
        standing = look(None, snapshot(status))
        assert (standing.due, standing.next_sync) == (None, None)


def test_a_subscription_told_before_time_had_a_say_waits_for_the_next_look():
    old = ACTIVE.subscription.model_copy(update={"grace_s": None})
    told = subscriptions.evolve(
        None,
        SubscriptionChanged(tenant_id=TENANT, subscription_id=old.subscription_id, subscription=old),
    )

    assert told.due is None
    assert told.next_sync == PERIOD_END + SYNC_DELAY


def test_a_failed_payment_takes_nothing_that_was_paid():
    at_once = snapshot("past_due", period_start=NOW - DAY, period_end=PERIOD_END, paid_until=PERIOD_END)
    given_up = snapshot("unpaid", period_start=NOW - DAY, period_end=PERIOD_END, paid_until=PERIOD_END)

    assert look(ACTIVE, at_once).subscription.grace_until == PERIOD_END
    assert look(ACTIVE, given_up).subscription.access is AccessState.GRACE
    assert look(look(ACTIVE, given_up), given_up, PERIOD_END).subscription.access is AccessState.SUSPENDED


def test_what_was_paid_ends_when_the_provider_begins_the_next_period():
    cut_short = snapshot("past_due", period_start=NOW, period_end=NOW + 30 * DAY, paid_until=NOW)

    assert look(ACTIVE, cut_short).subscription.paid_until == NOW
    assert look(ACTIVE, cut_short).subscription.grace_until == NOW + WEEK


def test_another_price_takes_nothing_that_was_paid_at_the_old_one():
    (item,) = snapshot("active").items
    dearer = replace(item, amount=item.amount.model_copy(update={"minor": 9900}))
    changed = snapshot("past_due", items=(dearer,), period_start=NOW, period_end=NOW + 365 * DAY, paid_until=NOW)

    assert look(ACTIVE, changed).subscription.paid_until == PERIOD_END
    assert look(ACTIVE, changed).subscription.grace_until == PERIOD_END


def test_who_owes_a_period_gets_none_by_buying_more_of_it():
    owing = look(ACTIVE, snapshot("past_due"))
    bought = replace(snapshot("past_due"), invoice="in_2", paid_until=snapshot("past_due").period_end)

    assert look(owing, bought, NOW + DAY).subscription.grace_until == owing.subscription.grace_until


def test_a_period_that_the_provider_begins_in_our_future_was_not_paid_until_then():
    shown = snapshot("unpaid", period_start=NOW + 9 * DAY, period_end=NOW + 39 * DAY, paid_until=NOW + 9 * DAY)

    assert look(ACTIVE, shown).subscription.access is AccessState.SUSPENDED


def test_grace_counts_from_when_the_provider_first_tried():
    shown = snapshot("past_due", failed_at=NOW - 3 * DAY)

    assert look(ACTIVE, shown).subscription.grace_until == NOW + 4 * DAY


@given(st.sampled_from(["trialing", "active", "past_due"]), st.integers(0, 60 * 24))
def test_time_alone_never_gives_access_and_never_takes_what_was_paid(status, hours):
    shown = ON_TRIAL if status == "trialing" else snapshot(status)
    before, now = look(None, shown), NOW + timedelta(hours=hours)

    after, said = later(before, now)

    paid = before.subscription.paid_until
    if after.subscription.access is AccessState.SUSPENDED:
        assert paid is None or now >= paid
    assert all(isinstance(event, SubscriptionGraceStarted | SubscriptionSuspended) for event in said)
    assert not any(isinstance(event, SubscriptionRecovered) for event in said)
