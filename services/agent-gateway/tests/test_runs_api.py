"""The REST API of runs, approvals, agents, freezes and explanations, on a real gateway."""

import asyncio

import pytest
from endpoint_world import Endpoints, endpoints
from gateway_world import FILES, bundle_of
from paybill_contracts.agent_tenants import AgentTenantStatus
from paybill_runtime.http.auth import AGENT

RUNS = "/v1/workflows/refund/runs"
UNKNOWN = "run_" + "0" * 32


@pytest.fixture
async def gateway(start, postgres):
    async with endpoints(start, postgres) as found:
        yield found


async def test_an_agent_runs_a_workflow_and_sees_its_own_runs_alone(gateway: Endpoints, log) -> None:
    tenant, other = await gateway.world.tenant(), await gateway.world.tenant("bolt")
    mine, foreign = await gateway.agent(tenant.tenant_id), await gateway.agent(other.tenant_id)

    async with gateway.rest(mine["key"]) as agent, gateway.rest(foreign["key"]) as stranger:
        started = (await agent.post(RUNS, json={"inputs": {"ticket": "t-17"}})).json()
        step = f"/v1/runs/{started['run']}/steps/propose"
        body = {"seq": started["seq"], "values": {"amount": 1200, "reason": "broken"}}
        stolen = await stranger.post(step, json=body)
        shown_to_stranger = await stranger.get(f"/v1/runs/{started['run']}")
        done = await agent.post(step, json=body)
        again = await agent.post(step, json=body)
        shown = (await agent.get(f"/v1/runs/{started['run']}")).json()
        closed = [
            (await agent.get(path)).json()["code"]
            for path in ("/v1/runs", "/v1/approvals", "/v1/agents", "/v1/freezes")
        ]
        elsewhere = await agent.post(RUNS, json={"tenant": other.tenant_id, "inputs": {"ticket": "t-17"}})
    refused = await log.facts("agent-gateway.request_refused", at_least=3)

    assert [(each.status_code, each.json()["code"]) for each in (stolen, shown_to_stranger)] == [
        (404, "run_not_found")
    ] * 2
    assert {(fact.event.code, fact.origin.actor) for fact in refused} == {
        ("run_not_found", f"{AGENT}{foreign['id']}"),
        ("wrong_tenant", f"{AGENT}{mine['id']}"),
    }
    assert done.json()["ended"] == "finished"
    assert done.json() == again.json()
    assert [(each["step"], each["status"], each["verb"]) for each in shown["actions"]] == [
        ("ticket", "done", "read"), ("order", "done", "read"), ("propose", "done", "create"),
    ]  # fmt: skip
    assert shown["actions"][2]["grants"] == ["refunds up to 50.00"]
    assert shown["started_by"] == f"{AGENT}{mine['id']}"
    assert closed == ["key_bound_to_tenant"] * 4
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "wrong_tenant")
    assert await gateway.world.refunds() == [("o-1", 1200, "broken")]


async def test_a_refusal_is_a_problem_that_names_the_next_steps(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    started = (
        await gateway.operator.post(RUNS, json={"tenant": tenant.tenant_id, "inputs": {"ticket": "t-17"}})
    ).json()
    step = f"/v1/runs/{started['run']}/steps/propose"

    too_much = await gateway.operator.post(step, json={"seq": started["seq"], "values": {"amount": 1, "reason": 7}})
    shown = (await gateway.operator.get(f"/v1/runs/{started['run']}")).json()

    assert too_much.status_code == 422
    assert too_much.headers["content-type"] == "application/problem+json"
    problem = too_much.json()
    assert (problem["code"], problem["run"], problem["seq"]) == ("invalid_input", started["run"], started["seq"])
    assert [each["step"] for each in problem["next"]] == ["propose"]
    assert (shown["actions"][-1]["status"], shown["actions"][-1]["code"]) == ("refused", "invalid_input")
    assert shown["has_trusted_inputs"]


async def test_a_refused_action_is_shown_with_the_step_that_was_called(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    started = (
        await gateway.operator.post(RUNS, json={"tenant": tenant.tenant_id, "inputs": {"ticket": "t-17"}})
    ).json()

    await gateway.operator.post(f"/v1/runs/{started['run']}/steps/close", json={"seq": started["seq"], "values": {}})
    shown = (await gateway.operator.get(f"/v1/runs/{started['run']}")).json()["actions"][-1]

    assert (shown["step"], shown["status"], shown["code"]) == ("close", "refused", "step_not_allowed")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"seq": 1, "seq": 2}', 400, "repeated_key"),
        (b'{"seq": 9223372036854775808}', 400, "number_out_of_range"),
        (b'{"seq": NaN}', 400, "invalid_json"),
        (b'{"seq": 1, "values": {"reason": "\\u0000"}}', 400, "invalid_text"),
        (b'{"seq": 1, "values": {"reason": "\\ud800"}}', 400, "invalid_text"),
        (b'{"seq": 1, "values": {"reason": "' + b"x" * 262_144 + b'"}}', 413, "too_large"),
        (b'[{"seq": 1}]', 422, "invalid_request"),
        (b'{"seq": "1"}', 422, "invalid_request"),
        (b'{"seq": 1, "sql": "x"}', 422, "invalid_request"),
        (b'{"seq": 1}', 404, "run_not_found"),
    ],
)
async def test_a_call_is_read_as_strictly_as_over_mcp(gateway: Endpoints, content, status, code) -> None:
    headers = {"Content-Type": "application/json"}

    response = await gateway.operator.post(f"/v1/runs/{UNKNOWN}/steps/propose", content=content, headers=headers)

    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_approvals_are_listed_shown_and_decided_by_another_person(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    start = {"tenant": tenant.tenant_id, "inputs": {"ticket": "t-17"}}
    own = (await gateway.operator.post(RUNS, json=start)).json()
    call = f"/v1/runs/{own['run']}/steps/propose", {"seq": own["seq"], "values": {"amount": 3000, "reason": "broken"}}
    agent = await gateway.agent(tenant.tenant_id)
    waiting = (await gateway.operator.post(call[0], json=call[1])).json()
    address = waiting["approval"]["address"]
    shown = (await gateway.operator.get(address)).json()
    hash_ = shown["approval"]["subject_hash"]

    async with gateway.rest(agent["key"]) as client:
        by_agent = await client.post(f"{address}/approve", json={"subject_hash": hash_})
    by_starter = await gateway.operator.post(f"{address}/approve", json={"subject_hash": hash_})
    other_hash = await gateway.operator.post(f"{address}/approve", json={"subject_hash": "0" * 64})
    listed = (await gateway.operator.get("/v1/approvals", params={"status": "requested"})).json()["approvals"]
    rejected = await gateway.operator.post(f"{address}/reject", json={"reason": "not broken"})
    repeated = (await gateway.operator.post(call[0], json=call[1])).json()
    unknown = await gateway.operator.get(f"/v1/approvals/apr_{'0' * 32}")

    assert waiting["code"] == "approval_required"
    assert by_agent.json()["code"] == "key_bound_to_tenant"
    assert [each.json()["code"] for each in (by_starter, other_hash)] == ["approval_mismatch"] * 2
    assert [each["id"] for each in listed] == [waiting["approval"]["id"]]
    assert shown["call"]["arguments"]["amount"] == 3000
    assert shown["call"]["rows"][0]["before"] is None
    assert (rejected.json()["status"], rejected.json()["ended"]) == ("rejected", "not broken")
    assert repeated["code"] == "approval_denied"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "approval_not_found")
    assert await gateway.world.refunds() == []


async def test_a_freeze_stops_calls_until_it_is_thawed(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    agent = await gateway.agent(tenant.tenant_id)
    names = ["everything", f"tenant/{tenant.tenant_id}", f"agent/{agent['id']}", "workflow/refund"]
    found = []

    async with gateway.rest(agent["key"]) as client:
        for name in names:
            frozen = (await gateway.operator.post("/v1/freezes", json={"freeze": name, "reason": "checks"})).json()
            refused = await client.post(RUNS, json={"inputs": {"ticket": "t-17"}})
            listed = (await gateway.operator.get("/v1/freezes")).json()["freezes"]
            thawed = (await gateway.operator.post("/v1/freezes/thaw", json={"freeze": name})).json()
            found.append(
                (frozen["frozen"], refused.json()["code"], [each["freeze"] for each in listed], thawed["frozen"])
            )
        started = await client.post(RUNS, json={"inputs": {"ticket": "t-17"}})
    unknown = await gateway.operator.post("/v1/freezes", json={"freeze": f"agent/agt_{'f' * 32}", "reason": "checks"})

    assert found == [(True, "frozen", [name], False) for name in names]
    assert started.status_code == 200
    assert unknown.json()["code"] == "agent_unknown"


async def test_a_freeze_of_nothing_and_the_end_of_none_are_not_found(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    body = {"freeze": "workflow/refnd", "reason": "checks"}
    unknown = await gateway.operator.post("/v1/freezes", json=body)
    not_frozen = await gateway.operator.post("/v1/freezes/thaw", json={"freeze": "workflow/refund"})
    await gateway.world.start(tenant, ticket="t-17")
    await gateway.world.publish(bundle_of(refund=FILES["refund.yaml"].replace("workflow: refund", "workflow: repay")))
    with_a_run = await gateway.operator.post("/v1/freezes", json=body | {"freeze": "workflow/refund"})

    assert (unknown.status_code, unknown.json()["code"]) == (404, "workflow_not_found")
    assert (not_frozen.status_code, not_frozen.json()["code"]) == (404, "not_frozen")
    assert with_a_run.json()["frozen"]


async def test_an_agent_needs_a_role_in_force_and_a_name_of_its_own(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    body = {"tenant": tenant.tenant_id, "name": "desk", "role": "support", "lifetime_s": 60}

    first = (await gateway.operator.post("/v1/agents", json=body)).json()
    same = await gateway.operator.post("/v1/agents", json=body)
    wrong = await gateway.operator.post("/v1/agents", json=body | {"name": "other", "role": "nosuchrole"})
    named = (await gateway.operator.get("/v1/agents", params={"name": "desk"})).json()["agents"]
    await gateway.operator.post(f"/v1/agents/{first['id']}/end")
    after = await gateway.operator.post("/v1/agents", json=body)

    assert (same.status_code, same.json()["code"]) == (409, "agent_name_taken")
    assert (wrong.status_code, wrong.json()["code"]) == (404, "role_unknown")
    assert "support" in wrong.json()["detail"]
    assert [each["id"] for each in named] == [first["id"]]
    assert after.status_code == 201


async def test_an_agent_is_registered_once_and_its_key_is_shown_once(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    body = {"tenant": tenant.tenant_id, "name": "desk", "role": "support", "lifetime_s": 60}
    headers = {"Idempotency-Key": "k-1"}

    dry = await gateway.operator.post("/v1/agents", json=body, headers={"Dry-Run": "true"})
    first = (await gateway.operator.post("/v1/agents", json=body, headers=headers)).json()
    again = (await gateway.operator.post("/v1/agents", json=body, headers=headers)).json()
    shown = (await gateway.operator.get(f"/v1/agents/{first['id']}")).json()
    listed = (await gateway.operator.get("/v1/agents", params={"tenant": tenant.tenant_id})).json()["agents"]
    ended = [(await gateway.operator.post(f"/v1/agents/{first['id']}/end")).json()["status"] for _ in range(2)]
    unknown = await gateway.operator.post("/v1/agents", json=body | {"tenant": f"ten_{'f' * 32}"})
    await gateway.world.change_tenant(tenant.tenant_id, status=AgentTenantStatus.LEAVING)
    left = await gateway.operator.post("/v1/agents", json=body)

    assert [each["type"] for each in dry.json()["would_record"]] == ["agent-gateway.agent_registered"]
    assert first["key"].startswith("pbk_agent-")
    assert again == first | {"key": None}
    assert shown == {name: value for name, value in first.items() if name != "key"}
    assert first["id"] in [each["id"] for each in listed]
    assert ended == ["ended", "ended"]
    assert [each.json()["code"] for each in (unknown, left)] == ["tenant_unknown", "tenant_left"]


async def test_a_call_is_explained_by_its_grant_and_rule(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    agent = await gateway.agent(tenant.tenant_id)
    made_up = {"tenant": tenant.tenant_id, "role": "support", "workflow": "refund", "step": "propose"}
    row = {"id": "r-1", "order_id": "o-1", "reason": "broken"}
    async with gateway.rest(agent["key"]) as client:
        run = (await client.post(RUNS, json={"inputs": {"ticket": "t-17"}})).json()
        await client.post(f"/v1/runs/{run['run']}/steps/propose", json={"seq": run["seq"], "values": {}})
        body = {"seq": run["seq"], "values": {"amount": 1200, "reason": "broken"}}
        await client.post(f"/v1/runs/{run['run']}/steps/propose", json=body)
        waiting = (await client.post(RUNS, json={"inputs": {"ticket": "t-18"}})).json()
        body = {"seq": waiting["seq"], "values": {"amount": 3000, "reason": "broken"}}
        await client.post(f"/v1/runs/{waiting['run']}/steps/propose", json=body)

    async def explained(**body: object) -> dict[str, object]:
        return (await gateway.operator.post("/v1/explanations", json=body)).json()

    read = await explained(run=run["run"], seq=1)
    done = await explained(run=run["run"], seq=run["seq"])
    waits = await explained(run=waiting["run"], seq=waiting["seq"])
    small = await explained(**made_up, values=row | {"amount": 1200})
    approved = await explained(**made_up, values=row | {"amount": 3000})
    large = await explained(**made_up, values=row | {"amount": 9000})
    by_agent = await explained(agent=agent["id"], workflow="refund", step="propose", values=row | {"amount": 9000})
    await gateway.operator.post("/v1/freezes", json={"freeze": "everything", "reason": "checks"})
    frozen = await explained(**made_up, values=row | {"amount": 1200})

    assert (read["allowed"], read["grants"], read["verb"]) == (True, ["reads"], "read")
    assert (done["allowed"], done["grants"], done["step"]) == (True, ["refunds up to 50.00"], "propose")
    assert [(each["allowed"], each["code"]) for each in done["attempts"]] == [(False, "invalid_input"), (True, None)]
    assert done["attempts"][0]["rule"]
    assert (waits["allowed"], waits["code"], waits["needs_approval"]) == (False, "approval_required", True)
    assert (small["allowed"], small["grants"], small["needs_approval"]) == (True, ["refunds up to 50.00"], False)
    assert approved["needs_approval"]
    assert (large["allowed"], large["code"], large["rule"]) == (False, "not_permitted", "row_not_permitted")
    assert by_agent == large
    condition = "resource.amount > 0 && resource.amount <= 5000"
    assert [(each["id"], each["condition"]) for each in large["nearest"]] == [("refunds up to 50.00", condition)]
    assert (await explained(**made_up, values={"amount": 1200}))["code"] == "invalid_input"
    assert (await explained(**made_up, values=row | {"amount": 0}))["code"] == "invalid_input"
    assert (await explained(**made_up, values=row | {"amount": 5, "reason": "x" * 201}))["code"] == "invalid_input"
    assert (frozen["allowed"], frozen["code"]) == (False, "frozen")
    assert (await explained(run=run["run"], seq=99))["code"] == "call_not_found"
    assert (await explained(**made_up, values={"nothing": 1}))["code"] == "invalid_input"
    assert (await explained(workflow="refund", step="propose"))["code"] == "invalid_request"
    assert (await explained(run=run["run"]))["code"] == "invalid_request"


async def test_runs_are_listed_by_tenant_workflow_and_status(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    ids = []
    for ticket in ("t-17", "t-18"):
        body = {"tenant": tenant.tenant_id, "inputs": {"ticket": ticket}}
        ids.append((await gateway.operator.post(RUNS, json=body)).json()["run"])

    async def found(**query: object) -> list[str]:
        page = (await gateway.operator.get("/v1/runs", params=query)).json()
        return [each["id"] for each in page["runs"]]

    newest = (await gateway.operator.get("/v1/runs", params={"limit": 1})).json()

    assert await found(tenant=tenant.tenant_id) == ids[::-1]
    assert await found(status="open", workflow="refund") == ids[::-1]
    assert await found(status="ended") == []
    assert [each["id"] for each in newest["runs"]] == ids[1:]
    assert await found(after=newest["next"]) == ids[:1]


async def test_an_agent_whose_time_is_over_is_refused(gateway: Endpoints) -> None:
    tenant = await gateway.world.tenant()
    expired = await gateway.agent(tenant.tenant_id, lifetime_s=1)

    async with gateway.rest(expired["key"]) as client:
        while (response := await client.get(f"/v1/runs/{UNKNOWN}")).status_code != 401:
            assert response.json()["code"] == "run_not_found"

    assert (await gateway.operator.get(f"/v1/agents/{expired['id']}")).json()["status"] == "expired"


async def test_of_concurrent_registrations_with_one_name_one_succeeds(gateway: Endpoints, log) -> None:
    tenant, other = await gateway.world.tenant(), await gateway.world.tenant("bolt")
    body = {"tenant": tenant.tenant_id, "name": "desk", "role": "support", "lifetime_s": 60}

    made = await asyncio.gather(*(gateway.operator.post("/v1/agents", json=body) for _ in range(8)))
    elsewhere = await gateway.operator.post("/v1/agents", json=body | {"tenant": other.tenant_id})
    named = (await gateway.operator.get("/v1/agents", params={"name": "desk"})).json()["agents"]
    refused = await log.facts("agent-gateway.request_refused", at_least=7)

    assert sorted(each.status_code for each in made) == [201] + [409] * 7
    assert {each.json()["code"] for each in made if each.status_code == 409} == {"agent_name_taken"}
    assert elsewhere.status_code == 201
    assert sorted(each["tenant_id"] for each in named) == sorted([tenant.tenant_id, other.tenant_id])
    assert {(fact.event.code, fact.event.tenant) for fact in refused} == {("agent_name_taken", tenant.tenant_id)}


async def test_an_expired_agent_ends_by_itself_and_its_name_is_free_again(gateway: Endpoints, log) -> None:
    tenant = await gateway.world.tenant()
    body = {"tenant": tenant.tenant_id, "name": "desk", "role": "support", "lifetime_s": 1}

    first = (await gateway.operator.post("/v1/agents", json=body)).json()
    (ended,) = await log.facts("agent-gateway.agent_ended")
    again = await gateway.operator.post("/v1/agents", json=body)
    shown = (await gateway.operator.get(f"/v1/agents/{first['id']}")).json()

    assert (ended.event.agent_id, ended.event.reason) == (first["id"], "expired")
    assert again.status_code == 201
    assert (shown["status"], shown["end_reason"]) == ("expired", "expired")


async def test_a_run_is_started_for_a_tenant_by_its_slug(gateway: Endpoints) -> None:
    tenant, other = await gateway.world.tenant("acme"), await gateway.world.tenant("bolt")
    key = (await gateway.agent(tenant.tenant_id))["key"]
    purged = await gateway.world.tenant("gone")
    await gateway.world.change_tenant(purged.tenant_id, slug="acme", status=AgentTenantStatus.PURGED)
    body = {"inputs": {"ticket": "t-17"}}

    by_slug = await gateway.operator.post(RUNS, json=body | {"tenant": "acme"})
    by_id = await gateway.operator.post(RUNS, json=body | {"tenant": tenant.tenant_id})
    unknown = await gateway.operator.post(RUNS, json=body | {"tenant": "nobody"})
    invalid = await gateway.operator.post(RUNS, json=body | {"tenant": "No Slug"})
    async with gateway.rest(key) as agent:
        own = await agent.post(RUNS, json=body | {"tenant": "acme"})
        foreign = [await agent.post(RUNS, json=body | {"tenant": name}) for name in ("bolt", "nobody")]

    assert by_slug.json()["run"] == by_id.json()["run"] == own.json()["run"]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "tenant_unknown")
    assert invalid.status_code == 422
    assert {(each.status_code, each.json()["code"]) for each in foreign} == {(403, "wrong_tenant")}
    assert foreign[0].json()["detail"].replace("bolt", "nobody") == foreign[1].json()["detail"]
    assert other.tenant_id not in foreign[0].text


async def test_a_start_for_another_tenant_is_a_fact_of_the_agents_own(gateway: Endpoints, log) -> None:
    tenant, other = await gateway.world.tenant(), await gateway.world.tenant("bolt")
    made = await gateway.agent(tenant.tenant_id)

    async with gateway.rest(made["key"]) as agent:
        await agent.post(RUNS, json={"tenant": other.tenant_id, "inputs": {"ticket": "t-17"}})
    (refused,) = await log.facts("agent-gateway.request_refused")

    assert (refused.event.code, refused.event.tenant) == ("wrong_tenant", tenant.tenant_id)
    assert refused.event.caller == f"{AGENT}{made['id']}"
