"""Facts of other services stop runs: tenants that are suspended or leave, and environments that are closed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from gateway_samples import facts_about
from gateway_world import World, origin, world
from paybill_agent_gateway.act import settle_unknown
from paybill_agent_gateway.domain import run_ends
from paybill_agent_gateway.domain.budgets import day_id
from paybill_agent_gateway.effects.tenant_databases import Unknown
from paybill_agent_gateway.tables import AGENTS, DAYS
from paybill_contracts.agent_runs import RunEnd, RunStarted
from paybill_contracts.agents import EndReason
from paybill_contracts.provisioner import Access, AccessClosed, AccessOpened
from paybill_runtime.http.listing import load_state
from paybill_runtime.testing import EventLog, until

CLAIMED_S = 30.0
"""The service's job asks again after a few seconds."""


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


def environment(tenant_id: str) -> dict[str, Any]:
    return {"tenant_id": tenant_id, "environment_id": f"env_{tenant_id.removeprefix('ten_')}", "epoch": 1}


async def is_settled(gateway: World, run_id: str) -> bool:
    return (await gateway.run(run_id)).intent is None


async def holds_nothing(gateway: World, run_id: str) -> bool:
    run = await gateway.run(run_id)
    day = await load_state(gateway.gate.context, DAYS, day_id(run.tenant_id, run.started_at))
    return day is not None and run_id not in str(day.open)


async def test_a_suspended_tenant_stops_its_runs_and_unknown_outcomes_wait_for_its_return(
    gateway: World, publish: Any
) -> None:
    agent = await gateway.tenant()
    facts = facts_about(agent.tenant_id)
    run = await gateway.start(agent, ticket="t-17")
    waits = await gateway.start(agent, ticket="t-18")
    asked = await gateway.refused(gateway.take(agent, "propose", waits.run, waits.seq, amount=3000, reason="x"))

    def call() -> Any:
        return gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))

    await publish(AccessClosed(**environment(agent.tenant_id), access=Access.CLOSED), facts.suspended)
    for each in (run, waits):
        await until(lambda each=each: gateway.has_ended(each.run))
    doubtful = await gateway.in_doubt(agent.tenant_id)
    refused = [await call(), await gateway.refused(gateway.start(agent, ticket="t-17"))]
    assert not await settle_unknown(gateway.gate, doubtful, origin())
    await publish(facts.reactivated, AccessOpened(**environment(agent.tenant_id)))
    await until(lambda: is_settled(gateway, doubtful), timeout_s=CLAIMED_S)
    ended = await call()
    again = await gateway.start(agent, ticket="t-17")

    assert [each.code for each in (asked, *refused, ended)] == [
        "approval_required", "tenant_not_running", "tenant_not_running", "run_ended",
    ]  # fmt: skip
    states = [await gateway.run(each.run) for each in (waits, again)]
    assert [each.ended for each in states] == [RunEnd.STOPPED, None]
    assert again.seq > run.seq
    assert (await gateway.run(doubtful)).failed[0].code == "action_voided"
    assert await gateway.refunds() == []
    await until(lambda: holds_nothing(gateway, waits.run))


async def test_a_closed_environment_refuses_calls_that_succeed_when_it_is_open(gateway: World, publish: Any) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")

    def call() -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x")

    async def code() -> str | None:
        return (await gateway.refused(gateway.start(agent, ticket="t-404"))).code

    async def becomes(expected: str) -> bool:
        return await code() == expected

    await publish(AccessClosed(**environment(agent.tenant_id), access=Access.READ_ONLY))
    await until(lambda: becomes("database_unavailable"))
    refused = [await gateway.refused(call()) for _ in range(2)]
    await publish(AccessOpened(**environment(agent.tenant_id)))
    await until(lambda: becomes("row_missing"))
    done = await call()

    assert [(each.code, each.seq) for each in refused] == [("database_unavailable", run.seq)] * 2
    assert (done.ended, (await gateway.run(run.run)).used.calls) == (RunEnd.FINISHED, 5)
    assert await gateway.refunds() == [("o-1", 5, "x")]


async def test_a_tenant_that_leaves_stops_its_runs_and_its_agents_end_with_the_purge(
    gateway: World, publish: Any
) -> None:
    agent = await gateway.tenant()
    facts = facts_about(agent.tenant_id)
    run = await gateway.start(agent, ticket="t-17")
    doubtful = await gateway.in_doubt(agent.tenant_id, agent.agent_id)

    def call() -> Any:
        return gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))

    await publish(facts.offboarded)
    await until(lambda: gateway.has_ended(run.run))
    left = await call()
    await until(lambda: is_settled(gateway, doubtful), timeout_s=CLAIMED_S)
    await until(lambda: gateway.has_ended(doubtful))
    await publish(AccessClosed(**environment(agent.tenant_id), access=Access.CLOSED), facts.purging)
    lost = await gateway.in_doubt(agent.tenant_id, agent.agent_id)
    await publish(facts.purged)
    await until(lambda: is_settled(gateway, lost))

    async def agent_ended() -> bool:
        state = await load_state(gateway.gate.context, AGENTS, agent.agent_id or "")
        return state is not None and state.end_reason is EndReason.TENANT_LEFT

    await until(agent_ended)
    purged = await call()
    states = [await gateway.run(each) for each in (run.run, doubtful, lost)]

    assert (left.code, purged.code) == ("tenant_not_running", "agent_not_active")
    assert [(each.ended, each.has_written) for each in states] == [
        (RunEnd.STOPPED, False), (RunEnd.STOPPED, False), (RunEnd.STOPPED, True),
    ]  # fmt: skip
    assert await gateway.refunds() == []


async def test_a_run_that_ended_by_time_starts_again_and_no_number_repeats(gateway: World, log: EventLog) -> None:
    agent = await gateway.tenant()
    first = await gateway.start(agent, ticket="t-17")

    async def lost(*_: Any, **__: Any) -> Unknown:
        return Unknown()

    write, gateway.gate.databases.write = gateway.gate.databases.write, lost  # type: ignore[method-assign]  # a lost connection
    pending = await gateway.refused(gateway.take(agent, "propose", first.run, first.seq, amount=5, reason="x"))
    gateway.gate.databases.write = write  # type: ignore[method-assign]  # as before
    assert await settle_unknown(gateway.gate, first.run, origin())
    await gateway.decide(first.run, lambda run, _: run_ends.on_time(run, run.end + timedelta(seconds=1)))
    over = await gateway.run(first.run)
    again = await gateway.start(agent, request="later", ticket="t-17")
    late = await gateway.refused(gateway.take(agent, "propose", first.run, first.seq, amount=5, reason="x"))
    done = await gateway.take(agent, "propose", again.run, again.seq, amount=7, reason="y")
    finished = await gateway.start(agent, request="last", ticket="t-17")
    starts = [each.event for each in await log.facts("agent-gateway.run_started", at_least=2)]

    assert (pending.code, over.ended, over.seq) == ("outcome_pending", RunEnd.EXPIRED, first.seq + 1)
    assert (again.run, again.seq, late.code) == (first.run, over.seq + 2, "seq_reused")
    assert [each.first_seq for each in starts if isinstance(each, RunStarted)] == [1, over.seq]
    assert (done.ended, finished.ended, finished.run) == (RunEnd.FINISHED, RunEnd.FINISHED, first.run)
    assert await gateway.refunds() == [("o-1", 7, "y")]
    actions = await gateway.pool.fetch("SELECT seq, outcome FROM paybill_agent.actions ORDER BY seq")
    assert actions == [(first.seq, "void"), (again.seq, "done")]
    await until(lambda: gateway.settled(agent.tenant_id))
