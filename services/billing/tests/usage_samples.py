"""A meter in memory, updated through facts as the consumer and the window closer do it, for tests of the rules."""

import json
from datetime import UTC, datetime, timedelta
from itertools import count

from billing_samples import CONTENT, EMAIL, TENANT, published
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.subscriptions.domain import accounts
from paybill_billing.usage.domain import distinct_counts, usage
from paybill_contracts.billing import AccountRegistered, EntitlementsSet
from paybill_contracts.catalogue import Meter, MeteredFeature, PlanRef
from paybill_contracts.placement import Preset
from paybill_contracts.usage import Usage

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ID = f"{TENANT}:calls"


def plan(*features, allows=True, meters=()):
    """Returns the states of a tenant that has subscribed to these features."""
    catalogue = published(CONTENT.model_copy(update={"meters": tuple(meters)}))
    entitled = EntitlementsSet(
        tenant_id=TENANT,
        subscription_id="sub_" + "1" * 32,
        plan=PlanRef(plan="pro", version=1, catalogue_hash=catalogue.content_hash),
        tier="pro",
        placement=Preset.POOLED,
        features=features or (feature(),),
        allows_access=allows,
        entitlements_hash="c" * 64,
    )
    account = AccountRegistered(
        tenant_id=TENANT,
        name="Acme Inc",
        contact_email=EMAIL,
        plan="pro",
        plan_version=1,
        provider="stripe",
        retention_s=0,
    )
    return usage.Plan(
        account=accounts.evolve(None, account), entitlements=entitlements.evolve(None, entitled), catalogue=catalogue
    )


def feature(quota=None, included=100, key="calls"):
    return MeteredFeature(kind="metered", key=key, meter="calls", included=included, quota=quota)


def meter_definition(**settings):
    """Returns the catalogue's definition of the meter `calls`."""
    return Meter.model_validate_json(json.dumps({"meter": "calls", **settings}))


def used(quantity=1, at=START, of=None, meter="calls"):
    return Usage(tenant_id=TENANT, meter=meter, quantity=quantity, occurred_at=at, of=of)


class Metering:
    """One meter, changed only through facts."""

    def __init__(self, plan_=None):
        self.plan = plan_ or plan()
        self.meter = None
        self.shards = {}
        self.facts = []
        self.closed = {}
        self._ids = count()

    def record(self, used_, *, now=None, arrived=None):
        now = now or max(used_.occurred_at, START)
        shard = usage.shard_of(used_)
        counted = usage.record(
            self.meter,
            self.shards.get(shard),
            used_,
            usage_id=f"0190a5b0-0000-7000-8000-{next(self._ids):012x}",
            publisher="metering",
            plan=self.plan,
            arrived=arrived or now,
            now=now,
        )
        self.apply(counted.on_meter, counted.on_distinct_set)
        return counted

    def consume(self, used_):
        consumed = usage.consume(
            self.meter,
            self.shards.get(usage.shard_of(used_)),
            used_,
            usage_id=f"0190a5b0-0000-7000-8000-{next(self._ids):012x}",
            publisher="consume",
            plan=self.plan,
        )
        self.apply(consumed.on_meter, consumed.on_distinct_set)
        return consumed

    def close(self, now):
        due = [w for w in self.meter.windows if w.closes_at <= now] if self.meter else []
        for window in due:
            assert window.start not in self.closed
            self.closed[window.start] = window
        self.apply(usage.advance(self.meter, due) if due else [])

    def apply(self, on_meter, on_distinct_set=()):
        for event in on_meter:
            self.meter = usage.evolve(self.meter, event)
        for event in on_distinct_set:
            self.shards[event.members_id] = distinct_counts.evolve(self.shards.get(event.members_id), event)
        self.facts += [*on_meter, *on_distinct_set]

    def of(self, kind):
        return [fact for fact in self.facts if isinstance(fact, kind)]
