"""Tests of the rules of entitlements: plan features, access, overrides, grants and their timers."""

import json
from datetime import timedelta

import pytest
from billing_samples import BASIC, DAY, NOW, PRO_1, PRO_2
from entitlement_samples import (
    ACTIVE,
    EXTENDED,
    ON_BASIC,
    PRO,
    QUOTA,
    SECOND,
    SUPPORT,
    after,
    applied,
    granted,
    limit,
    overridden,
    with_access,
)
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
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_contracts.billing import AccessState
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.entitlements import EntitlementGranted, EntitlementOverridden, EntitlementWithdrawn
from paybill_contracts.event import digest


def test_an_active_subscription_gives_its_plan_s_features():
    assert PRO.features == PRO_1.features
    assert PRO.allows_access
    assert (PRO.set_revision, PRO.due) == (1, None)
    assert len(PRO.entitlements_hash) == len(digest({}))


def test_a_subscription_that_was_never_paid_gives_nothing():
    assert entitlements.apply_subscription(None, with_access(AccessState.PENDING), PRO_1, NOW) == []


def test_a_change_with_the_same_features_emits_nothing():
    assert entitlements.apply_subscription(PRO, ACTIVE.model_copy(update={"quantity": 9}), PRO_1, NOW) == []
    assert entitlements.apply_subscription(PRO, with_access(AccessState.GRACE), PRO_1, NOW) == []


def test_loss_and_return_of_access_are_emitted():
    (lost,) = entitlements.apply_subscription(PRO, with_access(AccessState.SUSPENDED), PRO_1, NOW)
    (back,) = entitlements.apply_subscription(after(PRO, [lost]), ACTIVE, PRO_1, NOW)

    assert not lost.allows_access
    assert back.allows_access
    assert [lost.set_revision, back.set_revision] == [2, 3]
    assert back.entitlements_hash == PRO.entitlements_hash != lost.entitlements_hash


def test_a_plan_change_is_emitted():
    (new_set,) = entitlements.apply_subscription(PRO, ON_BASIC, BASIC, NOW)

    assert new_set.features == BASIC.features


def test_a_second_subscription_neither_replaces_nor_ends_the_first_one_s_entitlements():
    assert entitlements.apply_subscription(PRO, SECOND, BASIC, NOW) == []
    assert entitlements.apply_subscription(PRO, with_access(AccessState.ENDED, SECOND), BASIC, NOW) == []


def test_a_second_subscription_replaces_one_without_access():
    lost = applied(PRO, with_access(AccessState.ENDED), PRO_1)

    (new_set,) = entitlements.apply_subscription(lost, SECOND, PRO_1, NOW)

    assert new_set.subscription_id != PRO.subscription_id


def test_a_set_of_an_older_service_version_is_read_as_the_plan_s_features():
    (old,) = entitlements.apply_subscription(None, ACTIVE, PRO_1, NOW)
    old = old.model_copy(update={"set_revision": 0, "as_of": None})

    current = after(None, [old])

    assert (current.set_revision, current.features_of_plan, current.as_of) == (1, PRO_1.features, None)


def test_a_new_field_of_features_changes_no_hash():
    features = [feature.model_dump(mode="json") for feature in PRO_1.features]
    features[1].pop("quota")
    content = {"plan": "pro", "version": 1, "tier": "pro", "placement": "pooled", "features": features}

    assert PRO.entitlements_hash == digest(content | {"allows_access": True})


def test_an_override_replaces_the_plan_s_feature_at_once():
    made, new_set = overridden(PRO, limit(500))
    current = after(PRO, [made, new_set])

    assert isinstance(made, EntitlementOverridden)
    assert new_set.features == (limit(500), PRO_1.features[1])
    assert (new_set.plan_features, new_set.set_revision) == (PRO_1.features, 2)
    assert current.features_of_plan == PRO_1.features


def test_an_override_can_add_a_feature_that_the_plan_does_not_have():
    current = after(PRO, overridden(PRO, SUPPORT))

    assert current.features == (*PRO_1.features, SUPPORT)


def test_an_override_with_the_plan_s_own_feature_emits_no_set():
    assert [type(event) for event in overridden(PRO, PRO_1.features[0])] == [EntitlementOverridden]


def test_the_override_that_began_last_applies_and_then_the_one_made_last():
    current = after(PRO, overridden(PRO, limit(1), since=NOW - DAY))
    current = after(current, overridden(current, limit(2), since=NOW - 2 * DAY, number=2))
    first = current.features[0]
    current = after(current, overridden(current, limit(3), since=NOW - DAY, number=0))

    assert first == limit(1)
    assert current.features[0] == limit(3)


def test_grants_add_up_on_top_of_the_plan_and_overrides():
    current = after(EXTENDED, overridden(EXTENDED, QUOTA))
    for number, (key, amount) in enumerate([("projects", 5), ("projects", 7), ("calls", 50), ("sso", 0)]):
        current = after(current, granted(current, key, amount, number=number))

    features = {feature.key: feature for feature in current.features}
    assert features["projects"] == limit(22)
    assert (features["calls"].included, features["calls"].quota) == (150, 250)
    assert features["sso"].enabled


def test_a_withdrawal_ends_one_override_at_once_and_keeps_the_rest():
    current = after(PRO, overridden(PRO, limit(500)))
    current = after(current, granted(current, "projects", 5))

    withdrawn, new_set = entitlements.withdraw(current, f"ovr_{1:032x}", "a mistake", NOW)

    assert isinstance(withdrawn, EntitlementWithdrawn)
    assert new_set.features[0] == limit(15)
    with pytest.raises(NoSuchOverrideOrGrantError, match="ovr_"):
        entitlements.withdraw(after(current, [withdrawn, new_set]), f"ovr_{1:032x}", "again", NOW)


def test_a_suspension_and_a_plan_change_keep_overrides():
    current = after(PRO, overridden(PRO, limit(500)))

    suspended = applied(current, with_access(AccessState.SUSPENDED), PRO_1)
    newer = ACTIVE.model_copy(update={"plan": PlanRef(plan="pro", version=2, catalogue_hash="c" * 64)})
    migrated = applied(suspended, newer, PRO_2)

    assert not suspended.allows_access
    assert suspended.features == current.features
    assert migrated.features[0] == limit(500)
    assert migrated.features_of_plan == PRO_2.features


@pytest.mark.parametrize(
    ("decide", "error"),
    [
        (lambda: overridden(None, limit(1)), NothingEntitledError),
        (lambda: granted(None, "projects", 1), NothingEntitledError),
        (lambda: entitlements.withdraw(None, "ovr_1", "x", NOW), NothingEntitledError),
        (lambda: overridden(PRO, limit(1), until=NOW), InvalidValidityError),
        (lambda: overridden(PRO, limit(1), since=NOW + DAY, until=NOW + DAY), InvalidValidityError),
        (lambda: overridden(PRO, limit(1, "calls")), FeatureKindError),
        (lambda: overridden(PRO, QUOTA.model_copy(update={"key": "disk", "meter": "disk"})), UndeclaredMeterError),
        (lambda: granted(PRO, "sso"), NotGrantableError),
        (lambda: granted(EXTENDED, "sso", 1), NotGrantableError),
        (lambda: granted(EXTENDED, "support", 1), NotGrantableError),
        (lambda: granted(PRO, "projects", 0), NotGrantableError),
    ],
)
def test_an_invalid_override_or_grant_is_refused(decide, error):
    with pytest.raises(error):
        decide()


def test_the_number_of_overrides_is_bounded_and_ended_ones_do_not_count():
    current = PRO
    for number in range(MAX_OVERRIDES_AND_GRANTS):
        current = after(current, granted(current, "projects", 1, number=number, until=NOW + DAY))

    with pytest.raises(TooManyOverridesError):
        granted(current, "projects", 1, number=MAX_OVERRIDES_AND_GRANTS)
    later = after(
        current, granted(current, "projects", 1, number=MAX_OVERRIDES_AND_GRANTS, now=NOW + DAY, since=NOW + DAY)
    )
    assert len(later.grants) == 1


def test_a_timer_begins_and_ends_a_grant_with_a_validity():
    current = after(PRO, granted(PRO, "projects", 5, since=NOW + DAY, until=NOW + 3 * DAY))
    begins = current.due

    (begun,) = entitlements.on_time(current, begins)
    during = after(current, [begun])
    (ended,) = entitlements.on_time(during, during.due)
    over = after(during, [ended])

    assert entitlements.on_time(current, begins - timedelta(microseconds=1)) == []
    assert (begins, during.due, over.due) == (NOW + DAY, NOW + 3 * DAY, None)
    assert (begun.features[0], ended.features[0]) == (limit(15), limit(10))
    assert ended.entitlements_hash == PRO.entitlements_hash
    assert over.grants == ()


def test_a_boundary_without_a_change_schedules_no_timer():
    current = after(PRO, overridden(PRO, limit(10), until=NOW + DAY))
    hidden = after(current, overridden(current, limit(7), since=NOW + timedelta(hours=1), number=2))
    begun = after(hidden, entitlements.on_time(hidden, NOW + timedelta(hours=1)))

    assert current.due is None
    assert begun.due is None


def test_a_late_timer_emits_one_set_although_the_features_are_the_same():
    current = after(PRO, granted(PRO, "projects", 5, since=NOW + DAY, until=NOW + 2 * DAY))

    (new_set,) = entitlements.on_time(current, NOW + 9 * DAY)
    late = after(current, [new_set])

    assert new_set.entitlements_hash == PRO.entitlements_hash
    assert (late.due, late.grants) == (None, ())


def test_a_subscription_applied_after_a_boundary_gives_the_features_in_force_then():
    current = after(PRO, granted(PRO, "projects", 5, since=NOW + DAY))

    (new_set,) = entitlements.apply_subscription(current, with_access(AccessState.SUSPENDED), PRO_1, NOW + 2 * DAY)

    assert new_set.features[0] == limit(15)


def test_a_grant_is_a_separate_fact():
    made, _ = granted(PRO, "projects", 5)

    assert isinstance(made, EntitlementGranted)
    assert (made.amount, made.valid_until) == (5, None)


def test_the_stored_entitlements_keep_their_json_field_names():
    current = after(PRO, overridden(PRO, limit(500)))

    document = ENTITLEMENTS.dump(current)

    assert json.loads(document)["made"] == current.override_count == 1
    assert ENTITLEMENTS.load(document) == current
