"""World of the agent benchmarks: provisioner and agent gateway, a tenant with orders, and an agent with two workflows.

Tenants and entitlements come from here, as facts of the other services. The rows are written directly.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from paybill_contracts.catalogue import BooleanFeature
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import TenantActivated

from paybill_bench.deadlines import StallDetector
from paybill_bench.journeys import Stack
from paybill_bench.provisioner import RunningProvisioner, entitled
from paybill_bench.servers import BenchmarkError, publish, started_servers

GATEWAY = "agent-gateway"
ROLE = "clerk"
STEPS = 20
"""Reads or writes of a run, one in each call."""
CUSTOMERS, ROWS = 50, 10
"""Customers of the measured tenant, and the orders of each."""

_BLUEPRINT = """
name: bench
version: 1
regions: [eu-central, us-east]
cells:
  - {isolation: pool, count: 1, capacity: 1000}
tables:
  - name: orders
    columns:
      - {name: id, type: text}
      - {name: customer_id, type: text}
      - {name: item, type: text}
      - {name: total, type: bigint}
tiers:
  - tier: starter
    placement: pooled
    cloud: local
    credentials: at_once
    resources:
      - {resource: secret.database}
      - {resource: database.main}
      - {resource: schema.main, in_database: database.main, tables: [orders]}
      - {resource: role.main, in_schema: schema.main, secret: secret.database, connection_limit: 10}
"""
_RESOURCES = "orders: {untrusted: [item]}\n"
_GRANTS = """
@id("reads") @columns("*")
permit(principal in Role::"clerk", action == Action::"read", resource);
@id("totals") @columns("id, total")
permit(principal in Role::"clerk", action == Action::"update", resource is orders)
when { resource has total && resource.total >= 0 && resource.total <= 1000000 };
"""
_LIST = """
workflow: list
role: clerk
description: Reads the orders of customers.
input: {customer: orders.customer_id}
limits: {calls: 100, rows: 1000, minutes: 60}
steps:
"""
_LIST_STEP = "  read-{}: {{read: orders, where: {{customer_id: {{slot: text, max: 40}}}}, order: [id], limit: 10}}\n"
_CHANGE = """
workflow: change
role: clerk
description: Sets the total of an order.
input: {order: orders.id}
once: [input.order]
limits: {calls: 100, rows: 1000, minutes: 60}
steps:
  order: {read: orders, where: {id: input.order}, one: true}
"""
_CHANGE_STEP = (
    "  set-{}: {{update: orders, where: {{id: order.id}}, set: {{total: {{slot: integer, min: 0, max: 1000000}}}}, "
    "limit: 1, irreversible: true}}\n"
)
_FILL = """
INSERT INTO product.orders (tenant_id, id, customer_id, item, total)
SELECT t.id, 'o' || c || '-' || n, 'c' || c, 'item', n
FROM (SELECT $1 AS id UNION ALL SELECT 'ten_' || md5(other::text) FROM generate_series(2, $2) AS other) AS t,
     generate_series(1, $3) AS c, generate_series(1, $4) AS n
ORDER BY t.id, c, n
"""


@dataclass
class AgentWorld:
    """A running gateway. key: of the agent; port: of its endpoint; database: of the tenant, which holds the orders."""

    running: RunningProvisioner
    key: str
    port: int
    database: str

    async def owner(self) -> asyncpg.Connection:
        """Connects to the tenant's database as a superuser."""
        postgres = self.running.servers.postgres
        return await asyncpg.connect(postgres.url("postgres", self.database), password=postgres.password("postgres"))


def bundle_files() -> dict[str, str]:
    """Returns the files of the bundle, by name."""
    numbers = range(1, STEPS + 1)
    return {
        "resources.yaml": _RESOURCES,
        "grants.cedar": _GRANTS,
        "list.yaml": _LIST + "".join(_LIST_STEP.format(n) for n in numbers),
        "change.yaml": _CHANGE + "".join(_CHANGE_STEP.format(n) for n in numbers),
    }


@asynccontextmanager
async def running_world() -> AsyncIterator[RunningProvisioner]:
    """Runs provisioner and gateway with the bundle in force until the end of the block."""
    with started_servers() as servers:
        blueprint = servers.folder / "blueprint.yaml"
        blueprint.write_text(_BLUEPRINT, encoding="utf-8")
        async with servers.bus() as bus:
            stack = Stack(servers, bus, blueprints=blueprint, services=("provisioner", GATEWAY))
            try:
                await stack.start()
                running = RunningProvisioner(servers, bus, stack)
                await _publish(stack)
                yield running
            finally:
                await stack.stop()


async def _publish(stack: Stack) -> None:
    async with stack.client(GATEWAY) as client:
        await until_accepted(client, "/v1/bundles", {"blueprint": "bench", "files": bundle_files()})


async def registered_agent(running: RunningProvisioner, region: str, tenants: int) -> AgentWorld:
    """Registers a tenant with rows of `tenants` tenants in its pool, and an agent that can act for it."""
    [tenant] = await running.register(1, region)
    await running.build_all([tenant])
    database = running.connections[tenant]["database"]
    await _activate(running, tenant)
    async with running.stack.client(GATEWAY) as client:
        body = {"tenant": tenant, "name": "bench", "role": ROLE, "lifetime_s": 86_400}
        agent = await until_accepted(client, "/v1/agents", body)
    port = httpx.URL(str(running.stack.client(GATEWAY).base_url)).port or 0
    world = AgentWorld(running, agent["key"], port, database)
    owner = await world.owner()
    try:
        await owner.execute(_FILL, tenant, tenants, CUSTOMERS, ROWS, timeout=300)
        await owner.execute("VACUUM (ANALYZE, FREEZE) product.orders", timeout=300)
        await owner.execute("CHECKPOINT")
    finally:
        await owner.close()
    return world


async def _activate(running: RunningProvisioner, tenant: str) -> None:
    """Publishes that the tenant is active, and that its agents may act."""
    activated = TenantActivated(
        tenant_id=tenant, slug=f"bench-{tenant[4:20]}", environment_id=f"env_{tenant[4:]}", epoch=1
    )
    agents = BooleanFeature(kind="boolean", key="agent-actions", enabled=True)
    await publish(running.bus, [running.message(activated, 2)], "tenant")
    await publish(running.bus, [running.message(entitled(tenant, Preset.POOLED, [agents]), 2)])


async def until_accepted(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Sends a request until it is accepted: facts of other services may be on their way."""
    progress = StallDetector()
    while True:
        response = await client.post(path, json=body)
        if response.is_success:
            found: dict[str, Any] = response.json()
            return found
        if progress.stalled(response.text[:60]):
            raise BenchmarkError(f"{path} was refused: {response.text[:500]}")
        await asyncio.sleep(0.1)


def tool_call(name: str, arguments: Mapping[str, Any]) -> bytes:
    """Returns the body of a call of revision 2025-11-25."""
    parameters = {"name": name, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}).encode()


def structured(response: bytes) -> dict[str, Any]:
    """Returns the structured content of a response. Raises BenchmarkError for an error or a refusal."""
    result = json.loads(response).get("result", {})
    if result.get("isError") or "structuredContent" not in result:
        raise BenchmarkError(f"a call was refused: {response[:500]!r}")
    found: dict[str, Any] = result["structuredContent"]
    return found
