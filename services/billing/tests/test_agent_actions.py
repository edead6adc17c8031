"""Tests of agents' actions as usage: counted once when a run ends, and only under a plan that meters them."""

from datetime import UTC, datetime, timedelta

import pytest
from paybill_billing.app import service
from paybill_billing.usage.domain import agent_actions, usage
from paybill_contracts.agent_bundles import Amounts
from paybill_contracts.agent_runs import RunEnd, RunEnded
from paybill_contracts.billing import UsageRecorded
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, Meter, MeteredFeature, Window
from paybill_contracts.metering import QuotaExceeded
from paybill_runtime.testing import until
from usage_samples import HOUR, START, plan

TENANT = "ten_" + "d" * 32
USAGE = "0190a5b0-0000-7000-8000-000000000001"
METERED = MeteredFeature(kind="metered", key="agent-actions", meter="agent-actions", included=10, quota=20)

CATALOGUE = """\
product: demo
meters:
  - {meter: agent-actions, aggregation: sum, window: month, lateness: 3d}
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: 7d
    retention: 30d
    features:
      - {key: agent-actions, kind: metered, meter: agent-actions, included: 100}
    prices:
      - {minor: 2900, currency: EUR, interval: month}
"""


def ended(actions=3, at=START, tenant=TENANT, run="a"):
    return RunEnded(
        tenant_id=tenant,
        run_id="run_" + run * 32,
        bundle_hash="c" * 64,
        agent_id="agt_" + "1" * 32,
        workflow="refund",
        reason=RunEnd.FINISHED,
        actions=actions,
        used=Amounts(calls=actions),
        started_at=at - timedelta(minutes=1),
        ended_at=at,
    )


def counted(meter, fact, plan_, now=START):
    for event in agent_actions.on_run_ended(meter, fact, plan_, usage_id=USAGE, now=now):
        meter = usage.evolve(meter, event)
    return meter


def test_the_actions_of_a_run_are_usage_at_its_end():
    facts = agent_actions.on_run_ended(None, ended(), plan(METERED), usage_id=USAGE, now=START + HOUR)

    (recorded,) = [fact for fact in facts if isinstance(fact, UsageRecorded)]
    assert (recorded.meter, recorded.quantity, recorded.occurred_at) == ("agent-actions", 3, START)
    assert (recorded.publisher, recorded.usage_id) == ("agent-gateway", USAGE)


@pytest.mark.parametrize(
    "features",
    [
        (),
        (BooleanFeature(kind="boolean", key="agent-actions", enabled=True),),
        (LimitFeature(kind="limit", key="agent-actions", limit=5),),
    ],
    ids=["another meter", "boolean", "limit"],
)
def test_a_plan_that_does_not_meter_actions_counts_nothing(features):
    assert agent_actions.on_run_ended(None, ended(), plan(*features), usage_id=USAGE, now=START) == []


def test_a_run_without_actions_is_no_usage():
    assert agent_actions.on_run_ended(None, ended(actions=0), plan(METERED), usage_id=USAGE, now=START) == []


def test_actions_beyond_the_quota_are_counted_and_reported_once():
    meter = counted(None, ended(actions=19), plan(METERED))

    facts = agent_actions.on_run_ended(meter, ended(actions=2), plan(METERED), usage_id=USAGE, now=START)

    assert [fact.value for fact in facts if isinstance(fact, QuotaExceeded)] == [21]


def test_actions_whose_window_closed_while_billing_was_down_count_in_the_current_one():
    hourly = plan(METERED, meters=[Meter(meter="agent-actions", window=Window.HOUR, lateness_s=0)])
    now = START + 5 * HOUR

    meter = counted(None, ended(at=START), hourly)
    for event in usage.advance(meter, meter.windows):
        meter = usage.evolve(meter, event)

    meter = counted(meter, ended(at=START), hourly, now=now)

    assert [(window.start, window.value) for window in meter.windows] == [(now, 3)]


@pytest.mark.parametrize("catalogue", [CATALOGUE], indirect=True)
async def test_each_end_of_a_run_is_counted_once_in_any_order(testbed_of, publish):
    testbed = await testbed_of(service())
    await testbed.subscribed(TENANT)
    await until(lambda: _entitled(testbed))
    now = datetime.now(UTC)

    await publish(ended(4, now, run="b"), copies=2)
    await publish(ended(0, now - timedelta(seconds=20), run="a"), copies=2)
    await publish(ended(3, now - timedelta(seconds=10), run="a"), copies=2)

    async def used():
        shown = (await testbed.account(TENANT))["usage"]
        return shown if shown and shown[0]["total"] == 7 else None

    assert await until(used) == [{"meter": "agent-actions", "total": 7, "records": 2, "included": 100}]
    facts = await testbed.log.facts("billing.usage_recorded", at_least=2)
    assert [fact.event.quantity for fact in facts] == [4, 3]


async def _entitled(testbed):
    return (await testbed.account(TENANT))["entitlements"]
