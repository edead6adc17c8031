"""`bench entitlements`: cost of a check in a service that keeps its own copy of tenants' entitlements.

The copy holds the sets of 2,000 tenants as published in facts, each of 40 features of every kind. Each check, of a
random tenant and feature, is timed alone, including the lookup in the copy and the clock's own 0.1 us.
"""

import random
import time
from collections.abc import Sequence

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import BooleanFeature, Feature, LimitFeature, MeteredFeature, PlanRef, StaticFeature
from paybill_contracts.entitlements import EntitlementsCache, check
from paybill_contracts.event import encode
from paybill_contracts.placement import Preset

from paybill_bench.facts import tenant
from paybill_bench.figures import Figure, Progress
from paybill_bench.servers import percentile

TENANTS = 2_000
FEATURES = 40
CHECKS = 200_000


async def measure(progress: Progress) -> Sequence[Figure]:
    """Measures in this process."""
    copy = EntitlementsCache()
    for number in range(TENANTS):
        fact = EntitlementsSet.model_validate_json(encode(_set(tenant(number, TENANTS))))
        copy.apply(fact, 1)
    chance = random.Random(1)  # noqa: S311  # random sampling, no secret
    lookups = [
        (tenant(chance.randrange(TENANTS), TENANTS), f"feature-{chance.randrange(FEATURES + 1)}", chance.randrange(200))
        for _ in range(CHECKS)
    ]
    clock = time.perf_counter_ns
    durations_us = []
    for tenant_id, feature, used in lookups:
        begin = clock()
        check(copy.get(tenant_id), feature, used=used)
        durations_us.append((clock() - begin) / 1000)
    took = sorted(durations_us)
    progress(f"{CHECKS:,} checks: half in {percentile(took, 0.5):.1f} us, 99 % in {percentile(took, 0.99):.1f} us")
    return [
        Figure("entitlements.check_p99_us", percentile(took, 0.99), "us", most=50),
        Figure("entitlements.check_p50_us", percentile(took, 0.5), "us"),
        Figure("entitlements.checks_per_s", CHECKS / (sum(took) / 1e6), "checks/s"),
    ]


def _set(tenant_id: str) -> EntitlementsSet:
    return EntitlementsSet(
        tenant_id=tenant_id,
        subscription_id=f"sub_{tenant_id[4:]}",
        plan=PlanRef(plan="pro", version=1, catalogue_hash="ab" * 32),
        tier="business",
        placement=Preset.POOLED,
        features=tuple(_feature(number) for number in range(FEATURES)),
        allows_access=True,
        entitlements_hash="ab" * 32,
    )


def _feature(number: int) -> Feature:
    key = f"feature-{number}"
    match number % 4:
        case 0:
            return BooleanFeature(kind="boolean", key=key, enabled=number % 8 == 0)
        case 1:
            return StaticFeature(kind="static", key=key, value="24/7")
        case 2:
            return LimitFeature(kind="limit", key=key, limit=100)
        case _:
            return MeteredFeature(kind="metered", key=key, meter="calls", included=50, quota=100)
