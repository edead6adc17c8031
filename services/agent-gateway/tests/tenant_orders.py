"""Steps on the tables `orders` and `items` of tenants in a pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from paybill_agent_gateway.domain.grants import RowCondition
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_agent_gateway.effects.tenant_databases import ActionKey
from paybill_agent_gateway.statements import Statement, compile_read, compile_write
from paybill_contracts.agent_bundles import (
    AgentResource,
    CreateStep,
    DeleteStep,
    FixedValue,
    ReadStep,
    SortOrder,
    UpdateStep,
)
from paybill_contracts.agent_expressions import And, ColumnValue, Comparator, Comparison, Condition, Constant
from paybill_embedded.postgres import PostgresServer
from tenant_pool import TenantPool, file_secrets, resource_of

ORDERS = resource_of(
    "orders", "id text", "total bigint not null", "status text", "at timestamptz", "day date", "price numeric",
    "ref uuid", "data jsonb", "raw bytea", "paid boolean", "n integer",
)  # fmt: skip
ITEMS = resource_of("items", "id text", "order_id text")
ARGUMENT = FixedValue(value=None)
AT = {"next": "end", "irreversible": True}


def compared(column: str, operator: Comparator, value: object) -> Comparison:
    return Comparison(operator=operator, left=ColumnValue(name=column), right=Constant(value=value))


UP_TO_5000 = And(left=compared("total", Comparator.GREATER, 0), right=compared("total", Comparator.LESS_OR_EQUAL, 5000))


def on(resource: AgentResource, *conditions: Condition | None) -> RowCondition:
    """Returns permits with these conditions; one without a condition when there is none."""
    columns = {each.name: each for each in resource.columns}
    return RowCondition(columns, conditions or (None,), (), ("grant",))


def reading(
    *columns: str,
    where: str = "id",
    one: bool = True,
    limit: int = 10,
    order: str | None = None,
    condition: Condition | None = None,
) -> Statement:
    step = ReadStep(
        name="read",
        next="end",
        resource="orders",
        where=dict.fromkeys(where.split(), ARGUMENT),
        columns=columns,
        one=one,
        limit=limit,
        order=(SortOrder(column=order),) if order else (),
    )
    return compile_read(step, ORDERS, on(ORDERS, condition), "product")


def creating(*columns: str, condition: Condition | None = None, resource: AgentResource = ORDERS) -> Statement:
    step = CreateStep(name="create", resource="orders", set=dict.fromkeys(columns, ARGUMENT), **AT)
    return compile_write(step, resource, on(resource, condition), "product")


def updating(
    changed: str,
    where: str = "id",
    limit: int = 1,
    condition: Condition | None = None,
    resource: AgentResource = ORDERS,
) -> Statement:
    step = UpdateStep(
        name="update", resource=resource.name, set=dict.fromkeys(changed.split(), ARGUMENT),
        where=dict.fromkeys(where.split(), ARGUMENT), limit=limit, **AT,
    )  # fmt: skip
    return compile_write(step, resource, on(resource, condition), "product")


def deleting(where: str = "id", limit: int = 1, condition: Condition | None = None, resource=ORDERS) -> Statement:
    where_ = dict.fromkeys(where.split(), ARGUMENT)
    step = DeleteStep(name="delete", resource=resource.name, where=where_, limit=limit, **AT)
    return compile_write(step, resource, on(resource, condition), "product")


def key(seq: int, digest: str = "d", run: str = "run_1") -> ActionKey:
    return ActionKey(run, seq, digest)


@asynccontextmanager
async def orders_pool(postgres: PostgresServer, directory: Path) -> AsyncIterator[TenantPool]:
    """Provides a pool with both tables, on which agents have every right."""
    created = await TenantPool.create(postgres, file_secrets(directory))
    for resource in (ORDERS, ITEMS):
        await created.create_table(resource)
        await created.grant(resource.name, dict.fromkeys(("SELECT", "INSERT", "UPDATE", "DELETE"), "*"))
    yield created
    await created.drop()


async def tenant_with_orders(pool: TenantPool) -> Endpoint:
    """Creates a tenant with three orders."""
    endpoint = await pool.tenant()
    async with pool.agent(endpoint) as agent:
        await agent.execute(
            "INSERT INTO product.orders (id, total, status)"
            " VALUES ('a', 100, 'open'), ('b', 9000, 'open'), ('c', 1, NULL)"
        )
    return endpoint


async def totals(pool: TenantPool) -> dict[str, int]:
    return dict(await pool.fetch("SELECT id, total FROM product.orders ORDER BY id"))


async def actions(pool: TenantPool) -> list[tuple[Any, ...]]:
    return await pool.fetch("SELECT run, seq, digest, outcome FROM paybill_agent.actions ORDER BY run, seq")
