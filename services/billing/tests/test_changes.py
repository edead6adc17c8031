"""Rules of subscription changes: allowed requests, quotes, and all orders of commands."""

from dataclasses import replace
from datetime import timedelta

import pytest
from billing_samples import BASIC, CATALOGUE, CONTENT, DAY, NOW, PRO_1, PRO_2, TENANT, plan, published
from change_samples import (
    CHANGE_ID,
    PINNED,
    PRORATION,
    SUBSCRIPTION,
    SUBSCRIPTION_ID,
    UPGRADE,
    after,
    having,
    requested,
    resolved,
)
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import UnknownPlanError
from paybill_billing.subscriptions.domain import change_requests, changes
from paybill_billing.subscriptions.domain.change_requests import (
    ChangeIntent,
    check_allowed,
    desired_at_provider,
)
from paybill_billing.subscriptions.domain.changes import OPEN, Status
from paybill_contracts.billing import AccessState, PendingChange
from paybill_contracts.catalogue import Interval, Price
from paybill_contracts.changes import (
    ChangeConfirmed,
    ChangeKind,
    ChangeQuoted,
    ChangeRequested,
)
from paybill_contracts.errors import DomainError
from paybill_contracts.money import Money

PENDING = PendingChange(plan="pro", version=2, quantity=1, at=NOW + DAY)


def code_of(intent, subscription=SUBSCRIPTION, **more):
    with pytest.raises(DomainError) as caught:
        resolved(intent, subscription, **more)
    assert str(caught.value)
    return caught.value.code


def quoted(change=None, now=NOW, subscription=SUBSCRIPTION):
    change = change or requested()
    return after(change, changes.quoted(change, subscription, PRORATION, PRO_1, PRO_2, now))


def test_a_request_without_a_version_resolves_to_the_newest_on_sale():
    desired = resolved(UPGRADE)

    assert (desired.plan.plan, desired.plan.version, desired.quantity) == ("pro", 2, None)


def test_an_unchanged_plan_or_quantity_is_left_out():
    seats, plan_alone = (
        resolved(ChangeIntent(ChangeKind.PLAN, quantity=5)),
        resolved(ChangeIntent(ChangeKind.PLAN, plan="pro", quantity=3)),
    )

    assert (seats.plan, seats.quantity) == (None, 5)
    assert (plan_alone.plan.version, plan_alone.quantity) == (2, None)


def test_a_retired_version_can_be_kept_and_cannot_be_bought():
    sold = published(CONTENT, CONTENT.model_copy(update={"plans": (BASIC, PRO_2)}))

    more_seats = resolved(ChangeIntent(ChangeKind.PLAN, plan="pro", version=1, quantity=9), sold=sold)
    back = code_of(
        ChangeIntent(ChangeKind.PLAN, plan="pro", version=1),
        having(plan=PINNED.model_copy(update={"version": 2})),
        sold=sold,
    )

    assert (more_seats.plan, more_seats.quantity) == (None, 9)
    assert back == "plan_not_on_sale"


def test_another_interval_resolves_to_another_price_of_the_plan():
    yearly = Price(amount=Money(minor=20_000, currency="EUR"), interval=Interval.YEAR, provider_prices={})
    both = plan("pro", 1).model_copy(update={"prices": (*PRO_1.prices, yearly)})
    sold = published(CONTENT.model_copy(update={"plans": (both,)}))

    desired = resolved(ChangeIntent(ChangeKind.PLAN, interval=Interval.YEAR), sold=sold)

    assert (desired.plan.plan, desired.plan.version, desired.price_index) == ("pro", 1, 1)
    assert desired_at_provider(sold, SUBSCRIPTION, desired).price == yearly
    assert code_of(ChangeIntent(ChangeKind.PLAN, interval=Interval.MONTH), sold=sold) == "nothing_to_change"


@pytest.mark.parametrize(
    ("intent", "subscription", "code"),
    [
        (ChangeIntent(ChangeKind.PLAN), SUBSCRIPTION, "nothing_to_change"),
        (ChangeIntent(ChangeKind.PLAN, plan="pro", version=1, quantity=3), SUBSCRIPTION, "nothing_to_change"),
        (ChangeIntent(ChangeKind.PLAN, plan="gold"), SUBSCRIPTION, "unknown_plan"),
        (ChangeIntent(ChangeKind.PLAN, plan="pro", version=9), SUBSCRIPTION, "unknown_plan"),
        (ChangeIntent(ChangeKind.PLAN, plan="basic", interval=Interval.YEAR), SUBSCRIPTION, "no_such_price"),
        (UPGRADE, having(price=Money(minor=2000, currency="USD")), "no_such_price"),
        (ChangeIntent(ChangeKind.PLAN, quantity=0), SUBSCRIPTION, "quantity_out_of_bounds"),
        (ChangeIntent(ChangeKind.PLAN, quantity=-1), SUBSCRIPTION, "quantity_out_of_bounds"),
        (
            ChangeIntent(ChangeKind.PLAN, quantity=change_requests.MAX_QUANTITY + 1),
            SUBSCRIPTION,
            "quantity_out_of_bounds",
        ),
        (
            ChangeIntent(ChangeKind.PLAN, quantity=51_000),
            having(price=Money(minor=2000, currency="EUR")),
            "quantity_out_of_bounds",
        ),
        (UPGRADE, having(access=AccessState.SUSPENDED), "subscription_suspended"),
        (UPGRADE, having(access=AccessState.PAUSED), "subscription_paused"),
        (UPGRADE, having(cancel_at=NOW + DAY), "subscription_cancels"),
        (replace(UPGRADE, at_period_end=True), having(period_end=None), "no_period"),
        (ChangeIntent(ChangeKind.CANCEL, at_period_end=True), having(cancel_at=NOW + DAY), "subscription_cancels"),
        (ChangeIntent(ChangeKind.REACTIVATE), SUBSCRIPTION, "nothing_to_reactivate"),
        (ChangeIntent(ChangeKind.REACTIVATE, at_period_end=True), having(cancel_at=NOW + DAY), "only_now"),
        (ChangeIntent(ChangeKind.PAUSE), having(access=AccessState.PAUSED), "subscription_paused"),
        (ChangeIntent(ChangeKind.PAUSE), having(access=AccessState.SUSPENDED), "subscription_suspended"),
        (ChangeIntent(ChangeKind.PAUSE, at_period_end=True), SUBSCRIPTION, "only_now"),
        (ChangeIntent(ChangeKind.RESUME), SUBSCRIPTION, "not_paused"),
        (ChangeIntent(ChangeKind.RESUME, at_period_end=True), having(access=AccessState.PAUSED), "only_now"),
    ],
)
def test_each_impossible_change_is_refused_with_its_own_code(intent, subscription, code):
    assert code_of(intent, subscription) == code


@pytest.mark.parametrize("kind", ChangeKind)
def test_an_ended_pending_or_leaving_subscription_cannot_change(kind):
    assert code_of(ChangeIntent(kind), having(access=AccessState.ENDED)) == "subscription_ended"
    assert code_of(ChangeIntent(kind), having(access=AccessState.PENDING)) == "subscription_pending"
    assert code_of(ChangeIntent(kind), leaving=True) == "tenant_leaving"


@pytest.mark.parametrize(
    ("intent", "subscription"),
    [
        (ChangeIntent(ChangeKind.CANCEL), having(access=AccessState.SUSPENDED)),
        (ChangeIntent(ChangeKind.CANCEL), having(access=AccessState.PAUSED)),
        (ChangeIntent(ChangeKind.CANCEL), having(cancel_at=NOW + DAY)),
        (ChangeIntent(ChangeKind.CANCEL, at_period_end=True), SUBSCRIPTION),
        (ChangeIntent(ChangeKind.REACTIVATE), having(cancel_at=NOW + DAY)),
        (ChangeIntent(ChangeKind.REACTIVATE), having(pending=PENDING)),
        (ChangeIntent(ChangeKind.PAUSE), having(access=AccessState.GRACE)),
        (ChangeIntent(ChangeKind.RESUME), having(access=AccessState.PAUSED)),
        (UPGRADE, having(access=AccessState.TRIALING)),
        (UPGRADE, having(access=AccessState.GRACE)),
        (UPGRADE, having(pending=PENDING)),
    ],
)
def test_a_possible_change_is_resolved(intent, subscription):
    assert resolved(intent, subscription).kind is intent.kind


@given(
    access=st.sampled_from(AccessState),
    kind=st.sampled_from(ChangeKind),
    later=st.booleans(),
    cancels=st.booleans(),
    period=st.booleans(),
)
def test_only_an_entitling_subscription_can_change_its_plan_or_pause(access, kind, later, cancels, period):
    subscription = having(
        access=access, cancel_at=NOW + DAY if cancels else None, period_end=NOW + DAY if period else None
    )

    try:
        check_allowed(subscription, kind, at_period_end=later)
    except DomainError:
        return

    assert access not in {AccessState.ENDED, AccessState.PENDING}
    assert not (later and kind in {ChangeKind.PAUSE, ChangeKind.RESUME, ChangeKind.REACTIVATE})
    if kind in {ChangeKind.PLAN, ChangeKind.PAUSE}:
        assert access in {AccessState.ACTIVE, AccessState.TRIALING, AccessState.GRACE}


def test_a_second_open_change_is_refused_and_the_error_names_the_first():
    with pytest.raises(changes.ChangeOpenError, match="chg_other"):
        changes.request(
            None,
            SUBSCRIPTION,
            resolved(UPGRADE),
            change_id=CHANGE_ID,
            confirmed=False,
            reason="grow",
            open_change="chg_other",
        )


def test_a_quote_contains_the_feature_differences_of_the_plans():
    quote = quoted().quote

    assert [(feature.before.limit, feature.after.limit) for feature in quote.features] == [(10, 20)]
    assert (quote.tier_before, quote.tier_after, quote.placement_after) == ("pro", "pro", "pooled")


@pytest.mark.parametrize(
    ("kind", "before", "now"), [(ChangeKind.CANCEL, 2, 0), (ChangeKind.PAUSE, 2, 0), (ChangeKind.RESUME, 0, 2)]
)
def test_a_cancelled_or_paused_subscription_has_no_features(kind, before, now):
    subscription = having(access=AccessState.PAUSED) if kind is ChangeKind.RESUME else SUBSCRIPTION
    change = replace(requested(), wanted=resolved(ChangeIntent(kind), subscription))

    (event,) = changes.quoted(change, SUBSCRIPTION, PRORATION, PRO_1, PRO_1, NOW)

    assert [sum(side is not None for side in sides) for sides in zip(*map(tuple_of, event.features), strict=True)] == [
        before,
        now,
    ]


def tuple_of(difference):
    return difference.before, difference.after


def test_a_quote_is_valid_for_an_hour_and_never_beyond_the_period():
    ending = having(period_end=NOW + timedelta(minutes=20))
    over = having(period_end=NOW - DAY)

    assert quoted().quote.valid_until == NOW + timedelta(hours=1)
    assert quoted(subscription=ending).quote.valid_until == ending.period_end
    assert quoted(subscription=over).quote.valid_until == NOW + timedelta(hours=1)


def test_different_quotes_have_different_hashes():
    expensive = PRORATION.model_copy(update={"due_now": Money(minor=2001, currency="EUR")})
    change = requested()
    quotes = [
        changes.quoted(change, SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW),
        changes.quoted(change, SUBSCRIPTION, expensive, PRO_1, PRO_2, NOW),
        changes.quoted(change, SUBSCRIPTION, PRORATION, PRO_1, PRO_1, NOW),
        changes.quoted(change, SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW + timedelta(seconds=1)),
        changes.quoted(change, SUBSCRIPTION, PRORATION, PRO_1, PRO_2.model_copy(update={"tier": "large"}), NOW),
        changes.quoted(replace(change, id="chg_" + "2" * 32), SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW),
    ]

    assert len({events[0].quote_hash for events in quotes}) == len(quotes)


def test_an_automatic_change_is_confirmed_with_its_own_quote():
    quote, confirmation = changes.quoted(requested(confirmed=True), SUBSCRIPTION, PRORATION, PRO_1, PRO_2, NOW)

    assert isinstance(quote, ChangeQuoted)
    assert isinstance(confirmation, ChangeConfirmed)
    assert confirmation.quote_hash == quote.quote_hash


def test_a_quote_is_confirmed_once_by_its_hash_while_it_is_valid():
    change = quoted()
    hash_, until = change.quote.quote_hash, change.quote.valid_until

    confirmed = after(change, changes.confirm(change, hash_, until - timedelta(seconds=1)))

    assert confirmed.status is Status.CONFIRMED
    assert changes.confirm(confirmed, hash_, until + DAY) == []
    for wrong, now, code in (("0" * 64, NOW, "quote_changed"), (hash_, until, "quote_expired")):
        with pytest.raises(DomainError) as caught:
            changes.confirm(change, wrong, now)
        assert caught.value.code == code
    with pytest.raises(changes.NotQuotedYetError):
        changes.confirm(requested(), hash_, NOW)


def test_an_unconfirmed_quote_expires_at_the_end_of_its_validity():
    change = quoted()

    assert changes.on_time(change, change.due - timedelta(seconds=1)) == []
    expired = after(change, changes.on_time(change, change.due))
    assert (expired.status, expired.due) == (Status.EXPIRED, None)
    with pytest.raises(changes.ChangeOverError):
        changes.confirm(expired, change.quote.quote_hash, NOW)


def test_an_event_before_the_request_is_refused():
    confirmed = ChangeConfirmed(
        change_id=CHANGE_ID, tenant_id=TENANT, subscription_id=SUBSCRIPTION_ID, quote_hash="0" * 64
    )

    with pytest.raises(changes.ChangeOrderError):
        changes.evolve(None, confirmed)


VERBS = {
    "quoted": lambda change, now: changes.quoted(change, SUBSCRIPTION, PRORATION, PRO_1, PRO_2, now),
    "confirm": lambda change, now: changes.confirm(change, change.quote.quote_hash if change.quote else "0" * 64, now),
    "discard": lambda change, _: changes.discard(change),
    "applied": lambda change, _: changes.applied(change),
    "refused": lambda change, _: changes.refused(change, "provider_refused", "no"),
    "on_time": changes.on_time,
}
ENDS = frozenset(Status) - OPEN


@given(
    confirmed=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(sorted(VERBS)), st.integers(0, 5000)), max_size=30),
)
def test_a_change_ends_once_and_is_applied_only_when_confirmed_in_any_order_of_commands(confirmed, steps):
    change, now, path = requested(confirmed=confirmed), NOW, [Status.REQUESTED]
    for verb, seconds in steps:
        now += timedelta(seconds=seconds)
        try:
            events = VERBS[verb](change, now)
        except DomainError:
            continue
        for event in events:
            assert not isinstance(event, ChangeRequested)
            change = changes.evolve(change, event)
            path.append(change.status)

    assert sum(status in ENDS for status in path) <= 1
    assert all(status in OPEN for status in path[:-1])
    if Status.APPLIED in path:
        assert path[-2] is Status.CONFIRMED
    if Status.CONFIRMED in path:
        assert path[path.index(Status.CONFIRMED) - 1] is Status.QUOTED
    assert (change.due is not None) == (change.status is Status.QUOTED)


def test_the_desired_subscription_contains_the_current_and_the_new_plan():
    desired = desired_at_provider(CATALOGUE, SUBSCRIPTION, resolved(UPGRADE))

    assert (desired.pinned, desired.plan, desired.price, desired.quantity) == (PRO_1, PRO_2, PRO_2.prices[0], None)
    assert desired.product == "shop"


def test_an_unpublished_plan_version_is_unknown():
    with pytest.raises(UnknownPlanError):
        catalogue.published(CATALOGUE, "pro", 3)
