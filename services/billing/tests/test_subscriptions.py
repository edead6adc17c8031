"""The provider's snapshot decides the access of a subscription, independent of the order of messages."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import DAY, ITEM, NOW, PINNED_PLAN, TENANT, pinned_plan, snapshot
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.grace import FailedCollection
from paybill_billing.subscriptions.domain.subscriptions import UnknownStatusError
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS
from paybill_contracts.billing import (
    AccessState,
    SubscriptionActivated,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionRegistered,
    SubscriptionSuspended,
)

STATUSES = [
    "incomplete",
    "incomplete_expired",
    "trialing",
    "active",
    "past_due",
    "unpaid",
    "paused",
    "canceled",
]


def decide(state, current, failures=(), now=NOW, pinned=None):
    pinned = pinned or replace(PINNED_PLAN, item=current.items[0])
    return subscriptions.sync(
        state, current, tenant_id=TENANT, provider="stripe", pinned=pinned, failures=failures, now=now
    )


def after(*current, failures=(), now=NOW, state=None):
    for each in current:
        for event in decide(state, each, failures, now):
            state = subscriptions.evolve(state, event)
    return state


ACTIVE = after(snapshot("active"))
GRACE = after(snapshot("active"), snapshot("past_due"))
SUSPENDED = after(snapshot("active"), snapshot("unpaid"))


@pytest.mark.parametrize(
    ("status", "access"),
    [
        ("incomplete", AccessState.PENDING),
        ("trialing", AccessState.TRIALING),
        ("active", AccessState.ACTIVE),
        ("past_due", AccessState.GRACE),
        ("unpaid", AccessState.SUSPENDED),
        ("paused", AccessState.PAUSED),
        ("canceled", AccessState.ENDED),
    ],
)
def test_each_provider_status_maps_to_one_access_state(status, access):
    assert after(snapshot(status)).subscription.access is access


@pytest.mark.parametrize(
    ("state", "status", "fact"),
    [
        (None, "incomplete", SubscriptionRegistered),
        (None, "active", SubscriptionActivated),
        (None, "trialing", SubscriptionActivated),
        (None, "past_due", SubscriptionGraceStarted),
        (after(snapshot("incomplete")), "active", SubscriptionActivated),
        (after(snapshot("trialing")), "active", SubscriptionChanged),
        (ACTIVE, "past_due", SubscriptionGraceStarted),
        (ACTIVE, "unpaid", SubscriptionSuspended),
        (ACTIVE, "paused", SubscriptionPaused),
        (ACTIVE, "canceled", SubscriptionEnded),
        (GRACE, "active", SubscriptionRecovered),
        (SUSPENDED, "active", SubscriptionRecovered),
        (after(snapshot("paused")), "active", SubscriptionRecovered),
    ],
)
def test_each_change_of_access_has_its_own_event(state, status, fact):
    (event,) = decide(state, snapshot(status))

    assert isinstance(event, fact)
    assert event.subscription.provider_status == status


def test_an_unchanged_snapshot_emits_no_event():
    assert decide(ACTIVE, snapshot("active")) == []


def test_a_new_period_quantity_or_price_emits_a_changed_event():
    (event,) = decide(ACTIVE, snapshot("active", items=(replace(ITEM, quantity=5),), period_end=NOW + 60 * DAY))

    assert isinstance(event, SubscriptionChanged)
    assert event.subscription.quantity == 5


def test_a_subscription_with_paused_collection_is_paused():
    (event,) = decide(ACTIVE, snapshot("active", collection_paused=True))

    assert isinstance(event, SubscriptionPaused)


@pytest.mark.parametrize(
    ("behaviour", "kept", "access"),
    [
        ("void", None, AccessState.PAUSED),
        ("keep_as_draft", None, AccessState.ACTIVE),
        ("mark_uncollectible", None, AccessState.ACTIVE),
        ("keep_as_draft", (), AccessState.PAUSED),
        ("void", ("void",), AccessState.ACTIVE),
    ],
)
def test_access_during_a_pause_depends_on_its_behaviour_and_the_plan(behaviour, kept, access):
    plan_ = pinned_plan() if kept is None else pinned_plan(access_while_paused=kept)

    (event,) = decide(ACTIVE, snapshot("active", collection_paused=True, pause=behaviour), pinned=plan_)

    assert (event.subscription.access, event.subscription.pause) == (access, behaviour)


def test_the_grace_period_starts_at_the_first_failure_of_the_open_invoice():
    failures = [
        FailedCollection("in_1", NOW - timedelta(hours=1)),
        FailedCollection("in_1", NOW - timedelta(hours=3)),
        FailedCollection("in_0", NOW - 40 * DAY),
    ]

    (event,) = decide(ACTIVE, snapshot("past_due"), failures)

    assert event.subscription.grace_until == NOW - timedelta(hours=3) + 7 * DAY


def test_an_earlier_failure_shortens_the_grace_period_and_a_later_one_does_not_extend_it():
    earlier = after(snapshot("past_due"), state=GRACE, failures=[FailedCollection("in_1", NOW - DAY)])
    later = after(snapshot("past_due"), state=earlier, failures=[FailedCollection("in_1", NOW + DAY)], now=NOW + DAY)

    assert earlier.subscription.grace_until == NOW + 6 * DAY
    assert later == earlier


def test_a_failure_dated_after_our_clock_counts_as_now():
    (event,) = decide(ACTIVE, snapshot("past_due"), [FailedCollection("in_1", NOW + 300 * DAY)])

    assert event.subscription.grace_until == NOW + 7 * DAY


def test_a_plan_without_a_grace_period_suspends_at_once():
    (event,) = decide(ACTIVE, snapshot("past_due"), pinned=pinned_plan(grace_s=0))

    assert isinstance(event, SubscriptionSuspended)


def test_the_end_of_the_grace_period_suspends_without_a_message():
    (event,) = subscriptions.on_time(GRACE, GRACE.due)

    assert isinstance(event, SubscriptionSuspended)
    assert event.subscription.provider_status == "past_due"
    assert subscriptions.evolve(GRACE, event).due is None


def test_before_the_end_of_the_grace_period_time_changes_nothing():
    assert subscriptions.on_time(GRACE, GRACE.due - timedelta(seconds=1)) == []


def test_another_collection_attempt_does_not_restore_suspended_access():
    suspended = subscriptions.evolve(GRACE, subscriptions.on_time(GRACE, GRACE.due)[0])

    assert decide(suspended, snapshot("past_due"), now=GRACE.due + DAY) == []
    assert after(snapshot("past_due"), state=SUSPENDED).subscription.access is AccessState.SUSPENDED


def test_a_payment_ends_the_grace_period_and_the_next_failure_starts_another():
    paid = after(snapshot("active"), state=GRACE, now=NOW + DAY)
    again = after(
        snapshot("past_due", invoice="in_2", period_start=NOW + 29 * DAY, paid_until=NOW + 29 * DAY),
        state=paid,
        now=NOW + 31 * DAY,
    )

    assert paid.subscription.grace_until is None
    assert again.due == NOW + 38 * DAY


def test_an_abandoned_first_payment_emits_no_ended_event():
    registered = after(snapshot("incomplete"))

    (event,) = decide(registered, snapshot("incomplete_expired"))

    assert isinstance(event, SubscriptionChanged)
    assert event.subscription.access is AccessState.ENDED
    assert decide(None, snapshot("incomplete_expired")) == []


def test_an_adopted_subscription_that_had_already_ended_emits_no_event():
    current, pinned = snapshot("canceled"), replace(PINNED_PLAN, item=snapshot("canceled").items[0])

    def sync(state):
        return subscriptions.sync(
            state, current, tenant_id=TENANT, provider="stripe", pinned=pinned, failures=(), now=NOW, adopted=True
        )

    assert sync(None) == []
    assert [type(event) for event in sync(ACTIVE)] == [SubscriptionEnded]


def test_an_ended_event_contains_the_retention_period():
    (event,) = decide(ACTIVE, snapshot("canceled"))

    assert (event.retention_s, event.others) == (PINNED_PLAN.plan.retention_s, 0)


def test_an_ended_event_counts_the_other_entitling_subscriptions():
    current = snapshot("canceled")
    pinned = replace(PINNED_PLAN, item=current.items[0])
    others = [GRACE.subscription, SUSPENDED.subscription]

    (event,) = subscriptions.sync(
        ACTIVE, current, tenant_id=TENANT, provider="stripe", pinned=pinned, failures=(), now=NOW, others=others
    )

    assert event.others == 1


def test_a_subscription_keeps_the_catalogue_hash_that_it_pinned():
    newer = replace(PINNED_PLAN, catalogue_hash="f" * 64)

    assert decide(ACTIVE, snapshot("active"), pinned=newer) == []


def test_an_unknown_provider_status_is_refused():
    with pytest.raises(UnknownStatusError, match="'mystery'"):
        decide(ACTIVE, snapshot("mystery"))


@given(st.lists(st.sampled_from(STATUSES), max_size=8), st.sampled_from(["incomplete", "trialing", "active", "paused"]))
def test_the_last_snapshot_decides_independent_of_earlier_ones(way, last):
    arrived = after(*(snapshot(status) for status in way), snapshot(last))

    assert arrived.subscription == after(snapshot(last)).subscription


@given(st.lists(st.sampled_from(STATUSES), max_size=8))
def test_an_event_is_emitted_only_for_a_change(way):
    state = None
    for status in way:
        for event in decide(state, snapshot(status)):
            evolved = subscriptions.evolve(state, event)
            assert evolved != state
            state = evolved
        assert decide(state, snapshot(status)) == []


def test_a_stored_state_keeps_its_json_keys():
    document = json.loads(SUBSCRIPTIONS.dump(ACTIVE))

    assert set(document) == {"id", "subscription", "due", "look"}
    assert SUBSCRIPTIONS.load(SUBSCRIPTIONS.document(ACTIVE)) == ACTIVE
