"""Stored answers under later grants and labels: they have what the role may read now, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from endpoint_world import Endpoints, endpoints
from gateway_world import FILES, bundle_of

NARROW = """
@id("tickets") @columns("*")
permit(principal in Role::"support", action == Action::"read", resource is tickets);
@id("cheap orders") @columns("*")
permit(principal in Role::"support", action == Action::"read", resource is orders) when { resource.total < 100 };
@id("refunds") @columns("*")
permit(principal in Role::"support", action == Action::"create", resource is refunds);
"""


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[Endpoints]:
    async with endpoints(start, postgres) as found:
        yield found


async def test_a_started_run_shows_nothing_that_is_hidden_now(gateway: Endpoints) -> None:
    world = gateway.world
    agent = await world.tenant()
    before = await world.start(agent, ticket="t-17")
    resources = FILES["resources.yaml"].replace("tickets:", "orders: {hidden: [item]}\ntickets:")
    assert resources != FILES["resources.yaml"]

    await world.publish(bundle_of(resources=resources))
    after = await world.start(agent, ticket="t-17")

    assert before.values["order"] == {"id": "o-1", "customer_id": "c-1", "item": "lamp", "total": 4500}
    assert after.values["order"] == {"id": "o-1", "customer_id": "c-1", "total": 4500}
    assert after.values["ticket"] == before.values["ticket"]


async def test_a_repeated_call_shows_no_row_that_no_grant_in_force_permits(gateway: Endpoints) -> None:
    world = gateway.world
    agent = await world.tenant()
    run = await world.start(agent, ticket="t-17")
    done = await world.take(agent, "propose", run.run, run.seq, amount=5, reason="x")

    await world.publish(bundle_of(grants=NARROW))
    again = await world.start(agent, ticket="t-17")
    repeated = await world.take(agent, "propose", run.run, run.seq, amount=5, reason="x")

    assert done.values["propose"] == {"id": run.run, "order_id": "o-1", "amount": 5, "reason": "x"}
    assert again.values["order"] == {}
    assert again.values["propose"] == repeated.values["propose"] == {"id": run.run, "amount": 5, "reason": "x"}


async def test_a_shown_run_has_no_arguments_that_its_agent_may_not_read_now(gateway: Endpoints) -> None:
    world = gateway.world
    caller = await world.tenant()
    key = (await gateway.agent(caller.tenant_id))["key"]
    run = await world.start(caller, ticket="t-17")
    await world.take(caller, "propose", run.run, run.seq, amount=5, reason="x")

    await world.publish(bundle_of(grants=NARROW))
    async with gateway.rest(key) as client:
        shown = (await client.get(f"/v1/runs/{run.run}")).json()
    audited = (await gateway.operator.get(f"/v1/runs/{run.run}")).json()

    assert shown["inputs"] == {"ticket": "t-17"}
    assert shown["actions"][-1]["arguments"] == {"id": run.run, "amount": 5, "reason": "x"}
    assert audited["actions"][-1]["arguments"]["order_id"] == "o-1"


async def test_the_official_client_accepts_answers_of_runs_that_began_under_another_bundle(gateway: Endpoints) -> None:
    world = gateway.world
    caller = await world.tenant()
    key = (await gateway.agent(caller.tenant_id))["key"]
    older = await world.start(caller, ticket="t-17")
    refund = FILES["refund.yaml"].replace("order:  {read: orders,", "order:  {read: orders, columns: [id, total],")
    refund = refund.replace("max: order.total", "max: 9")
    assert refund != FILES["refund.yaml"]

    await world.publish(bundle_of(refund=refund))
    async with gateway.client(key, "auto") as client:
        await client.list_tools()
        started = (await client.call_tool("refund", {"ticket": "t-17"})).structured_content
        arguments = {"run": older.run, "seq": older.seq, "amount": 1200, "reason": "broken"}
        done = (await client.call_tool("refund__propose", arguments)).structured_content

    assert started is not None
    assert done is not None
    assert started["values"]["order"]["item"] == "lamp"
    assert done["values"]["propose"]["amount"] == 1200
