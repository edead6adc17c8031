"""Refused calls without a run: an agent has a number of them for each day."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from endpoint_world import Endpoints, endpoints
from mcp.shared.exceptions import MCPError
from paybill_agent_gateway import refused_calls
from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.refusals import BudgetExceededError, FrozenError, RunNotFoundError
from paybill_agent_gateway.mcp.messages import MODERN
from paybill_agent_gateway.refused_calls import MAX_REFUSED, RefusedCalls
from paybill_contracts.sentences import sentence

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AGENT, OTHER, PERSON = (CallCaller("ten_1", f"agent:{each}", each) for each in ("agt_1", "agt_2", None))


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[Endpoints]:
    async with endpoints(start, postgres) as found:
        yield found


def test_an_agent_with_too_many_refused_calls_waits_for_the_next_day() -> None:
    refused = RefusedCalls()
    for caller in (AGENT, PERSON) * MAX_REFUSED:
        refused.require(caller, NOW)
        refused.count(caller, RunNotFoundError("there is no such run"), NOW)
        refused.count(OTHER, FrozenError("all is frozen"), NOW)

    with pytest.raises(BudgetExceededError, match="tomorrow"):
        refused.require(AGENT, NOW)
    for other in (OTHER, PERSON):
        refused.require(other, NOW)
    refused.require(AGENT, NOW + timedelta(days=1))


async def codes_of(agent: Any, *calls: tuple[str, dict[str, Any]]) -> list[str | None]:
    """Returns the code of each refused call."""
    found: list[str | None] = []
    for name, arguments in calls:
        try:
            found.append((await agent.call_tool(name, arguments)).structured_content["code"])
        except MCPError as refused:
            found.append((refused.error.data or {}).get("code"))
    return found


async def test_calls_that_name_no_step_of_an_own_run_are_facts(gateway: Endpoints, log: Any) -> None:
    tenant, other = await gateway.world.tenant(), await gateway.world.tenant("bolt")
    agent, foreign = await gateway.agent(tenant.tenant_id), await gateway.agent(other.tenant_id)
    async with gateway.client(foreign["key"], MODERN) as client:
        run = (await client.call_tool("refund", {"ticket": "t-17"})).structured_content["run"]
    text = "ada@example.com\nagent:x refused: FORGED"
    calls = (
        ("refund__propose", {"run": text, "seq": 1, "amount": 1, "reason": "secret"}),
        (f"refund__{text}", {"run": run, "seq": 1}),
        (text, {"run": run, "seq": 1}),
        ("drop", {}),
        ("refund__drop", {}),
        ("refund__drop", {"run": run, "seq": 1}),
        ("refund__propose", {"amount": 1, "reason": "secret"}),
        ("refund__propose", {"run": run, "seq": True, "amount": 1, "reason": "secret"}),
        ("refund__propose", {"run": run, "seq": 3, "amount": 1, "reason": "secret"}),
    )

    async with gateway.client(agent["key"], MODERN) as client:
        codes = await codes_of(client, *calls)
    events = [fact.event for fact in await log.facts("agent-gateway.request_refused", at_least=len(calls))]

    hashed = f"sha256:{sha256(text.encode()).hexdigest()[:16]}"
    assert codes == ["invalid_input"] + ["unknown_tool"] * 5 + ["invalid_input"] * 2 + ["run_not_found"]
    assert [(each.target, each.code) for each in events] == [
        ("refund.propose", "invalid_input"),
        (f"refund.{hashed} of {run}", "run_not_found"),
        (hashed, "unknown_tool"),
        ("drop", "unknown_tool"),
        ("refund.drop", "unknown_tool"),
        (f"refund.drop of {run}", "run_not_found"),
        ("refund.propose", "invalid_input"),
        ("refund.propose", "invalid_input"),
        (f"refund.propose of {run}", "run_not_found"),
    ]
    assert {(each.tenant, each.caller) for each in events} == {(tenant.tenant_id, f"agent:{agent['id']}")}
    assert sentence(events[3]) == f"act drop by agent:{agent['id']} refused: unknown_tool"
    assert await gateway.world.refunds() == []


async def test_the_facts_of_a_looping_agent_are_bounded(gateway: Endpoints, log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(refused_calls, "MAX_REFUSED", 5)
    tenant = await gateway.world.tenant()
    looping, other = await gateway.agent(tenant.tenant_id), await gateway.agent(tenant.tenant_id)
    long = "x\n\u2028" * 5000

    async with gateway.client(looping["key"], MODERN) as client:
        codes = await codes_of(
            client, *[("drop", {})] * 4, (long, {}), *[("drop", {}), ("refund", {"ticket": "t"})] * 5
        )
    async with gateway.client(other["key"], MODERN) as client:
        assert await codes_of(client, ("last", {})) == ["unknown_tool"]
    events = await log.facts("agent-gateway.request_refused", at_least=6)

    assert codes == ["unknown_tool"] * 5 + ["budget_exceeded"] * 10
    assert [fact.event.target[:4] for fact in events] == ["drop"] * 4 + ["sha2", "last"]
    assert all(len(fact.event.target) <= 200 for fact in events)


async def test_calls_outside_of_act_count_too(gateway: Endpoints, log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(refused_calls, "MAX_REFUSED", 3)
    tenant, other = await gateway.world.tenant(), await gateway.world.tenant("bolt")
    made = await gateway.agent(tenant.tenant_id)
    start = {"tenant": other.tenant_id, "inputs": {"ticket": "t-17"}}

    async with gateway.rest(made["key"]) as agent:
        shown = [await agent.get(f"/v1/runs/run_{n:032x}") for n in range(2)]
        started = [await agent.post("/v1/workflows/refund/runs", json=start) for _ in range(2)]
        shown.append(await agent.get(f"/v1/runs/run_{9:032x}"))
    events = await log.facts("agent-gateway.request_refused", at_least=3)

    assert [each.json()["code"] for each in (*shown, *started)] == [
        "run_not_found", "run_not_found", "budget_exceeded", "wrong_tenant", "budget_exceeded",
    ]  # fmt: skip
    assert [(each.event.verb, each.event.code) for each in events] == [
        ("show_run", "run_not_found"), ("show_run", "run_not_found"), ("act", "wrong_tenant"),
    ]  # fmt: skip
