"""The provider's state decides what a subscription gives, whatever was heard before and in whatever order."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import DAY, ITEM, NOW, SOLD, TENANT, snapshot, sold
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.domain.subscriptions import FailedCollection, UnknownStatusError
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


def decide(standing, shown, failures=(), now=NOW, pinned=None):
    pinned = pinned or replace(SOLD, item=shown.items[0])
    return subscriptions.sync(
        standing, shown, tenant_id=TENANT, provider="stripe", sold=pinned, failures=failures, now=now
    )


def after(*shown, failures=(), now=NOW, standing=None):
    for one in shown:
        for event in decide(standing, one, failures, now):
            standing = subscriptions.evolve(standing, event)
    return standing


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
def test_the_providers_word_has_one_meaning_for_access(status, access):
    assert after(snapshot(status)).subscription.access is access


@pytest.mark.parametrize(
    ("standing", "status", "fact"),
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
def test_a_change_of_access_is_told_by_its_own_fact(standing, status, fact):
    (said,) = decide(standing, snapshot(status))

    assert isinstance(said, fact)
    assert said.subscription.provider_status == status


def test_what_was_seen_before_says_nothing():
    assert decide(ACTIVE, snapshot("active")) == []


def test_a_new_period_quantity_or_price_is_a_change():
    (said,) = decide(ACTIVE, snapshot("active", items=(replace(ITEM, quantity=5),), period_end=NOW + 60 * DAY))

    assert isinstance(said, SubscriptionChanged)
    assert said.subscription.quantity == 5


def test_a_subscription_whose_collection_is_paused_gives_no_access():
    (said,) = decide(ACTIVE, snapshot("active", collection_paused=True))

    assert isinstance(said, SubscriptionPaused)


def test_grace_runs_from_the_first_failure_of_the_open_invoice():
    failures = [
        FailedCollection("in_1", NOW - timedelta(hours=1)),
        FailedCollection("in_1", NOW - timedelta(hours=3)),
        FailedCollection("in_0", NOW - 40 * DAY),
    ]

    (said,) = decide(ACTIVE, snapshot("past_due"), failures)

    assert said.subscription.grace_until == NOW - timedelta(hours=3) + 7 * DAY


def test_an_earlier_failure_that_is_heard_later_shortens_grace_and_a_later_one_does_not_prolong_it():
    earlier = after(snapshot("past_due"), standing=GRACE, failures=[FailedCollection("in_1", NOW - DAY)])
    later = after(snapshot("past_due"), standing=earlier, failures=[FailedCollection("in_1", NOW + DAY)], now=NOW + DAY)

    assert earlier.subscription.grace_until == NOW + 6 * DAY
    assert later == earlier


def test_a_failure_dated_after_our_clock_counts_as_now():
    (said,) = decide(ACTIVE, snapshot("past_due"), [FailedCollection("in_1", NOW + 300 * DAY)])

    assert said.subscription.grace_until == NOW + 7 * DAY


def test_a_plan_without_grace_suspends_at_once():
    (said,) = decide(ACTIVE, snapshot("past_due"), pinned=sold(grace_s=0))

    assert isinstance(said, SubscriptionSuspended)


def test_when_grace_is_over_time_alone_suspends():
    (said,) = subscriptions.on_time(GRACE, GRACE.due)

    assert isinstance(said, SubscriptionSuspended)
    assert said.subscription.provider_status == "past_due"
    assert subscriptions.evolve(GRACE, said).due is None


def test_before_grace_is_over_time_changes_nothing():
    assert subscriptions.on_time(GRACE, GRACE.due - timedelta(seconds=1)) == []


def test_who_was_shut_out_is_not_let_in_by_another_attempt_to_collect():
    shut_out = subscriptions.evolve(GRACE, subscriptions.on_time(GRACE, GRACE.due)[0])

    assert decide(shut_out, snapshot("past_due"), now=GRACE.due + DAY) == []
    assert after(snapshot("past_due"), standing=SUSPENDED).subscription.access is AccessState.SUSPENDED


def test_paying_ends_grace_and_the_next_failure_begins_a_new_one():
    paid = after(snapshot("active"), standing=GRACE, now=NOW + DAY)
    again = after(
        snapshot("past_due", invoice="in_2", period_start=NOW + 29 * DAY, paid_until=NOW + 29 * DAY),
        standing=paid,
        now=NOW + 31 * DAY,
    )

    assert paid.subscription.grace_until is None
    assert again.due == NOW + 38 * DAY


def test_an_abandoned_first_payment_ends_nothing():
    registered = after(snapshot("incomplete"))

    (said,) = decide(registered, snapshot("incomplete_expired"))

    assert isinstance(said, SubscriptionChanged)
    assert said.subscription.access is AccessState.ENDED
    assert decide(None, snapshot("incomplete_expired")) == []


def test_what_a_customer_had_before_it_came_to_us_and_ended_then_ends_nothing_here():
    shown, pinned = snapshot("canceled"), replace(SOLD, item=snapshot("canceled").items[0])

    def told(standing):
        return subscriptions.sync(
            standing, shown, tenant_id=TENANT, provider="stripe", sold=pinned, failures=(), now=NOW, adopted=True
        )

    assert told(None) == []
    assert [type(event) for event in told(ACTIVE)] == [SubscriptionEnded]


def test_an_ended_subscription_says_how_long_the_data_is_kept():
    (said,) = decide(ACTIVE, snapshot("canceled"))

    assert (said.retention_s, said.others) == (SOLD.plan.retention_s, 0)


def test_an_ended_subscription_says_how_many_others_give_access():
    shown = snapshot("canceled")
    pinned = replace(SOLD, item=shown.items[0])
    others = [GRACE.subscription, SUSPENDED.subscription]

    (said,) = subscriptions.sync(
        ACTIVE, shown, tenant_id=TENANT, provider="stripe", sold=pinned, failures=(), now=NOW, others=others
    )

    assert said.others == 1


def test_a_subscription_keeps_the_catalogue_it_was_pinned_from():
    newer = replace(SOLD, catalogue_hash="f" * 64)

    assert decide(ACTIVE, snapshot("active"), pinned=newer) == []


def test_a_word_without_meaning_is_refused():
    with pytest.raises(UnknownStatusError, match="'mystery'"):
        decide(ACTIVE, snapshot("mystery"))


@given(st.lists(st.sampled_from(STATUSES), max_size=8), st.sampled_from(["incomplete", "trialing", "active", "paused"]))
def test_whatever_was_seen_on_the_way_the_last_look_decides(way, last):
    arrived = after(*(snapshot(status) for status in way), snapshot(last))

    assert arrived.subscription == after(snapshot(last)).subscription


@given(st.lists(st.sampled_from(STATUSES), max_size=8))
def test_a_fact_is_said_only_when_something_changed(way):
    standing = None
    for status in way:
        for event in decide(standing, snapshot(status)):
            moved = subscriptions.evolve(standing, event)
            assert moved != standing
            standing = moved
        assert decide(standing, snapshot(status)) == []


def test_a_stored_state_keeps_its_json_keys():
    document = json.loads(SUBSCRIPTIONS.dump(ACTIVE))

    assert set(document) == {"id", "subscription", "due", "look"}
    assert SUBSCRIPTIONS.load(SUBSCRIPTIONS.document(ACTIVE)) == ACTIVE
