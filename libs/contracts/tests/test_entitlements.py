"""A check needs nothing but the set that it is made against; a copy of sets takes only what is newer."""

import pytest
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, MeteredFeature, PlanRef, StaticFeature
from paybill_contracts.entitlements import CheckResult, EntitlementsCache, Reason, check
from paybill_contracts.placement import Preset

TENANT = "ten_" + "1" * 32
HELD = EntitlementsSet(
    tenant_id=TENANT,
    subscription_id="sub_" + "1" * 32,
    plan=PlanRef(plan="pro", version=1, catalogue_hash="c" * 64),
    tier="pro",
    placement=Preset.POOLED,
    features=(
        LimitFeature(kind="limit", key="projects", limit=5),
        StaticFeature(kind="static", key="support", value="community"),
        BooleanFeature(kind="boolean", key="export", enabled=True),
        BooleanFeature(kind="boolean", key="sso", enabled=False),
        MeteredFeature(kind="metered", key="calls", meter="calls", included=10, quota=100),
        MeteredFeature(kind="metered", key="bytes", meter="bytes", included=10),
    ),
    allows_access=True,
    entitlements_hash="d" * 64,
)
YES = CheckResult(allowed=True, reason=Reason.ALLOWED)


@pytest.mark.parametrize(
    ("feature", "used", "want", "answer"),
    [
        ("export", 0, 1, YES),
        ("support", 0, 1, YES),
        ("bytes", 10**15, 1, YES),
        ("sso", 0, 1, CheckResult(allowed=False, reason=Reason.SWITCHED_OFF)),
        ("nothing", 0, 1, CheckResult(allowed=False, reason=Reason.NOT_INCLUDED)),
        ("projects", 4, 1, CheckResult(allowed=True, reason=Reason.ALLOWED, limit=5, remaining=1)),
        ("projects", 5, 1, CheckResult(allowed=False, reason=Reason.LIMIT_REACHED, limit=5, remaining=0)),
        ("projects", 9, 0, CheckResult(allowed=False, reason=Reason.LIMIT_REACHED, limit=5, remaining=0)),
        ("projects", 3, 3, CheckResult(allowed=False, reason=Reason.LIMIT_REACHED, limit=5, remaining=2)),
        ("calls", 99, 1, CheckResult(allowed=True, reason=Reason.ALLOWED, limit=100, remaining=1)),
        ("calls", 100, 1, CheckResult(allowed=False, reason=Reason.QUOTA_EXCEEDED, limit=100, remaining=0)),
    ],
)
def test_a_feature_is_answered_by_its_kind(feature, used, want, answer):
    assert check(HELD, feature, used=used, requested=want) == answer


def test_without_access_nothing_may_be_used():
    shut_out = HELD.model_copy(update={"allows_access": False})

    assert check(shut_out, "export").reason is Reason.NO_ACCESS
    assert check(None, "export").reason is Reason.NO_ACCESS


def test_a_copy_takes_what_is_newer_and_drops_the_rest():
    copy = EntitlementsCache()
    newer = HELD.model_copy(update={"allows_access": False})

    assert copy.get(TENANT) is None
    assert copy.apply(HELD, 3)
    assert not copy.apply(newer, 3)
    assert not copy.apply(newer, 2)
    assert copy.get(TENANT) is HELD
    assert copy.apply(newer, 4)
    assert copy.get(TENANT) is newer
