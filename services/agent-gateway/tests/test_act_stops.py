"""Runs that are stopped with an unknown outcome or a waiting approval, and claims beside closed tenants."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from gateway_world import World, origin, world
from paybill_agent_gateway.act import settle_unknown
from paybill_agent_gateway.domain import agents
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.runs import ApprovalStatus
from paybill_agent_gateway.effects.tenant_databases import Unknown
from paybill_agent_gateway.tables import AGENTS, CLAIM_DATABASES, CLAIMS_DUE
from paybill_contracts.agent_runs import RunEnd
from paybill_contracts.agent_tenants import AgentTenantStatus
from paybill_runtime.clock import now
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.testing import until


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


async def lost(*_: Any, **__: Any) -> Unknown:
    return Unknown()


async def ended(gateway: World, agent: CallCaller) -> None:
    """Ends an agent."""
    assert agent.agent_id is not None

    def end(unit: Any, at: Any) -> None:
        known = agents.existing(unit.get(AGENTS, agent.agent_id), "")
        unit.record(AGENTS, agent.agent_id, agents.end(known, "user:ann", at.now))

    await gateway.gate.context.decide(origin(), end, writes=[AGENTS.key(agent.agent_id)])


async def test_a_run_with_an_unknown_outcome_is_stopped_with_its_tenant(gateway: World) -> None:
    agent = await gateway.tenant()
    run = await gateway.start(agent, ticket="t-17")
    write, gateway.gate.databases.write = gateway.gate.databases.write, lost  # type: ignore[method-assign]  # a lost connection
    pending = await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))
    gateway.gate.databases.write = write  # type: ignore[method-assign]  # as before

    await gateway.change_tenant(agent.tenant_id, status=AgentTenantStatus.SUSPENDED, is_open=False)
    await until(lambda: gateway.has_ended(run.run))
    assert not await settle_unknown(gateway.gate, run.run, origin())
    await gateway.change_tenant(agent.tenant_id)
    assert await settle_unknown(gateway.gate, run.run, origin())
    state = await gateway.run(run.run)
    refused = await gateway.refused(gateway.take(agent, "propose", run.run, state.seq, amount=5, reason="x"))

    assert (pending.code, refused.code) == ("outcome_pending", "run_ended")
    assert (state.ended, state.intent, state.failed[-1].code) == (RunEnd.STOPPED, None, "action_voided")
    assert await gateway.refunds() == []


async def test_closed_tenants_hold_up_no_claims_of_others(gateway: World) -> None:
    closed, open_ = await gateway.tenant("acme"), await gateway.tenant("bolt")
    started = [await gateway.start(each, ticket="t-17") for each in (closed, open_)]
    write, gateway.gate.databases.write = gateway.gate.databases.write, lost  # type: ignore[method-assign]  # a lost connection
    for agent, run in zip((closed, open_), started, strict=True):
        await gateway.refused(gateway.take(agent, "propose", run.run, run.seq, amount=5, reason="x"))
    gateway.gate.databases.write = write  # type: ignore[method-assign]  # as before
    await gateway.change_tenant(closed.tenant_id, is_open=False)
    due = [(await gateway.run(run.run)).claim_due for run in started]

    async def claims(*without: str) -> list[str]:
        at = column_time(max(each or now() for each in due))
        (found,) = await gateway.gate.context.rows(CLAIM_DATABASES, {"now": at})
        values = {"now": at, "limit": 9, "closed": list(without), "database": found.database}
        return [row.id for row in await gateway.gate.context.rows(CLAIMS_DUE, values)]

    assert await claims() == [started[1].run]
    assert await claims(open_.tenant_id) == []


async def test_the_end_of_an_agent_stops_its_runs_that_wait_for_an_approval(gateway: World) -> None:
    agent = await gateway.tenant()
    waiting, other = [await gateway.start(agent, ticket=ticket) for ticket in ("t-17", "t-18")]
    waits = await gateway.refused(gateway.take(agent, "propose", waiting.run, waiting.seq, amount=3000, reason="x"))

    await ended(gateway, agent)
    await until(lambda: gateway.has_ended(waiting.run))
    state = await gateway.run(waiting.run)

    assert waits.code == "approval_required"
    assert state.approval is not None
    assert (state.ended, state.approval.status) == (RunEnd.STOPPED, ApprovalStatus.EXPIRED)
    assert not await gateway.has_ended(other.run)


async def requested(gateway: World) -> tuple[CallCaller, CallCaller, str, Callable[[CallCaller], Any]]:
    """Returns an agent that has requested an approval in the run of another one, both, the run and their call."""
    starter = await gateway.tenant()
    requester = await gateway.agent(starter.tenant_id)
    run = await gateway.start(starter, ticket="t-17")

    def call(agent: CallCaller) -> Any:
        return gateway.take(agent, "propose", run.run, run.seq, amount=3000, reason="x")

    waits = await gateway.refused(call(requester))
    assert waits.approval is not None
    await gateway.approve(waits.approval.id, run.run)
    return starter, requester, run.run, call


async def test_the_end_of_an_agent_ends_the_approval_that_it_requested_in_a_run_of_another(gateway: World) -> None:
    starter, requester, run, call = await requested(gateway)
    await ended(gateway, requester)

    async def is_over() -> bool:
        state = await gateway.run(run)
        return state.approval is not None and not state.approval.is_open

    await until(is_over)
    expired, again = await gateway.refused(call(starter)), await gateway.refused(call(starter))

    assert (expired.code, again.code) == ("approval_expired", "approval_required")
    assert not await gateway.has_ended(run)
    assert await gateway.refunds() == []


async def test_the_approval_of_an_agent_that_has_ended_is_used_by_nobody(gateway: World) -> None:
    starter, requester, run, call = await requested(gateway)
    await ended(gateway, requester)
    refused = await gateway.refused(call(starter))  # the end of the approval may not be recorded yet
    state = await gateway.run(run)

    assert refused.code == "approval_expired"
    assert state.earlier_approvals[-1].end_reason == "the agent that requested the approval has ended"
    assert await gateway.refunds() == []


async def test_another_agent_uses_the_approval_of_an_active_one(gateway: World) -> None:
    starter, _, _, call = await requested(gateway)

    assert (await call(starter)).ended == "finished"
    assert len(await gateway.refunds()) == 1
