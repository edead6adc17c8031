"""Statements use the key of a pool table, however many tenants it has."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paybill_agent_gateway.statements import Statement
from tenant_orders import UP_TO_5000, deleting, orders_pool, reading, tenant_with_orders, updating
from tenant_pool import TenantPool

TENANTS, ROWS = 2000, 50


@pytest.fixture
async def pool(postgres, tmp_path: Path) -> AsyncIterator[TenantPool]:
    async with orders_pool(postgres, tmp_path) as created:
        await created.execute(
            "INSERT INTO product.orders (tenant_id, id, total, status)"
            f" SELECT 'ten_' || md5(t::text), 'o' || n, n, 'open' FROM generate_series(1, {TENANTS}) AS t,"
            f" generate_series(1, {ROWS}) AS n; ANALYZE product.orders"
        )
        yield created


async def plan_of(agent, statement: Statement) -> str:
    """Returns the plan that a prepared statement has after its first executions."""
    await agent.execute(f"DEALLOCATE ALL; SET plan_cache_mode = force_generic_plan; PREPARE p AS {statement.sql}")
    nulls = ", ".join("NULL" for _ in statement.parameters)
    return "\n".join(row[0] for row in await agent.fetch(f"EXPLAIN (COSTS OFF) EXECUTE p({nulls})"))


async def test_every_statement_reads_the_rows_of_its_tenant_alone(pool) -> None:
    tenant = await tenant_with_orders(pool)
    by_key = [reading("id", condition=UP_TO_5000), updating("total", condition=UP_TO_5000), deleting()]
    by_status = [reading("id", where="status", one=False, order="id"), updating("total", where="status", limit=9)]
    async with pool.agent(tenant) as agent:
        plans = [await plan_of(agent, each) for each in (*by_key, *by_status)]

    for plan in plans:
        assert "Seq Scan on orders" not in plan
        assert "(tenant_id = (" in plan
    for plan in plans[: len(by_key)]:
        assert "AND (id = $" in plan
