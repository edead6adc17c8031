"""Chapter 5: an agent works on a tenant's rows, and can do no more than a published workflow and its grants allow."""

import asyncio
import sys
from datetime import timedelta
from typing import Any

from paybill_contracts.agent_access import AgentRightsGranted
from paybill_contracts.agent_bundles import BundleActivated
from paybill_contracts.agent_runs import (
    ActionDone,
    ActionRefused,
    CallApprovalGranted,
    CallApprovalRequested,
    RunEnded,
)
from paybill_contracts.agent_tenants import AgentTenantChanged
from paybill_contracts.agents import AgentRegistered
from paybill_contracts.operations import RequestRefused
from paybill_runtime.http.auth import Role
from paybill_stack.environment import inherited_environment
from paybill_stack.operator_key import temporary_key

from paybill_cli.demo.session import DemoSession, Tenant
from paybill_cli.example.agent_client import AgentClient, Reply
from paybill_cli.example.files import ExampleFiles

FILES = ExampleFiles.of("support-agent")
_AGENT = "agent-gateway"
_LIFETIME_S = 3600
_APPROVER = "user:demo-approver"
_APPROVER_SCOPES = ("agent-gateway:write", "agent-gateway:read", "provisioner:read", "tenant:read")
_FOREIGN_TICKET = (
    "INSERT INTO tickets (id, order_id, customer_id, subject, body, status) "
    "VALUES ('t-1', 'o-1', 'c-1', 'Private', 'Nobody else may read this.', 'open') ON CONFLICT DO NOTHING"
)
_REFUNDS = "SELECT order_id, amount FROM refunds ORDER BY amount"


async def work(session: DemoSession, tenant: Tenant, other: Tenant) -> None:
    """Publishes the example's bundle, and lets an agent refund two tickets and follow the instructions in a third."""
    session.printer.chapter(5, f"An agent works on {tenant.slug}'s rows: only as published, and with approvals")
    agent = await _prepare(session, tenant, other)
    tools = await agent.tools()
    session.check("the agent sees two tools, and neither takes SQL", tools == ["refund", "refund__propose"], str(tools))
    await _refund(session, tenant, agent)
    await _refund_with_approval(session, tenant, agent)
    await _follow_instructions(session, tenant, other, agent)


async def _prepare(session: DemoSession, tenant: Tenant, other: Tenant) -> AgentClient:
    async with session.connected(tenant) as connection:
        await connection.execute(FILES.data.read_text(encoding="utf-8"))
    async with session.connected(other) as connection:
        await connection.execute(_FOREIGN_TICKET)
    blueprint = (await session.request("GET", "/v1/blueprint", service="provisioner"))["content"]["name"]
    await session.request("POST", "/v1/bundles", {"files": FILES.bundle(), "blueprint": blueprint}, service=_AGENT)
    expect = session.recorder.expect
    activated = await expect(BundleActivated)
    body = {"tenant": tenant.id, "name": "helpdesk", "role": "support", "lifetime_s": _LIFETIME_S}
    registered = await session.request("POST", "/v1/agents", body, service=_AGENT)
    await expect(AgentRegistered, lambda fact: fact.agent_id == registered["id"])
    await expect(AgentRightsGranted, lambda fact: fact.bundle_hash == activated.bundle_hash, tenant=tenant.id)
    await expect(AgentTenantChanged, lambda fact: fact.agents is not None, tenant=tenant.id)
    return AgentClient(session.http, session.stack.addresses.url(_AGENT) + "/mcp", registered["key"])


async def _refund(session: DemoSession, tenant: Tenant, agent: AgentClient) -> None:
    started = await _start(session, agent, "t-17")
    done = await agent.call("refund__propose", _proposal(started, 1200, "The teapot arrived broken."))
    session.check("a refund of 12.00 is executed at once", done.refused is None, done.text)
    await session.recorder.expect(
        ActionDone, lambda fact: fact.run_id == started["run"] and fact.step == "propose", tenant=tenant.id
    )
    again = await agent.call("refund__propose", _proposal(started, 1200, "The teapot arrived broken."))
    session.check(
        "the same call again gets the stored answer, and refunds nothing", again.content == done.content, again.text
    )


async def _refund_with_approval(session: DemoSession, tenant: Tenant, agent: AgentClient) -> None:
    started = await _start(session, agent, "t-18")
    proposal = _proposal(started, 3000, "The delivery was two weeks late.")
    waiting = await agent.call("refund__propose", proposal)
    session.check("a refund of 30.00 waits for a person", waiting.refused == "approval_required", waiting.text)
    requested = await session.recorder.expect(CallApprovalRequested, tenant=tenant.id)
    approved = await _approve(session, requested.approval_id)
    session.check(f"{_APPROVER} approves it on the command line", approved.startswith("granted"), approved)
    await session.recorder.expect(CallApprovalGranted, tenant=tenant.id)
    done = await agent.call("refund__propose", proposal)
    session.check("the repeated call is executed, once", done.refused is None, done.text)
    await session.recorder.expect(RunEnded, lambda fact: fact.run_id == started["run"], tenant=tenant.id)


async def _follow_instructions(session: DemoSession, tenant: Tenant, other: Tenant, agent: AgentClient) -> None:
    """Does what the text of the ticket demands: another order, e-mail addresses, another tenant's ticket."""
    started = await _start(session, agent, "t-19")
    proposal = _proposal(started, 800, "As instructed.")
    attempts = (
        ("it cannot refund another order", "refund__propose", proposal | {"order_id": "o-2"}),
        ("it cannot refund more than the order's total", "refund__propose", proposal | {"amount": 4500}),
        ("it cannot read e-mail addresses", "refund", {"ticket": "t-19", "columns": "email"}),
        (f"it cannot use a ticket of {other.slug}", "refund", {"ticket": "t-1"}),
    )
    for check, tool, arguments in attempts:
        after = session.recorder.last_sequence
        reply = await agent.call(tool, arguments)
        session.check(check, reply.refused is not None and "@" not in str(reply.content), reply.text)
        await _refusal_recorded(session, reply, after)
    for owner, expected in ((tenant, [("o-1", 1200), ("o-2", 3000)]), (other, [])):
        async with session.connected(owner) as connection:
            refunds = [tuple(row) for row in await connection.fetch(_REFUNDS)]
        session.check(f"{owner.slug} has exactly the refunds that were allowed", refunds == expected, str(refunds))


async def _refusal_recorded(session: DemoSession, reply: Reply, after: int) -> None:
    """Waits for the fact of a refusal."""

    def is_it(fact: Any) -> bool:
        return bool(fact.code == reply.refused)

    tasks = [
        asyncio.ensure_future(session.recorder.expect(kind, is_it, after=after))
        for kind in (ActionRefused, RequestRefused)
    ]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*done)


async def _start(session: DemoSession, agent: AgentClient, ticket: str) -> dict[str, Any]:
    started = await agent.call("refund", {"ticket": ticket})
    session.check(
        f"the agent starts the workflow for {ticket}, which reads ticket and order",
        started.refused is None,
        started.text,
    )
    return started.content


def _proposal(started: dict[str, Any], amount: int, reason: str) -> dict[str, Any]:
    return {"run": started["run"], "seq": started["seq"], "amount": amount, "reason": reason}


async def _approve(session: DemoSession, approval: str) -> str:
    """Approves with `paybill approval approve` and the key of a person; returns the status and the decision."""
    layout = session.stack.layout
    lifetime = timedelta(seconds=_LIFETIME_S)
    with temporary_key(layout.api_keys, "demo-approver", Role.APPROVER, _APPROVER_SCOPES, lifetime, _APPROVER) as key:
        command = ("approval", "approve", approval, "--yes", "--data-dir", str(layout.root))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "paybill_cli", *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=inherited_environment() | {"PAYBILL_API_KEY": key},
        )
        output, errors = await child.communicate()
    if child.returncode:
        return errors.decode()
    fields = dict(line.split(": ", 1) for line in output.decode().splitlines() if ": " in line)
    return f"{fields.get('status')} by {fields.get('decided_by')}"
