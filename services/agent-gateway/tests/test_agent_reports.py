"""Public reports about other gateways and servers for agents: none of them is true here.

Each test names its report. All of them call the endpoints of a real gateway, whose tenants are in a real PostgreSQL.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from bundle_samples import FILES, blueprint_published
from endpoint_world import Endpoints, endpoints
from gateway_world import RIGHTS, bundle_of
from mcp.client.client import Client
from paybill_agent_gateway.domain.runs import Run, RunEvent
from paybill_agent_gateway.mcp.messages import MODERN
from paybill_contracts.agent_runs import CallApprovalGranted
from paybill_contracts.approval import Approval

GRANTS = FILES["grants.cedar"]
MANY_CALLS = FILES["refund.yaml"].replace("calls: 12", "calls: 40")
FIX = """
workflow: fix
role: support
input: {refund: refunds.id}
once: [input.refund]
limits: {calls: 12, rows: 20, minutes: 600}
steps:
  refund: {read: refunds, where: {id: input.refund}, columns: [id, amount], one: true}
  correct:
    update: refunds
    where: {id: refund.id}
    set: {amount: {slot: integer, min: 1, max: 5000}}
    limit: 1
    approval: {within_minutes: 60}
    irreversible: true
"""
FIXES = GRANTS + (
    '@id("fixes") @columns("id, amount") '
    'permit(principal in Role::"support", action == Action::"update", resource is refunds);'
)


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[Endpoints]:
    async with endpoints(start, postgres) as found:
        yield found


@pytest.fixture
async def fixing(start: Any, postgres: Any) -> AsyncIterator[Endpoints]:
    """A gateway whose agents correct refunds, each after an approval."""
    async with endpoints(start, postgres, bundle=bundle_of(grants=FIXES, fix=FIX)) as found:
        yield found


async def called(agent: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Returns the answer or the refusal of a call."""
    return (await agent.call_tool(tool, arguments)).structured_content or {}


async def approved(gateway: Endpoints, waits: dict[str, Any]) -> None:
    """Approves the call that waits, as a person."""
    address = waits["approval"]["address"]
    shown = (await gateway.operator.get(address)).json()["approval"]["subject_hash"]
    response = await gateway.operator.post(f"{address}/approve", json={"subject_hash": shown})
    assert response.json()["status"] == "granted"


@pytest.mark.parametrize(
    ("condition", "error"),
    [
        ("resource.amont <= 100", "grants.cedar:3: refunds: there is no amont here"),
        ('resource.amount <= "100"', "grants.cedar:3"),
        ("context.arguments.amount <= 100", "grants.cedar:3"),
        ("mcp.tool.arguments.amount <= 100", "grants.cedar:3"),
        ("!(context has amount) || context.amount <= 100", "grants.cedar:3"),
    ],
)
async def test_a_condition_that_could_never_match_is_refused_at_publish(
    gateway: Endpoints, publish: Any, log: Any, condition: str, error: str
) -> None:
    """Refutes https://github.com/agentgateway/agentgateway/issues/3092: accepted, in force, and matches nothing."""
    await publish(blueprint_published())
    await log.facts("agent-gateway.blueprint_noted")
    grants = GRANTS.replace("resource.amount > 0 && resource.amount <= 5000", condition)
    body = {"files": FILES | {"grants.cedar": grants}, "blueprint": "support-agent"}

    refused = await gateway.operator.post("/v1/bundles", json=body)
    listed = (await gateway.operator.get("/v1/bundles")).json()["bundles"]

    assert grants != GRANTS
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_bundle")
    assert error in refused.json()["detail"]
    assert len(listed) == 1


async def test_a_condition_on_an_argument_decides_about_each_call(gateway: Endpoints) -> None:
    """Refutes https://github.com/agentgateway/agentgateway/issues/3092: both sides of a published condition."""
    agent = await gateway.agent((await gateway.world.tenant()).tenant_id)
    await gateway.world.publish(bundle_of(grants=GRANTS.replace("<= 5000", "<= 100")))

    async with gateway.client(agent["key"], MODERN) as client:
        run = await called(client, "refund", ticket="t-17")
        above = await called(client, "refund__propose", run=run["run"], seq=run["seq"], amount=101, reason="x")
        below = await called(client, "refund__propose", run=run["run"], seq=above["seq"], amount=100, reason="x")

    assert (above["code"], below["ended"]) == ("not_permitted", "finished")
    assert await gateway.world.refunds() == [("o-1", 100, "x")]


async def test_a_lost_answer_leads_to_no_second_refund(gateway: Endpoints) -> None:
    """Refutes https://github.com/square/square-mcp-server/issues/31: the model makes a new key at every retry."""
    tenant = (await gateway.world.tenant()).tenant_id
    keys = [(await gateway.agent(tenant))["key"] for _ in range(3)]

    async def refunded(key: str, amount: int) -> list[dict[str, Any]]:
        """Works as a model that got no answer: starts over, in a new session, with new ids and another text."""
        async with gateway.client(key, MODERN) as client:
            run = await called(client, "refund", ticket="t-17")
            call = {"run": run["run"], "amount": amount, "reason": f"broken {amount}"}
            first = await called(client, "refund__propose", seq=run["seq"], **call)
            later = [await called(client, "refund__propose", seq=seq, **call) for seq in range(1, 6)]
            return [run, first, *later]

    answers = await asyncio.gather(*(refunded(key, 1000 + number) for number, key in enumerate(keys)))
    again = await refunded(keys[0], 1000)

    assert len({each[0]["run"] for each in (*answers, again)}) == 1
    assert again[0]["ended"] == "finished"
    assert len(await gateway.world.refunds()) == 1


ESCAPES = (
    "/* read only */ DELETE FROM product.tickets",
    "-- read only\nDELETE FROM product.tickets",
    "COMMIT; DELETE FROM product.tickets; --",
    "t-17'; COMMIT; SET TRANSACTION READ WRITE; DELETE FROM product.tickets; --",
    "/**/COMMIT; BEGIN READ WRITE; DROP TABLE product.tickets; --",
    "; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; DELETE FROM product.tickets",
)


async def test_reading_is_not_escaped_by_a_comment_or_commit(start: Any, postgres: Any) -> None:
    """Refutes two reports in which the text of a statement decides whether it only reads.

    https://github.com/pgEdge/pgedge-postgres-mcp/pull/196 and https://github.com/ericzakariasson/pg-mcp-server/issues/3.
    Here no text of an agent is a statement, and the login has no right to write, whatever is sent with it.
    """
    rights = RIGHTS | {"refunds": {"SELECT": "*"}}
    async with endpoints(start, postgres, rights=rights) as gateway:
        world = gateway.world
        tenant = (await world.tenant()).tenant_id
        agent = await gateway.agent(tenant)
        async with gateway.client(agent["key"], MODERN) as client:
            found = [await called(client, "refund", ticket=text) for text in ESCAPES]
        past_the_gateway = []
        for text in ESCAPES[:3]:
            async with world.pool.agent(world.endpoints[tenant]) as login:  # simple protocol: several statements
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await login.execute(text)
                past_the_gateway.append(await login.fetchval("SELECT count(*) FROM product.tickets"))
        left = await world.pool.fetch("SELECT count(*) FROM product.tickets")

    assert {each["code"] for each in found} == {"row_missing"}
    assert past_the_gateway == [2, 2, 2]
    assert left == [(2,)]


async def waiting_fix(gateway: Endpoints, client: Client) -> dict[str, Any]:
    """Starts a correction that waits for an approval; returns the arguments of its call."""
    run = await called(client, "fix", refund="r-1")
    call = {"run": run["run"], "seq": run["seq"], "amount": 300}
    await approved(gateway, await called(client, "fix__correct", **call))
    return call


async def refund_of(gateway: Endpoints) -> str:
    """Adds a tenant with one refund of 500 and an agent; returns the agent's key."""
    tenant = (await gateway.world.tenant()).tenant_id
    values = f"'{tenant}', 'r-1', 'o-1', 500, 'broken'"  # our own
    await gateway.world.pool.execute(f"INSERT INTO product.refunds VALUES ({values})")
    key: str = (await gateway.agent(tenant))["key"]
    return key


async def change_arguments(_: Endpoints) -> dict[str, Any]:
    return {"amount": 4999}


async def change_row(gateway: Endpoints) -> dict[str, Any]:
    await gateway.world.pool.execute("UPDATE product.refunds SET amount = 4000")
    return {}


async def change_bundle(gateway: Endpoints) -> dict[str, Any]:
    await gateway.world.publish(bundle_of(grants=FIXES.replace('"fixes"', '"other fixes"'), fix=FIX))
    return {}


@pytest.mark.parametrize(
    ("change", "code"),
    [(change_arguments, "seq_reused"), (change_row, "rows_changed"), (change_bundle, "rows_changed")],
)
async def test_nothing_that_changes_after_its_approval_is_executed(
    fixing: Endpoints, change: Callable[[Endpoints], Any], code: str
) -> None:
    """Refutes https://github.com/openclaw/openclaw/issues/124738: an approved script changes before it runs."""
    async with fixing.client(await refund_of(fixing), MODERN) as client:
        call = await waiting_fix(fixing, client)
        before = await fixing.world.refunds()
        call |= await change(fixing)
        changed = await fixing.world.refunds()
        refused = await called(client, "fix__correct", **call)

    assert refused["code"] == code
    assert before == [("o-1", 500, "broken")]
    assert await fixing.world.refunds() == changed


async def test_an_expired_approval_is_not_executable(fixing: Endpoints) -> None:
    """Refutes https://github.com/elizaOS/eliza/issues/11092: an approval whose time is over is still executed."""
    async with fixing.client(await refund_of(fixing), MODERN) as client:
        run = await called(client, "fix", refund="r-1")
        call = {"run": run["run"], "seq": run["seq"], "amount": 300}
        await called(client, "fix__correct", **call)
        await fixing.world.decide(run["run"], granted_two_hours_ago)
        late = await called(client, "fix__correct", **call)
        renewed = await called(client, "fix__correct", **call)
        unchanged = await fixing.world.refunds()
        await approved(fixing, renewed)
        done = await called(client, "fix__correct", **call)

    assert [late["code"], renewed["code"], done["ended"]] == ["approval_expired", "approval_required", "finished"]
    assert unchanged == [("o-1", 500, "broken")]
    assert await fixing.world.refunds() == [("o-1", 300, "broken")]


def granted_two_hours_ago(run: Run, now: datetime) -> list[RunEvent]:
    """Returns the fact of an approval that could be used for an hour."""
    assert run.approval is not None
    granted = Approval(
        subject_hash=run.approval.subject_hash,
        requester=run.approval.requester,
        approver="user:bob",
        approved_at=now - timedelta(hours=2),
        expires_at=now - timedelta(hours=1),
    )
    return [
        CallApprovalGranted(
            tenant_id=run.tenant_id,
            run_id=run.id,
            bundle_hash=run.bundle_hash,
            seq=run.approval.seq,
            step=run.approval.step,
            approval_id=run.approval.id,
            approval=granted,
        )
    ]


async def test_neither_entrance_skips_a_check_of_the_other(gateway: Endpoints) -> None:
    """Refutes https://github.com/UKGovernmentBEIS/inspect_ai/issues/4944: a second entrance skips the approval.

    The same calls are made over MCP and over REST by two tenants in the same situation.
    """
    codes = {}
    await gateway.world.publish(bundle_of(refund=MANY_CALLS))
    for entrance in ("mcp", "rest"):
        caller = await gateway.world.tenant(entrance)
        agent = await gateway.agent(caller.tenant_id)
        async with gateway.client(agent["key"], MODERN) as client, gateway.rest(agent["key"]) as rest:

            async def start(
                client: Client = client, entrance: str = entrance, rest: Any = rest, **inputs: Any
            ) -> dict[str, Any]:
                if entrance == "mcp":
                    return await called(client, "refund", **inputs)
                return (await rest.post("/v1/workflows/refund/runs", json={"inputs": inputs})).json()

            async def propose(
                run: str, seq: int, client: Client = client, entrance: str = entrance, rest: Any = rest, **values: Any
            ) -> dict[str, Any]:
                if entrance == "mcp":
                    return await called(client, "refund__propose", run=run, seq=seq, **values)
                return (await rest.post(f"/v1/runs/{run}/steps/propose", json={"seq": seq, "values": values})).json()

            codes[entrance] = await refusals(gateway, caller.tenant_id, start, propose)

    assert codes["mcp"] == codes["rest"]
    assert codes["mcp"] == [
        "row_missing", "invalid_input", "invalid_input", "run_not_found", "wrong_seq", "seq_reused", "invalid_input",
        "invalid_input", "invalid_input", "approval_required", "approval_required", "seq_reused", "frozen", "frozen",
        "approval_required", "database_unavailable", "not_permitted", "finished", "run_ended",
    ]  # fmt: skip
    assert await gateway.world.refunds() == [("o-1", 3000, "x")] * 2


async def refusals(gateway: Endpoints, tenant: str, start: Any, propose: Any) -> list[str]:
    """Makes calls that each check of `act` refuses, and the one call that is approved; returns their codes."""
    found = [await start(ticket="t-404"), await start(ticket=7), await start(ticket="t-17", sql="x")]
    run = await start(ticket="t-17")
    id_, seq, values = run["run"], run["seq"], {"amount": 3000, "reason": "x"}
    found += [
        await propose(f"run_{'0' * 32}", seq, **values),
        await propose(id_, 99, **values),
        await propose(id_, 1, **values),
        await propose(id_, seq, **(values | {"amount": 4501})),
        await propose(id_, seq, **(values | {"amount": True})),
        await propose(id_, seq, **values, order_id="o-2"),
        await propose(id_, seq, **values),
        await propose(id_, seq, **values),
        await propose(id_, seq, **(values | {"amount": 2999})),
    ]
    waits = found[-2]
    name = {"freeze": f"tenant/{tenant}"}
    await gateway.operator.post("/v1/freezes", json=name | {"reason": "a check"})
    found += [await propose(id_, seq, **values), await start(ticket="t-18")]
    await gateway.operator.post("/v1/freezes/thaw", json=name)
    found.append(await propose(id_, seq, **values))
    await gateway.world.change_tenant(tenant, is_open=False)
    found.append(await propose(id_, seq, **values))
    await gateway.world.change_tenant(tenant)
    await approved(gateway, waits)
    grants = GRANTS.replace("<= 5000", "<= 100")
    await gateway.world.publish(bundle_of(grants=grants, refund=MANY_CALLS))
    found.append(await propose(id_, seq, **values))
    await gateway.world.publish(bundle_of(refund=MANY_CALLS))
    found += [await propose(id_, seq, **values), await propose(id_, seq, **(values | {"amount": 1}))]
    return [each.get("code") or each["ended"] for each in found]
