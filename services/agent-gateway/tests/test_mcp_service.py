"""The MCP endpoint of a real gateway, called by the official client in both revisions."""

import json

import httpx
import pytest
from endpoint_world import Endpoints, endpoints
from gateway_world import FILES, bundle_of
from mcp.shared.exceptions import MCPError
from paybill_agent_gateway.mcp.messages import CAPABILITIES_KEY, LEGACY, MODERN, VERSION_KEY

MODES = [MODERN, "legacy"]
TOOLS = ["refund", "refund__propose"]
CALL = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
HEADERS = {"MCP-Protocol-Version": LEGACY, "Accept": "application/json, text/event-stream"}


@pytest.fixture
async def gateway(start, postgres):
    async with endpoints(start, postgres) as found:
        yield found


@pytest.fixture
async def key(gateway: Endpoints) -> str:
    """The key of an agent of a tenant with tickets and orders."""
    return (await gateway.agent((await gateway.world.tenant()).tenant_id))["key"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_lists_the_tools_of_its_role_and_calls_them(gateway, key, mode) -> None:
    async with gateway.client(key, mode) as agent:
        tools = (await agent.list_tools()).tools
        started = await agent.call_tool("refund", {"ticket": "t-17"})
        first = started.structured_content
        arguments = {"run": first["run"], "seq": first["seq"], "amount": 1200, "reason": "broken"}
        refunded = await agent.call_tool("refund__propose", arguments)
        repeated = await agent.call_tool("refund__propose", arguments)

    assert [tool.name for tool in tools] == TOOLS
    assert not started.is_error
    assert first["values"]["order"]["total"] == 4500
    assert first["next"] == [
        {"tool": "refund__propose", "step": "propose", "slots": ["amount", "reason"], "choices": []}
    ]
    assert refunded.structured_content["ended"] == "finished"
    assert repeated.structured_content == refunded.structured_content
    assert json.loads(refunded.content[0].text) == refunded.structured_content
    assert await gateway.world.refunds() == [("o-1", 1200, "broken")]


@pytest.mark.parametrize("mode", MODES)
async def test_a_refusal_is_a_result_with_its_code_and_the_steps_that_are_allowed(gateway, key, mode) -> None:
    async with gateway.client(key, mode) as agent:
        run = (await agent.call_tool("refund", {"ticket": "t-17"})).structured_content
        arguments = {"run": run["run"], "seq": run["seq"], "reason": "broken"}
        too_much = await agent.call_tool("refund__propose", arguments | {"amount": 4501})
        extra = await agent.call_tool("refund__propose", arguments | {"amount": 1, "order_id": "o-2"})
        late = await agent.call_tool("refund__propose", arguments | {"amount": 1, "seq": 99})
        lost = await agent.call_tool("refund__propose", {"amount": 1, "reason": "broken"})
        foreign = await agent.call_tool("refund__propose", arguments | {"amount": 1, "run": "run_" + "0" * 32})

    found = [each.structured_content for each in (too_much, extra, late, lost, foreign)]
    assert all(each.is_error for each in (too_much, extra, late, lost, foreign))
    assert [each["code"] for each in found] == [
        "invalid_input", "invalid_input", "wrong_seq", "invalid_input", "run_not_found",
    ]  # fmt: skip
    assert [step["tool"] for step in found[0]["next"]] == ["refund__propose"]
    assert await gateway.world.refunds() == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_waits_for_a_person_and_is_repeated_after_the_approval(gateway, key, mode) -> None:
    async with gateway.client(key, mode) as agent:
        run = (await agent.call_tool("refund", {"ticket": "t-17"})).structured_content
        arguments = {"run": run["run"], "seq": run["seq"], "amount": 3000, "reason": "broken"}
        waiting = (await agent.call_tool("refund__propose", arguments)).structured_content
        still = (await agent.call_tool("refund__propose", arguments)).structured_content
        address = waiting["approval"]["address"]
        shown = (await gateway.operator.get(address)).json()
        approved = await gateway.operator.post(
            f"{address}/approve", json={"subject_hash": shown["approval"]["subject_hash"]}
        )
        refunded = await agent.call_tool("refund__propose", arguments)

    assert waiting["code"] == still["code"] == "approval_required"
    assert waiting["approval"] == still["approval"]
    assert shown["call"]["rows"][0]["after"]["amount"] == 3000
    assert approved.json()["status"] == "granted"
    assert refunded.structured_content["ended"] == "finished"
    assert await gateway.world.refunds() == [("o-1", 3000, "broken")]


@pytest.mark.parametrize("mode", MODES)
async def test_an_unknown_tool_is_an_error_of_the_protocol(gateway, key, mode) -> None:
    async with gateway.client(key, mode) as agent:
        for name, arguments in (("drop", {}), ("refund__drop", {}), ("refund__drop", {"run": "x", "seq": 1})):
            with pytest.raises(MCPError) as refused:
                await agent.call_tool(name, arguments)
            assert (refused.value.error.code, refused.value.error.data["code"]) == (-32602, "unknown_tool")

        assert not (await agent.call_tool("refund", {"ticket": "t-17"})).is_error


async def test_a_client_finds_the_newest_revision_by_itself(gateway, key) -> None:
    async with gateway.client(key, "auto") as agent:
        assert agent.protocol_version == MODERN


async def test_an_agent_of_another_role_has_other_tools(gateway) -> None:
    tenant = await gateway.world.tenant()
    count = "workflow: count\nrole: auditor\nlimits: {calls: 2, rows: 20, minutes: 5}\nsteps:\n"
    grant = '\n@id("counts") @columns("*") permit(principal in Role::"auditor", action == Action::"read", resource);\n'
    await gateway.world.publish(
        bundle_of(count=count + "  all: {read: tickets, limit: 9}\n", grants=FILES["grants.cedar"] + grant)
    )
    other = await gateway.agent(tenant.tenant_id, role="auditor")

    async with gateway.client(other["key"], MODERN) as agent:
        assert [each.name for each in (await agent.list_tools()).tools] == ["count"]
        with pytest.raises(MCPError):
            await agent.call_tool("refund", {"ticket": "t-17"})


async def test_a_run_continues_when_a_later_bundle_has_no_such_tool(gateway, key) -> None:
    async with gateway.client(key, MODERN) as agent:
        run = (await agent.call_tool("refund", {"ticket": "t-17"})).structured_content
        other = FILES["refund.yaml"].replace("workflow: refund", "workflow: repay")
        await gateway.world.publish(bundle_of(refund=other))
        tools = (await agent.list_tools(cache_mode="bypass")).tools
        arguments = {"run": run["run"], "seq": run["seq"], "amount": 100, "reason": "broken"}
        refunded = await agent.call_tool("refund__propose", arguments)

    assert [tool.name for tool in tools] == ["repay", "repay__propose"]
    assert refunded.structured_content["ended"] == "finished"


async def test_a_tool_takes_no_step_of_another_workflow(gateway, key) -> None:
    other = FILES["refund.yaml"].replace("workflow: refund", "workflow: repay")
    await gateway.world.publish(bundle_of(repay=other))

    async with gateway.client(key, MODERN) as agent:
        run = (await agent.call_tool("refund", {"ticket": "t-17"})).structured_content
        arguments = {"run": run["run"], "seq": run["seq"], "amount": 100, "reason": "broken"}
        foreign = (await agent.call_tool("repay__propose", arguments)).structured_content
        with pytest.raises(MCPError) as unlisted:
            await agent.call_tool("another__propose", arguments)
        refunded = (await agent.call_tool("refund__propose", arguments)).structured_content
        again = (await agent.call_tool("repay__propose", arguments)).structured_content

    assert (foreign["code"], foreign["next"][0]["tool"]) == ("step_not_allowed", "refund__propose")
    assert unlisted.value.error.data["code"] == "unknown_tool"
    assert (refunded["ended"], again["code"]) == ("finished", "step_not_allowed")
    assert await gateway.world.refunds() == [("o-1", 100, "broken")]


async def test_the_traceparent_of_a_call_is_the_parent_of_its_facts(gateway, key, log) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    meta = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}

    async with gateway.client(key, MODERN) as agent:
        await agent.session.call_tool("refund", {"ticket": "t-17"}, meta=meta)

    started = (await log.facts("agent-gateway.run_started"))[0]
    assert started.origin.traceparent[3:35] == trace
    assert started.origin.actor.startswith("agent:agt_")


async def test_the_key_of_an_ended_agent_is_refused(gateway) -> None:
    agent = await gateway.agent((await gateway.world.tenant()).tenant_id)
    async with gateway.rest(agent["key"]) as client:
        before = await client.post("/mcp", json=CALL, headers=HEADERS)
        await gateway.operator.post(f"/v1/agents/{agent['id']}/end")
        after = await client.post("/mcp", json=CALL, headers=HEADERS)

    assert before.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert (after.status_code, after.json()["code"]) == (401, "wrong_key")
    assert after.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": ""}, 401, "no_key"),
        ({"Authorization": "Basic YTpi"}, 401, "no_key"),
        ({"Authorization": "Bearer pbk_x_y"}, 401, "wrong_key"),
        ({"Origin": "https://evil.example"}, 403, "origin_refused"),
        ({"Origin": "null"}, 403, "origin_refused"),
        ({"Origin": "http://localhost.evil.example"}, 403, "origin_refused"),
        ({"Content-Type": "text/plain"}, 415, "wrong_content_type"),
        ({"Accept": "text/html"}, 406, "not_acceptable"),
        ({"Origin": "http://localhost:3000"}, 200, None),
    ],
)
async def test_a_request_is_checked_before_its_message(gateway, key, headers, status, code) -> None:
    async with gateway.rest(key) as client:
        sent = HEADERS | {"Content-Type": "application/json"} | headers
        response = await client.post("/mcp", content=json.dumps(CALL), headers=sent)
        next_ = await client.post("/mcp", json=CALL, headers=HEADERS)

    assert (response.status_code, response.json().get("code")) == (status, code)
    assert next_.status_code == 200


async def test_a_configured_origin_is_allowed(start, postgres) -> None:
    async with endpoints(start, postgres, agent_origins="https://a.example,https://b.example") as gateway:
        key = (await gateway.agent((await gateway.world.tenant()).tenant_id))["key"]
        async with gateway.rest(key) as client:
            found = [
                (await client.post("/mcp", json=CALL, headers=HEADERS | {"Origin": origin})).status_code
                for origin in ("https://a.example", "https://b.example", "https://c.example")
            ]

    assert found == [200, 200, 403]


async def test_people_have_no_tools_and_there_is_no_stream(gateway, key) -> None:
    person = await gateway.operator.post("/mcp", json=CALL, headers=HEADERS)
    async with gateway.rest(key) as client:
        streams = [await client.request(method, "/mcp") for method in ("GET", "DELETE")]

    assert (person.status_code, person.json()["code"]) == (403, "no_agent")
    assert [(each.status_code, each.headers["Allow"]) for each in streams] == [(405, "POST")] * 2


async def test_the_fast_route_and_the_ordinary_one_answer_alike(gateway, key) -> None:
    params = {"name": "refund", "arguments": {"ticket": "t-17"}, "_meta": {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}}
    message = {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params}
    headers = HEADERS | {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "refund"}
    found: list[httpx.Response] = []

    async with gateway.rest(key) as client:
        found.append(await client.post("/mcp", json=message, headers=headers))
    bearer = {"Authorization": f"Bearer {key}"}
    found.append(await gateway.operator.post("/mcp", json=message, headers=headers | bearer))

    assert found[0].text == found[1].text
    assert found[0].json()["result"]["resultType"] == "complete"
    assert [each.status_code for each in found] == [200, 200]
