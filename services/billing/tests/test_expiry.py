"""Access expires by our own clock while the provider sends no messages, and the next sync corrects it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import DAY, NOW, PINNED_PLAN, TENANT, pinned_plan, snapshot
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


def sync(state, current, now=NOW, pinned=PINNED_PLAN):
    pinned = replace(pinned, item=current.items[0])
    for event in subscriptions.sync(
        state, current, tenant_id=TENANT, provider="stripe", pinned=pinned, failures=(), now=now
    ):
        state = subscriptions.evolve(state, event)
    return state


def later(state, now):
    """Returns the state and all events of due transitions until `now`."""
    emitted = []
    while state.due is not None and state.due <= now:
        events = subscriptions.on_time(state, state.due)
        assert events, "a due transition must emit an event"
        for event in events:
            state = subscriptions.evolve(state, event)
        emitted += events
    return state, emitted


ACTIVE = sync(None, snapshot("active"))
TRIALING = sync(None, ON_TRIAL)


@pytest.mark.parametrize(
    ("state", "ends"),
    [
        (ACTIVE, PERIOD_END),
        (TRIALING, TRIAL_END),
        (sync(None, snapshot("active", cancel_at=NOW + 5 * DAY)), NOW + 5 * DAY),
        (sync(None, snapshot("active", cancel_at=PERIOD_END + 99 * DAY)), PERIOD_END),
    ],
    ids=["period", "trial", "cancellation", "period before cancellation"],
)
def test_the_end_of_a_period_is_synced_soon_and_expires_after_the_provider_timeout(state, ends):
    assert (state.next_sync, state.due) == (ends + SYNC_DELAY, ends + PROVIDER_TIMEOUT)
    assert subscriptions.on_time(state, ends + PROVIDER_TIMEOUT - timedelta(seconds=1)) == []


@pytest.mark.parametrize(("state", "ends"), [(ACTIVE, PERIOD_END), (TRIALING, TRIAL_END)])
def test_an_expired_period_or_trial_counts_as_a_failed_payment_at_its_end(state, ends):
    (grace,) = subscriptions.on_time(state, ends + PROVIDER_TIMEOUT)

    assert isinstance(grace, SubscriptionGraceStarted)
    assert grace.subscription.grace_until == ends + WEEK
    assert grace.subscription.provider_status == state.subscription.provider_status


def test_an_expired_grace_period_suspends_and_has_no_further_transition():
    suspended, emitted = later(TRIALING, TRIAL_END + WEEK)

    assert [type(event) for event in emitted] == [SubscriptionGraceStarted, SubscriptionSuspended]
    assert (suspended.subscription.access, suspended.due) == (AccessState.SUSPENDED, None)


def test_a_plan_without_a_grace_period_suspends_at_the_provider_timeout():
    state = sync(None, ON_TRIAL, pinned=pinned_plan(grace_s=0))

    (event,) = subscriptions.on_time(state, TRIAL_END + PROVIDER_TIMEOUT)

    assert isinstance(event, SubscriptionSuspended)


def test_a_scheduled_cancellation_expires_as_suspended_and_never_as_ended():
    state = sync(None, snapshot("active", cancel_at=NOW + 5 * DAY))

    (event,) = subscriptions.on_time(state, NOW + 5 * DAY + PROVIDER_TIMEOUT)

    assert isinstance(event, SubscriptionSuspended)


def test_expired_access_is_synced_until_the_provider_reports_a_change():
    grace, _ = later(ACTIVE, PERIOD_END + PROVIDER_TIMEOUT)
    suspended, _ = later(ACTIVE, PERIOD_END + WEEK)

    assert (grace.next_sync, suspended.next_sync) == (PERIOD_END, PERIOD_END)


@pytest.mark.parametrize("delay", [PROVIDER_TIMEOUT, WEEK, 40 * DAY])
def test_the_next_sync_decides_after_an_expiry(delay):
    now = PERIOD_END + delay
    expired, _ = later(ACTIVE, now)
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

    assert sync(expired, renewed, now) == sync(None, renewed, now)
    assert sync(expired, failed, now) == sync(None, failed, now)
    assert sync(expired, failed, now).subscription.grace_until == now - DAY + WEEK


def test_an_unchanged_snapshot_after_the_end_restores_access_without_further_expiry():
    now = PERIOD_END + PROVIDER_TIMEOUT
    expired, _ = later(ACTIVE, now)

    restored = sync(expired, snapshot("active"), now)

    assert restored.subscription.past_end
    assert (restored.subscription.access, restored.due, restored.next_sync) == (AccessState.ACTIVE, None, None)
    assert later(restored, now + 99 * DAY) == (restored, [])


def test_a_sync_right_after_the_end_does_not_count_as_late():
    state = sync(ACTIVE, snapshot("active"), PERIOD_END + timedelta(seconds=1))

    assert state == ACTIVE


def test_a_new_period_has_its_own_expiry_after_a_restored_one():
    restored = sync(ACTIVE, snapshot("active"), PERIOD_END + PROVIDER_TIMEOUT)

    renewed = sync(
        restored,
        snapshot("active", period_start=PERIOD_END, period_end=PERIOD_END + 30 * DAY),
        PERIOD_END + 2 * PROVIDER_TIMEOUT,
    )

    assert not renewed.subscription.past_end
    assert renewed.due == PERIOD_END + 30 * DAY + PROVIDER_TIMEOUT


def test_a_sync_before_the_end_of_the_grace_period_covers_a_lost_message():
    grace = sync(ACTIVE, snapshot("past_due"))

    assert grace.next_sync == grace.due - SYNC_DELAY


def test_a_subscription_without_access_has_no_transition_and_no_sync():
    for status in ("incomplete", "unpaid", "paused", "canceled"):
        state = sync(None, snapshot(status))
        assert (state.due, state.next_sync) == (None, None)


def test_a_subscription_without_grace_s_does_not_expire_before_the_next_sync():
    old = ACTIVE.subscription.model_copy(update={"grace_s": None})
    state = subscriptions.evolve(
        None,
        SubscriptionChanged(tenant_id=TENANT, subscription_id=old.subscription_id, subscription=old),
    )

    assert state.due is None
    assert state.next_sync == PERIOD_END + SYNC_DELAY


def test_a_failed_payment_does_not_shorten_the_paid_period():
    at_once = snapshot("past_due", period_start=NOW - DAY, period_end=PERIOD_END, paid_until=PERIOD_END)
    uncollectible = snapshot("unpaid", period_start=NOW - DAY, period_end=PERIOD_END, paid_until=PERIOD_END)

    assert sync(ACTIVE, at_once).subscription.grace_until == PERIOD_END
    assert sync(ACTIVE, uncollectible).subscription.access is AccessState.GRACE
    assert sync(sync(ACTIVE, uncollectible), uncollectible, PERIOD_END).subscription.access is AccessState.SUSPENDED


def test_the_paid_period_ends_when_the_provider_starts_the_next_one():
    cut_short = snapshot("past_due", period_start=NOW, period_end=NOW + 30 * DAY, paid_until=NOW)

    assert sync(ACTIVE, cut_short).subscription.paid_until == NOW
    assert sync(ACTIVE, cut_short).subscription.grace_until == NOW + WEEK


def test_another_price_does_not_shorten_the_period_paid_at_the_old_one():
    (item,) = snapshot("active").items
    dearer = replace(item, amount=item.amount.model_copy(update={"minor": 9900}))
    changed = snapshot("past_due", items=(dearer,), period_start=NOW, period_end=NOW + 365 * DAY, paid_until=NOW)

    assert sync(ACTIVE, changed).subscription.paid_until == PERIOD_END
    assert sync(ACTIVE, changed).subscription.grace_until == PERIOD_END


def test_a_higher_quantity_does_not_extend_the_grace_period_of_an_unpaid_period():
    owing = sync(ACTIVE, snapshot("past_due"))
    bought = replace(
        snapshot("past_due"), invoice="in_2", paid_until=snapshot("past_due").period_end, earlier_unpaid=True
    )

    assert sync(owing, bought, NOW + DAY).subscription.grace_until == owing.subscription.grace_until


def test_an_unpaid_period_that_starts_in_our_future_does_not_count_as_paid_until_then():
    current = snapshot("unpaid", period_start=NOW + 9 * DAY, period_end=NOW + 39 * DAY, paid_until=NOW + 9 * DAY)

    assert sync(ACTIVE, current).subscription.access is AccessState.SUSPENDED


def test_the_grace_period_starts_at_the_provider_s_first_attempt():
    current = snapshot("past_due", failed_at=NOW - 3 * DAY)

    assert sync(ACTIVE, current).subscription.grace_until == NOW + 4 * DAY


@given(st.sampled_from(["trialing", "active", "past_due"]), st.integers(0, 60 * 24))
def test_expiry_never_grants_access_and_never_shortens_the_paid_period(status, hours):
    current = ON_TRIAL if status == "trialing" else snapshot(status)
    before, now = sync(None, current), NOW + timedelta(hours=hours)

    after, emitted = later(before, now)

    paid = before.subscription.paid_until
    if after.subscription.access is AccessState.SUSPENDED:
        assert paid is None or now >= paid
    assert all(isinstance(event, SubscriptionGraceStarted | SubscriptionSuspended) for event in emitted)
    assert not any(isinstance(event, SubscriptionRecovered) for event in emitted)
