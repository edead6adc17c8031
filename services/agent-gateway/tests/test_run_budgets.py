"""Budgets of runs on real servers: no start, repeated call or automatic step is free, or comes after the end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import World, bundle_of, world
from paybill_agent_gateway.domain.budgets import day_id
from paybill_agent_gateway.tables import DAYS
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
