"""A check needs only the entitlement set; the cache applies only newer events."""

import pytest
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, MeteredFeature, PlanRef, StaticFeature
from paybill_contracts.entitlements import CheckResult, EntitlementsCache, Reason, check
from paybill_contracts.placement import Preset

TENANT = "ten_" + "1" * 32
SET = EntitlementsSet(
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
ALLOWED = CheckResult(allowed=True, reason=Reason.ALLOWED)


@pytest.mark.parametrize(
    ("feature", "used", "requested", "result"),
    [
        ("export", 0, 1, ALLOWED),
        ("support", 0, 1, ALLOWED),
        ("bytes", 10**15, 1, ALLOWED),
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
def test_a_feature_is_checked_by_its_kind(feature, used, requested, result):
    assert check(SET, feature, used=used, requested=requested) == result


def test_without_access_every_feature_is_refused():
    no_access = SET.model_copy(update={"allows_access": False})

    assert check(no_access, "export").reason is Reason.NO_ACCESS
    assert check(None, "export").reason is Reason.NO_ACCESS


def test_the_cache_applies_newer_events_and_ignores_older_ones():
    cache = EntitlementsCache()
    newer = SET.model_copy(update={"allows_access": False})

    assert cache.get(TENANT) is None
    assert cache.apply(SET, 3)
    assert not cache.apply(newer, 3)
    assert not cache.apply(newer, 2)
    assert cache.get(TENANT) is SET
    assert cache.apply(newer, 4)
    assert cache.get(TENANT) is newer
