"""PostgreSQL alone keeps tenants and columns apart, also when the grants were compiled to everything."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from paybill_agent_gateway.domain.grants import RowCondition
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_agent_gateway.effects.tenant_databases import ActionKey, Changed, Refused, Rows, TenantDatabases, Voided
from paybill_agent_gateway.statements import compile_read, compile_write
from paybill_contracts.agent_bundles import AgentResource, CreateStep, DeleteStep, FixedValue, ReadStep, UpdateStep
from tenant_pool import TenantPool, file_secrets, resource_of

CUSTOMERS = resource_of("customers", "id text", "name text", "email text")
WITH_TENANT = resource_of("customers", "id text", "name text", "email text", "tenant_id text")
ARGUMENT = FixedValue(value=None)
AT = {"next": "end", "irreversible": True, "resource": "customers"}


def everything(resource: AgentResource) -> RowCondition:
    """Returns what a fault in the compiler would make of grants: every row."""
    return RowCondition({each.name: each for each in resource.columns}, (None,), (), ("fault",))


@pytest.fixture
async def pool(postgres, tmp_path: Path) -> AsyncIterator[TenantPool]:
    created = await TenantPool.create(postgres, file_secrets(tmp_path))
    await created.create_table(CUSTOMERS)
    await created.grant("customers", {"SELECT": "id, name", "INSERT": "id, name", "UPDATE": "name", "DELETE": "*"})
    yield created
    await created.drop()


@pytest.fixture
async def databases(pool: TenantPool) -> AsyncIterator[TenantDatabases]:
    opened = TenantDatabases(pool.secrets, time.monotonic)
    yield opened
    opened.close()


@pytest.fixture
async def pair(pool: TenantPool) -> tuple[Endpoint, Endpoint]:
    """Two tenants with a customer each."""
    mine, theirs = await pool.tenant(), await pool.tenant()
    for endpoint, key in ((mine, "mine"), (theirs, "theirs")):
        async with pool.agent(endpoint) as agent:
            await agent.fetch("INSERT INTO product.customers (id, name) VALUES ($1, $1)", key)
    return mine, theirs


def reading(resource: AgentResource = CUSTOMERS, columns: str = "id name", where: str = "id"):
    step = ReadStep(
        name="read", next="end", resource="customers", where=dict.fromkeys(where.split(), ARGUMENT),
        columns=tuple(columns.split()), one=False, limit=10,
    )  # fmt: skip
    return compile_read(step, resource, everything(resource), "product")


def updating(resource: AgentResource = CUSTOMERS, changed: str = "name", where: str = "id"):
    sides = [dict.fromkeys(each.split(), ARGUMENT) for each in (changed, where)]
    step = UpdateStep(name="update", set=sides[0], where=sides[1], limit=10, **AT)
    return compile_write(step, resource, everything(resource), "product")


def creating(resource: AgentResource = CUSTOMERS, columns: str = "id name"):
    step = CreateStep(name="create", set=dict.fromkeys(columns.split(), ARGUMENT), **AT)
    return compile_write(step, resource, everything(resource), "product")


def deleting(where: str = "id"):
    step = DeleteStep(name="delete", where=dict.fromkeys(where.split(), ARGUMENT), limit=10, **AT)
    return compile_write(step, CUSTOMERS, everything(CUSTOMERS), "product")


async def breaches(databases: TenantDatabases, pair: tuple[Endpoint, Endpoint]) -> list[str]:
    """Returns how a tenant's agent reached the rows of its neighbour."""
    mine, _ = pair
    found = []
    rows = await databases.read(mine, reading(where="id"), {"where.id": "theirs"})
    if rows != Rows(()):
        found.append("read")
    for seq, (name, statement, values) in enumerate(
        [
            ("update", updating(), {"where.id": "theirs", "set.name": "x"}),
            ("delete", deleting(), {"where.id": "theirs"}),
        ]
    ):
        if isinstance(await databases.write(mine, statement, ActionKey("run", seq, "d"), values), Changed):
            found.append(name)
    return found


async def test_another_tenants_rows_are_out_of_reach(databases, pool, pair) -> None:
    assert await breaches(databases, pair) == []
    assert await pool.fetch("SELECT id, name FROM product.customers ORDER BY id") == [
        ("mine", "mine"),
        ("theirs", "theirs"),
    ]


@pytest.mark.parametrize(
    "fault", ["DROP POLICY own_rows ON product.customers; ALTER TABLE product.customers DISABLE ROW LEVEL SECURITY"]
)
async def test_the_test_above_fails_without_the_policy(databases, pool, pair, fault) -> None:
    await pool.execute(fault)

    assert await breaches(databases, pair) == ["read", "update", "delete"]


async def test_a_column_without_a_right_can_be_neither_read_nor_compared_nor_written(databases, pair) -> None:
    mine, _ = pair
    refused = Refused("row_denied")
    key = ActionKey("run", 1, "d")

    assert await databases.read(mine, reading(columns="email"), {"where.id": "mine"}) == refused
    assert await databases.read(mine, reading(where="email"), {"where.email": "x"}) == refused
    assert (
        await databases.write(mine, updating(changed="email"), key, {"set.email": "x", "where.id": "mine"}) == refused
    )
    assert await databases.write(mine, deleting(where="email"), key, {"where.email": "x"}) == refused
    assert await databases.write(mine, creating(columns="id email"), key, {"set.id": "x", "set.email": "x"}) == refused


async def test_a_row_cannot_be_created_for_another_tenant(databases, pool, pair) -> None:
    """The tenant's column has no right; with one, the policy refuses the row."""
    mine, theirs = pair
    statement = creating(WITH_TENANT, "id tenant_id")
    values = {"set.id": "x", "set.tenant_id": theirs.tenant_id}
    without_right = await databases.write(mine, statement, ActionKey("run", 1, "d"), values)
    await pool.grant("customers", {"SELECT": "tenant_id", "INSERT": "tenant_id"})

    assert without_right == Refused("row_denied")
    assert await databases.write(mine, statement, ActionKey("run", 1, "d"), values) == Refused("row_denied")


async def test_keys_of_actions_are_of_one_tenant_and_cannot_be_taken_back(databases, pool, pair) -> None:
    mine, theirs = pair

    assert await databases.claim(mine, "run", 1) == Voided()
    done = await databases.write(theirs, updating(), ActionKey("run", 1, "d"), {"where.id": "theirs", "set.name": "x"})
    assert isinstance(done, Changed)
    async with pool.agent(mine) as agent:
        assert [tuple(row) for row in await agent.fetch("SELECT run, outcome FROM paybill_agent.actions")] == [
            ("run", "void")
        ]
        for statement in ("DELETE FROM paybill_agent.actions", "UPDATE paybill_agent.actions SET outcome = 'done'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await agent.execute(statement)
