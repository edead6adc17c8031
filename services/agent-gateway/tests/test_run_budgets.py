"""Budgets of runs on real servers: no start, repeated call or automatic step is free, or comes after the end."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from gateway_world import FILES, World, bundle_of, origin, world
from paybill_agent_gateway.domain import runs
from paybill_agent_gateway.domain.budgets import day_id
from paybill_agent_gateway.domain.calls import Take, digest_of
from paybill_agent_gateway.tables import DAYS, RUNS
from paybill_contracts.agent_bundles import Amounts
from paybill_contracts.agent_runs import ActionDone, RunEnd, RunStarted
from paybill_runtime.clock import now
from paybill_runtime.http.listing import load_state
from paybill_runtime.testing import until

LOG = """
workflow: log
role: support
input: {order: orders.id}
once: [input.order]
limits:
  {calls: 3, rows: 3, minutes: 5, sum: {refunds.amount: 500}, DAY: {calls: 15, rows: 15, sum: {refunds.amount: 1000}}}
steps:
  add:
    create: refunds
    set: {id: run.id, order_id: o-1, amount: {slot: integer, min: 1, max: 500}, reason: none}
    irreversible: true
"""
LATE = """
workflow: late
role: support
input: {order: orders.id}
once: [input.order]
limits: {calls: 3, rows: 3, minutes: 5}
steps:
  pick: {compute: {amount: {slot: integer, min: 1, max: 9}}}
  add:
    create: refunds
    set: {id: run.id, order_id: o-1, amount: pick.amount, reason: none}
    irreversible: true
"""
FORBIDS = FILES["grants.cedar"] + (
    '@id("no large refunds") forbid(principal, action == Action::"create", resource is refunds)'
    " when { resource.amount > 1000 };"
)
ALL_AUTOMATIC = (
    FILES["refund.yaml"]
    .replace("{slot: integer, min: 1, max: order.total}", "order.total")
    .replace("{slot: text, max: 200}", "none")
    .replace('    approval: {when: "amount > 2000", within_minutes: 60}\n', "")
)


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


@pytest.mark.parametrize("day", ["agent_day", "tenant_day"])
async def test_a_run_that_starts_again_at_once_keeps_its_part_of_the_day(gateway: World, day: str) -> None:
    await gateway.publish(bundle_of(log=LOG.replace("DAY", day)))
    agent = await gateway.tenant()
    first = await gateway.start(agent, "log", order="o-1")
    for _ in range(3):
        await gateway.refused(gateway.take(agent, "add", first.run, first.seq, amount=-1))
    again = await gateway.start(agent, "log", order="o-1")  # the end of the first attempt may not be settled yet
    await gateway.take(agent, "add", again.run, again.seq, amount=500)
    await until(lambda: gateway.settled(agent.tenant_id))
    other = await gateway.start(agent, "log", order="o-2")
    await gateway.take(agent, "add", other.run, other.seq, amount=500)
    await until(lambda: gateway.settled(agent.tenant_id))
    refused = await gateway.refused(gateway.start(agent, "log", order="o-3"))
    state = await load_state(gateway.gate.context, DAYS, day_id(agent.tenant_id, now()))

    assert (first.run, first.seq, again.seq) == (again.run, 1, 2)
    assert refused.code == "budget_exceeded"
    assert state is not None
    assert (state.used["log"].sums, state.actions) == ({"refunds.amount": 1000}, 2)
    assert sum(amount for _, amount, _ in await gateway.refunds()) == 1000


async def test_a_refused_automatic_step_costs_a_call_and_ends_a_run_that_repeats_it(gateway: World, log: Any) -> None:
    await gateway.publish(bundle_of(refund=FILES["refund.yaml"].replace("calls: 12", "calls: 3")))
    agent = await gateway.tenant()
    await gateway.pool.execute(
        f"INSERT INTO product.tickets VALUES ('{agent.tenant_id}', 't-19', 'o-404', 'c-1', 'Lost', 'Lost', 'open')"
    )
    read, reads = gateway.gate.databases.read, 0

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    gateway.gate.databases.read = counted  # type: ignore[method-assign]  # counts the statements
    answers = [await gateway.start(agent, ticket="t-19") for _ in range(2 * runs.MAX_ATTEMPTS)]
    refused = [await gateway.refused(gateway.start(agent, ticket="t-19")) for _ in range(3)]
    facts = [each.event for each in await log.facts("agent-gateway.action_refused", at_least=2 * runs.MAX_ATTEMPTS)]

    assert [each.ended for each in answers] == [None, "out_of_budget"] * runs.MAX_ATTEMPTS
    assert {each.code for each in refused} == {"budget_exceeded"}
    assert {(each.code, each.step, each.called, each.agent_id) for each in facts} == {
        ("row_missing", "order", None, agent.agent_id)
    }
    assert len(facts) == 2 * runs.MAX_ATTEMPTS
    assert reads <= 3 * runs.MAX_ATTEMPTS


async def test_an_automatic_step_that_is_not_permitted_is_a_fact(gateway: World, log: Any) -> None:
    await gateway.publish(bundle_of(grants=FORBIDS, refund=ALL_AUTOMATIC))
    agent = await gateway.tenant()

    answer = await gateway.start(agent, ticket="t-17")
    (fact,) = await log.facts("agent-gateway.action_refused", at_least=1)

    assert [each.step for each in answer.next] == ["propose"]
    assert (fact.event.code, fact.event.step, fact.event.verb) == ("not_permitted", "propose", "create")
    assert fact.event.grants == ("no large refunds",)
    assert (await gateway.run(answer.run)).used.calls == 3


@pytest.mark.parametrize("call", ["start", "take"])
async def test_no_automatic_step_follows_the_end_of_the_time(gateway: World, call: str) -> None:
    hash_ = await gateway.publish(bundle_of(late=LATE))
    agent = await gateway.tenant()
    (workflow,) = (each for each in bundle_of(late=LATE).workflows if each.name == "late")
    run = runs.run_id(agent.tenant_id, workflow, {"order": "o-1"}, [])
    of = {"tenant_id": agent.tenant_id, "run_id": run, "bundle_hash": hash_, "workflow": "late"}
    at = now() - timedelta(minutes=10)
    begun = RunStarted(
        **of, agent_id=agent.agent_id, role="support", blueprint="support-agent", inputs={"order": "o-1"},
        has_trusted_inputs=False, first_seq=1, digest="1" * 64, reserved=workflow.limits.run,
        started_by=agent.subject, started_at=at, expires_at=at + timedelta(minutes=5),
    )  # fmt: skip
    done = ActionDone(
        **of, seq=1, step="pick", verb=None, resource=None, digest=digest_of(run, Take(run, 1, "pick", {"amount": 5})),
        arguments={}, grants=(), rows=({"amount": 5},), used=Amounts(calls=1), chosen=None, done_at=at,
    )  # fmt: skip
    await gateway.gate.context.decide(
        origin(), lambda unit, _: unit.record(RUNS, run, [begun, done]), writes=[RUNS.key(run)]
    )

    if call == "start":
        await gateway.start(agent, "late", order="o-1")
    else:
        await gateway.take(agent, "pick", run, 1, amount=5)

    assert (await gateway.run(run)).ended is RunEnd.EXPIRED
    assert await gateway.refunds() == []
