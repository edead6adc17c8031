"""A tenant may use what its plan version gives and operators add, as long as its subscription gives access."""

from datetime import timedelta
from itertools import pairwise

import pytest
from billing_samples import BASIC, DAY, EUR_20, NOW, PRO_1, PRO_2, TENANT
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.domain.entitlements import (
    MAX_OVERRIDES_AND_GRANTS,
    FeatureKindError,
    InvalidValidityError,
    NoSuchOverrideOrGrantError,
    NotGrantableError,
    NothingEntitledError,
    TooManyOverridesError,
    UndeclaredMeterError,
)
from paybill_billing.entitlements.domain.overrides import Grant, Override, effective
from paybill_contracts.billing import AccessState, EntitlementsSet, Subscription
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, MeteredFeature, PlanRef, StaticFeature
from paybill_contracts.entitlements import EntitlementGranted, EntitlementOverridden, EntitlementWithdrawn
from paybill_contracts.event import digest, encode

ACTIVE = Subscription(
    subscription_id="sub_" + "1" * 32,
    tenant_id=TENANT,
    provider="stripe",
    provider_subscription="sub_P1",
    provider_status="active",
    access=AccessState.ACTIVE,
    plan=PlanRef(plan="pro", version=1, catalogue_hash="c" * 64),
    quantity=1,
    price=EUR_20,
    period_start=None,
    period_end=None,
    cancel_at=None,
    grace_until=None,
)
ON_BASIC = ACTIVE.model_copy(update={"plan": PlanRef(plan="basic", version=1, catalogue_hash="c" * 64)})
SECOND = ACTIVE.model_copy(update={"subscription_id": "sub_" + "2" * 32})
SSO = BooleanFeature(kind="boolean", key="sso", enabled=False)
SUPPORT = StaticFeature(kind="static", key="support", value="community")
QUOTA = MeteredFeature(kind="metered", key="calls", meter="calls", included=100, quota=200)
RICH = PRO_1.model_copy(update={"features": (*PRO_1.features, SSO, SUPPORT)})


def now_with(access, subscription=ACTIVE):
    return subscription.model_copy(update={"access": access})


def after(held, events):
    for event in events:
        held = entitlements.evolve(held, event)
    return held


def settled(held, subscription, plan, now=NOW):
    return after(held, entitlements.apply_subscription(held, subscription, plan, now))


HELD = settled(None, ACTIVE, PRO_1)
RICHLY = settled(None, ACTIVE, RICH)


def limit(number, key="projects"):
    return LimitFeature(kind="limit", key=key, limit=number)


def overridden(held, feature, since=NOW, until=None, number=1, now=NOW):
    return entitlements.override(
        held,
        override_id=f"ovr_{number:032x}",
        feature=feature,
        valid_from=since,
        valid_until=until,
        reason="contract 7",
        meters=["calls"],
        now=now,
    )


def granted(held, feature, amount=0, since=NOW, until=None, number=1, now=NOW):
    return entitlements.grant(
        held,
        grant_id=f"grt_{number:032x}",
        feature=feature,
        amount=amount,
        valid_from=since,
        valid_until=until,
        reason="a gift",
        now=now,
    )


def test_an_active_subscription_gives_what_its_plan_holds():
    assert HELD.features == PRO_1.features
    assert HELD.allows_access
    assert (HELD.set_revision, HELD.due) == (1, None)
    assert len(HELD.entitlements_hash) == len(digest({}))


def test_a_subscription_that_was_never_paid_gives_nothing():
    assert entitlements.apply_subscription(None, now_with(AccessState.PENDING), PRO_1, NOW) == []


def test_a_change_that_gives_the_same_says_nothing():
    assert entitlements.apply_subscription(HELD, ACTIVE.model_copy(update={"quantity": 9}), PRO_1, NOW) == []
    assert entitlements.apply_subscription(HELD, now_with(AccessState.GRACE), PRO_1, NOW) == []


def test_losing_access_and_getting_it_back_are_told():
    (lost,) = entitlements.apply_subscription(HELD, now_with(AccessState.SUSPENDED), PRO_1, NOW)
    (back,) = entitlements.apply_subscription(after(HELD, [lost]), ACTIVE, PRO_1, NOW)

    assert not lost.allows_access
    assert back.allows_access
    assert [lost.set_revision, back.set_revision] == [2, 3]
    assert back.entitlements_hash == HELD.entitlements_hash != lost.entitlements_hash


def test_another_plan_is_told():
    (said,) = entitlements.apply_subscription(HELD, ON_BASIC, BASIC, NOW)

    assert said.features == BASIC.features


def test_a_second_subscription_neither_pushes_out_the_first_nor_takes_it_away():
    assert entitlements.apply_subscription(HELD, SECOND, BASIC, NOW) == []
    assert entitlements.apply_subscription(HELD, now_with(AccessState.ENDED, SECOND), BASIC, NOW) == []


def test_a_second_subscription_takes_over_from_one_that_gives_no_access():
    lost = settled(HELD, now_with(AccessState.ENDED), PRO_1)

    (said,) = entitlements.apply_subscription(lost, SECOND, PRO_1, NOW)

    assert said.subscription_id != HELD.subscription_id


def test_the_set_of_an_older_version_of_this_service_is_read_as_what_the_plan_gives():
    (old,) = entitlements.apply_subscription(None, ACTIVE, PRO_1, NOW)
    old = old.model_copy(update={"set_revision": 0, "as_of": None})

    held = after(None, [old])

    assert (held.set_revision, held.features_of_plan, held.as_of) == (1, PRO_1.features, None)


def test_a_field_that_features_gained_changes_no_hash():
    features = [feature.model_dump(mode="json") for feature in PRO_1.features]
    features[1].pop("quota")
    content = {"plan": "pro", "version": 1, "tier": "pro", "placement": "pooled", "features": features}

    assert HELD.entitlements_hash == digest(content | {"allows_access": True})


def test_an_override_replaces_the_feature_of_the_plan_at_once():
    made, said = overridden(HELD, limit(500))
    held = after(HELD, [made, said])

    assert isinstance(made, EntitlementOverridden)
    assert said.features == (limit(500), PRO_1.features[1])
    assert (said.plan_features, said.set_revision) == (PRO_1.features, 2)
    assert held.features_of_plan == PRO_1.features


def test_an_override_may_add_a_feature_that_the_plan_does_not_have():
    held = after(HELD, overridden(HELD, SUPPORT))

    assert held.features == (*PRO_1.features, SUPPORT)


def test_an_override_of_the_same_changes_no_set():
    assert [type(event) for event in overridden(HELD, PRO_1.features[0])] == [EntitlementOverridden]


def test_of_several_overrides_the_one_that_began_last_counts_and_then_the_one_made_last():
    held = after(HELD, overridden(HELD, limit(1), since=NOW - DAY))
    held = after(held, overridden(held, limit(2), since=NOW - 2 * DAY, number=2))
    first = held.features[0]
    held = after(held, overridden(held, limit(3), since=NOW - DAY, number=0))

    assert first == limit(1)
    assert held.features[0] == limit(3)


def test_grants_add_up_on_top_of_plan_and_override():
    held = after(RICHLY, overridden(RICHLY, QUOTA))
    for number, (key, amount) in enumerate([("projects", 5), ("projects", 7), ("calls", 50), ("sso", 0)]):
        held = after(held, granted(held, key, amount, number=number))

    features = {feature.key: feature for feature in held.features}
    assert features["projects"] == limit(22)
    assert (features["calls"].included, features["calls"].quota) == (150, 250)
    assert features["sso"].enabled


def test_what_is_withdrawn_is_over_at_once_and_leaves_the_rest():
    held = after(HELD, overridden(HELD, limit(500)))
    held = after(held, granted(held, "projects", 5))

    gone, said = entitlements.withdraw(held, f"ovr_{1:032x}", "a mistake", NOW)

    assert isinstance(gone, EntitlementWithdrawn)
    assert said.features[0] == limit(15)
    with pytest.raises(NoSuchOverrideOrGrantError, match="ovr_"):
        entitlements.withdraw(after(held, [gone, said]), f"ovr_{1:032x}", "again", NOW)


def test_a_suspension_and_another_plan_keep_what_operators_added():
    held = after(HELD, overridden(HELD, limit(500)))

    suspended = settled(held, now_with(AccessState.SUSPENDED), PRO_1)
    newer = ACTIVE.model_copy(update={"plan": PlanRef(plan="pro", version=2, catalogue_hash="c" * 64)})
    moved = settled(suspended, newer, PRO_2)

    assert not suspended.allows_access
    assert suspended.features == held.features
    assert moved.features[0] == limit(500)
    assert moved.features_of_plan == PRO_2.features


@pytest.mark.parametrize(
    ("decide", "error"),
    [
        (lambda: overridden(None, limit(1)), NothingEntitledError),
        (lambda: granted(None, "projects", 1), NothingEntitledError),
        (lambda: entitlements.withdraw(None, "ovr_1", "x", NOW), NothingEntitledError),
        (lambda: overridden(HELD, limit(1), until=NOW), InvalidValidityError),
        (lambda: overridden(HELD, limit(1), since=NOW + DAY, until=NOW + DAY), InvalidValidityError),
        (lambda: overridden(HELD, limit(1, "calls")), FeatureKindError),
        (lambda: overridden(HELD, QUOTA.model_copy(update={"key": "disk", "meter": "disk"})), UndeclaredMeterError),
        (lambda: granted(HELD, "sso"), NotGrantableError),
        (lambda: granted(RICHLY, "sso", 1), NotGrantableError),
        (lambda: granted(RICHLY, "support", 1), NotGrantableError),
        (lambda: granted(HELD, "projects", 0), NotGrantableError),
    ],
)
def test_what_makes_no_sense_is_refused(decide, error):
    with pytest.raises(error):
        decide()


def test_overrides_are_bounded_and_those_that_are_over_do_not_count():
    held = HELD
    for number in range(MAX_OVERRIDES_AND_GRANTS):
        held = after(held, granted(held, "projects", 1, number=number, until=NOW + DAY))

    with pytest.raises(TooManyOverridesError):
        granted(held, "projects", 1, number=MAX_OVERRIDES_AND_GRANTS)
    later = after(held, granted(held, "projects", 1, number=MAX_OVERRIDES_AND_GRANTS, now=NOW + DAY, since=NOW + DAY))
    assert len(later.grants) == 1


def test_a_timer_begins_and_ends_what_was_promised_for_a_time():
    held = after(HELD, granted(HELD, "projects", 5, since=NOW + DAY, until=NOW + 3 * DAY))
    begins = held.due

    (begun,) = entitlements.on_time(held, begins)
    during = after(held, [begun])
    (ended,) = entitlements.on_time(during, during.due)
    over = after(during, [ended])

    assert entitlements.on_time(held, begins - timedelta(microseconds=1)) == []
    assert (begins, during.due, over.due) == (NOW + DAY, NOW + 3 * DAY, None)
    assert (begun.features[0], ended.features[0]) == (limit(15), limit(10))
    assert ended.entitlements_hash == HELD.entitlements_hash
    assert over.grants == ()


def test_a_boundary_at_which_nothing_changes_wakes_nobody():
    held = after(HELD, overridden(HELD, limit(10), until=NOW + DAY))
    hidden = after(held, overridden(held, limit(7), since=NOW + timedelta(hours=1), number=2))
    begun = after(hidden, entitlements.on_time(hidden, NOW + timedelta(hours=1)))

    assert held.due is None
    assert begun.due is None


def test_a_timer_that_comes_late_says_one_set_although_all_is_as_before():
    held = after(HELD, granted(HELD, "projects", 5, since=NOW + DAY, until=NOW + 2 * DAY))

    (said,) = entitlements.on_time(held, NOW + 9 * DAY)
    late = after(held, [said])

    assert said.entitlements_hash == HELD.entitlements_hash
    assert (late.due, late.grants) == (None, ())


def test_a_subscription_that_is_settled_after_a_boundary_gives_what_holds_then():
    held = after(HELD, granted(HELD, "projects", 5, since=NOW + DAY))

    (said,) = entitlements.apply_subscription(held, now_with(AccessState.SUSPENDED), PRO_1, NOW + 2 * DAY)

    assert said.features[0] == limit(15)


# Rules of any overrides and grants, at times that are few, so that they meet.
times = st.integers(-3, 9).map(lambda hours: NOW + timedelta(hours=hours))
features = st.sampled_from([limit(1), limit(2), SSO, SUPPORT, QUOTA, SSO.model_copy(update={"enabled": True})])


@st.composite
def spans(draw):
    since = draw(times)
    until = draw(st.none() | st.integers(1, 6).map(lambda hours: since + timedelta(hours=hours)))
    return since, until


@st.composite
def overrides(draw):
    drawn = draw(st.lists(st.tuples(features, spans()), max_size=6))
    return [Override(f"o{n}", feature, *span, "x", n) for n, (feature, span) in enumerate(drawn)]


@st.composite
def grants(draw):
    keys = st.sampled_from(["projects", "calls", "sso", "support", "nothing"])
    drawn = draw(st.lists(st.tuples(keys, st.integers(0, 10**15), spans()), max_size=6))
    return [Grant(f"g{n}", key, amount, *span, "x") for n, (key, amount, span) in enumerate(drawn)]


@given(overrides(), grants(), times, st.randoms(use_true_random=False))
def test_the_effective_set_does_not_depend_on_order_nor_on_repetition(given_overrides, given_grants, at, random):
    expected = effective(RICH.features, given_overrides, given_grants, at)
    more_overrides, more_grants = given_overrides * 2, given_grants * 2
    random.shuffle(more_overrides)
    random.shuffle(more_grants)

    assert effective(RICH.features, more_overrides, more_grants, at) == expected


@given(overrides(), times)
def test_overriding_what_is_overridden_changes_nothing(given_overrides, at):
    once = effective(RICH.features, given_overrides, (), at)

    assert {f.key: f for f in effective(once, given_overrides, (), at)} == {f.key: f for f in once}


@given(overrides(), grants(), times)
def test_the_effective_set_has_each_feature_once_can_be_written_and_loses_none_of_the_plan(
    given_overrides, given_grants, at
):
    found = effective(RICH.features, given_overrides, given_grants, at)
    (said,) = entitlements.apply_subscription(None, ACTIVE, RICH, NOW)

    keys = [feature.key for feature in found]
    assert len(keys) == len(set(keys))
    assert keys[: len(RICH.features)] == [feature.key for feature in RICH.features]
    written = encode(said.model_copy(update={"features": found}))
    assert EntitlementsSet.model_validate_json(written).features == found


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 6), st.none() | st.integers(1, 6)),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 14),
)
def test_timers_say_a_set_whenever_it_changes_and_never_else(drawn, more_hours):
    held = HELD
    for number, (is_grant, amount, start, length) in enumerate(drawn):
        since = NOW + timedelta(hours=start)
        until = None if length is None else since + timedelta(hours=length)
        if is_grant:
            held = after(held, granted(held, "projects", amount, since, until, number))
        else:
            held = after(held, overridden(held, limit(amount), since, until, number))
    all_overrides, all_grants = held.overrides, held.grants
    seen, said = [held.features], []
    for quarter in range(1, 4 * (13 + more_hours)):
        now = NOW + timedelta(minutes=15 * quarter)
        seen.append(effective(PRO_1.features, all_overrides, all_grants, now))
        told = entitlements.on_time(held, now)
        assert entitlements.on_time(after(held, told), now) == []
        held = after(held, told)
        said += told
        assert held.features == seen[-1]

    assert len(said) == sum(before != now for before, now in pairwise(seen))
    assert held.due is None
    assert all(isinstance(event, EntitlementsSet) for event in said)


def test_a_grant_is_a_fact_of_its_own():
    made, _ = granted(HELD, "projects", 5)

    assert isinstance(made, EntitlementGranted)
    assert (made.amount, made.valid_until) == (5, None)
