"""Claims of many unknown outcomes by the background job, also beside a database that is away."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from gateway_world import World, world
from paybill_agent_gateway.domain.runs import Run
from paybill_agent_gateway.jobs import PAGE, claim_due
from paybill_agent_gateway.tables import RUNS, TENANTS
from paybill_runtime.http.listing import load_page, load_state
from paybill_runtime.testing import cancel, until

JOB: Any = SimpleNamespace(id="claims")


@pytest.fixture
async def gateway(start: Any, postgres: Any) -> AsyncIterator[World]:
    async with world(start, postgres) as found:
        yield found


async def closed_tenant(gateway: World, name: str) -> str:
    """Adds a tenant whose login is closed: nothing of it is claimed yet."""
    tenant_id = (await gateway.tenant(name)).tenant_id
    await gateway.change_tenant(tenant_id, is_open=False)
    return tenant_id


async def pending(gateway: World) -> list[Run]:
    """Returns runs with an unknown outcome."""
    return (await load_page(gateway.gate.context, RUNS, None, 1, status="pending"))[0]


async def test_more_unknown_outcomes_than_a_page_are_all_settled(gateway: World) -> None:
    tenants = [await closed_tenant(gateway, name) for name in ("acme", "bolt")]
    ids = [await gateway.in_doubt(tenants[number % 2]) for number in range(PAGE + 20)]
    for each in tenants:
        await gateway.change_tenant(each)

    await claim_due(gateway.gate, JOB)
    await until(lambda: _none(pending(gateway)))  # the service's own job may hold some of them

    voided = await gateway.pool.fetch("SELECT run FROM paybill_agent.actions WHERE outcome = 'void'")
    assert sorted(voided) == sorted((each,) for each in ids)


async def test_a_database_that_is_away_delays_no_claim_in_another(gateway: World) -> None:
    """The first database accepts connections and never answers."""
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    away = [await closed_tenant(gateway, f"away-{number}") for number in range(4)]
    lost = [await gateway.in_doubt(each) for each in away]
    healthy = await closed_tenant(gateway, "acme")
    run = await gateway.in_doubt(healthy)
    for each in away:
        access = await load_state(gateway.gate.context, TENANTS, each)
        assert access is not None
        assert access.agents is not None
        connection = access.agents.connection.model_copy(update={"port": port})
        await gateway.change_tenant(each, agents=access.agents.model_copy(update={"connection": connection}))
    await gateway.change_tenant(healthy)

    claiming = asyncio.create_task(claim_due(gateway.gate, JOB))
    await until(lambda: _is_settled(gateway, run), timeout_s=4)
    assert not claiming.done()
    assert [(await gateway.run(each)).intent is None for each in lost] == [False] * 4
    assert await asyncio.wait_for(claiming, 40)
    for each in away:
        await gateway.change_tenant(each)
    await claim_due(gateway.gate, JOB)
    await until(lambda: _none(pending(gateway)))
    silent.close()
    await cancel(claiming)


async def _none(found: Any) -> bool:
    return not await found


async def _is_settled(gateway: World, run: str) -> bool:
    return (await gateway.run(run)).intent is None
