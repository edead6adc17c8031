"""Live tables of tenants are compared with a bundle, and nothing is done on a table that differs from it."""

from typing import Any

import pytest
from endpoint_world import Endpoints, endpoints
from gateway_world import bundle_of
from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.environment_plans import Connection
from paybill_contracts.placement import Preset

RUNS = "/v1/workflows/refund/runs"
TRIGGER = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t AFTER INSERT ON product.refunds FOR EACH ROW EXECUTE FUNCTION product.f();
"""


@pytest.fixture
async def gateway(start, postgres):
    async with endpoints(start, postgres) as found:
        yield found


async def compared(gateway: Endpoints) -> dict[str, Any]:
    content = bundle_of().model_dump(mode="json")
    response = await gateway.operator.post("/v1/bundles/drift", json={"content": content})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("change", "repair", "table", "difference"),
    [
        (
            "ALTER TABLE product.orders ALTER COLUMN total TYPE numeric",
            "ALTER TABLE product.orders ALTER COLUMN total TYPE bigint",
            "orders",
            "orders.total has the type numeric, not bigint",
        ),
        (
            TRIGGER,
            "DROP FUNCTION product.f CASCADE",
            "refunds",
            "refunds has a trigger, and the bundle declares no `also_changes`",
        ),
    ],
    ids=["type", "trigger"],
)
async def test_a_drifted_table_is_found_and_refused_until_it_is_resolved(
    gateway: Endpoints, change, repair, table, difference
) -> None:
    tenants = [await gateway.world.tenant(name) for name in ("acme", "bolt")]
    start = {"tenant": tenants[0].tenant_id, "inputs": {"ticket": "t-17"}}
    run = (await gateway.operator.post(RUNS, json=start)).json()
    step = f"/v1/runs/{run['run']}/steps/propose"
    body = {"seq": run["seq"], "values": {"amount": 5, "reason": "x"}}
    before = await compared(gateway)

    await gateway.world.pool.execute(change)
    found = await compared(gateway)
    if table == "refunds":
        refused = await gateway.operator.post(step, json=body)
    else:  # an automatic step that is refused is left to the caller
        other = (await gateway.operator.post(RUNS, json=start | {"inputs": {"ticket": "t-18"}})).json()
        refused = await gateway.operator.post(f"/v1/runs/{other['run']}/steps/order", json={"seq": other["seq"]})
    await gateway.world.pool.execute(repair)
    after = await compared(gateway)
    seq = (await gateway.operator.get(f"/v1/runs/{run['run']}")).json()["seq"]
    done = await gateway.operator.post(step, json=body | {"seq": seq})

    assert (before["compared"], before["differences"], before["unknown"], before["next"]) == (2, [], [], None)
    assert {each["slug"] for each in found["differences"]} == {"acme", "bolt"}
    assert {(each["table"], each["difference"]) for each in found["differences"]} == {(table, difference)}
    assert refused.json()["code"] == "resource_drifted"
    assert after["differences"] == []
    assert done.json()["ended"] == "finished", done.text


async def test_a_trigger_on_a_table_that_is_only_read_is_no_drift(gateway: Endpoints) -> None:
    await gateway.world.tenant()
    await gateway.world.pool.execute(TRIGGER.replace("product.refunds", "product.orders"))

    found = await compared(gateway)

    assert (found["compared"], found["differences"]) == (1, [])


async def test_a_tenant_whose_database_is_away_is_unknown_and_a_closed_login_is_left_out(gateway: Endpoints) -> None:
    well, away, closed = [await gateway.world.tenant(name) for name in ("acme", "bolt", "core")]
    at = gateway.world.endpoints[away.tenant_id]
    login = Connection(
        address="role.agents", host=at.host, port=1, database=at.database, schema_name=at.schema,
        username=at.username, secret=at.secret,
    )  # fmt: skip
    moved = AgentConnection(connection=login, blueprint="support-agent", preset=Preset.SILO, epoch=2)
    await gateway.world.change_tenant(away.tenant_id, slug="bolt", agents=moved, epoch=2)
    await gateway.world.change_tenant(closed.tenant_id, slug="core", is_open=False)

    found = await compared(gateway)

    assert (found["compared"], found["differences"]) == (1, [])
    assert found["unknown"] == [{"tenant_id": away.tenant_id, "slug": "bolt", "code": "database_unavailable"}]
    assert well.tenant_id != away.tenant_id


async def test_pages_cover_every_tenant_and_another_content_is_refused(gateway: Endpoints) -> None:
    for number in range(21):
        await gateway.world.tenant(f"tenant-{number}")
    content = bundle_of().model_dump(mode="json")

    first = await compared(gateway)
    second = (
        await gateway.operator.post("/v1/bundles/drift", json={"content": content, "after": first["next"]})
    ).json()
    refused = await gateway.operator.post("/v1/bundles/drift", json={"content": content | {"workflows": 5}})

    assert [(each["compared"], each["unknown"]) for each in (first, second)] == [(20, []), (1, [])]
    assert second["next"] is None
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_bundle")
