"""Property tests of entitlements: effective sets of generated overrides and grants, and their timers."""

from datetime import timedelta
from itertools import pairwise

from billing_samples import NOW, PRO_1
from entitlement_samples import (
    ACTIVE,
    EXTENDED_PLAN,
    PRO,
    QUOTA,
    SSO,
    SUPPORT,
    after,
    granted,
    limit,
    overridden,
)
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.domain.overrides import Grant, Override, effective
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.event import encode

# Generated overrides and grants, with few different times, so that their boundaries coincide.
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
def test_the_effective_set_is_independent_of_order_and_duplicates(some_overrides, some_grants, at, random):
    expected = effective(EXTENDED_PLAN.features, some_overrides, some_grants, at)
    more_overrides, more_grants = some_overrides * 2, some_grants * 2
    random.shuffle(more_overrides)
    random.shuffle(more_grants)

    assert effective(EXTENDED_PLAN.features, more_overrides, more_grants, at) == expected


@given(overrides(), times)
def test_applying_overrides_twice_changes_nothing(some_overrides, at):
    once = effective(EXTENDED_PLAN.features, some_overrides, (), at)

    assert {f.key: f for f in effective(once, some_overrides, (), at)} == {f.key: f for f in once}


@given(overrides(), grants(), times)
def test_the_effective_set_has_unique_keys_is_serialisable_and_keeps_the_plan_s_features(
    some_overrides, some_grants, at
):
    in_force = effective(EXTENDED_PLAN.features, some_overrides, some_grants, at)
    (new_set,) = entitlements.apply_subscription(None, ACTIVE, EXTENDED_PLAN, NOW)

    keys = [feature.key for feature in in_force]
    assert len(keys) == len(set(keys))
    assert keys[: len(EXTENDED_PLAN.features)] == [feature.key for feature in EXTENDED_PLAN.features]
    document = encode(new_set.model_copy(update={"features": in_force}))
    assert EntitlementsSet.model_validate_json(document).features == in_force


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 6), st.none() | st.integers(1, 6)),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 14),
)
def test_timers_emit_a_set_exactly_when_it_changes(drawn, more_hours):
    current = PRO
    for number, (is_grant, amount, start, length) in enumerate(drawn):
        since = NOW + timedelta(hours=start)
        until = None if length is None else since + timedelta(hours=length)
        if is_grant:
            current = after(current, granted(current, "projects", amount, since, until, number))
        else:
            current = after(current, overridden(current, limit(amount), since, until, number))
    all_overrides, all_grants = current.overrides, current.grants
    expected, emitted = [current.features], []
    for quarter in range(1, 4 * (13 + more_hours)):
        now = NOW + timedelta(minutes=15 * quarter)
        expected.append(effective(PRO_1.features, all_overrides, all_grants, now))
        events = entitlements.on_time(current, now)
        assert entitlements.on_time(after(current, events), now) == []
        current = after(current, events)
        emitted += events
        assert current.features == expected[-1]

    assert len(emitted) == sum(before != now for before, now in pairwise(expected))
    assert current.due is None
    assert all(isinstance(event, EntitlementsSet) for event in emitted)
