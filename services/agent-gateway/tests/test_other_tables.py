"""Rows that cascades and triggers change are counted, and their tables are declared."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_agent_gateway.effects.tenant_databases import Changed, Refused, TenantDatabases
from paybill_contracts.agent_bundles import Verb
from paybill_runtime.testing import until
from tenant_orders import ITEMS, ORDERS, actions, creating, deleting, key, orders_pool, tenant_with_orders, updating
from tenant_pool import TenantPool


@pytest.fixture
async def pool(postgres, tmp_path: Path) -> AsyncIterator[TenantPool]:
    async with orders_pool(postgres, tmp_path) as created:
        yield created


@pytest.fixture
async def databases(pool: TenantPool) -> AsyncIterator[TenantDatabases]:
    opened = TenantDatabases(pool.secrets, time.monotonic)
    yield opened
    opened.close()


@pytest.fixture
async def tenant(pool: TenantPool) -> Endpoint:
    return await tenant_with_orders(pool)


CASCADE = "ALTER TABLE product.items ADD FOREIGN KEY (tenant_id, order_id) REFERENCES product.orders ON DELETE CASCADE"
TRIGGER = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN DELETE FROM product.items WHERE tenant_id = OLD.tenant_id; RETURN OLD; END $$;
CREATE TRIGGER t BEFORE DELETE ON product.orders FOR EACH ROW EXECUTE FUNCTION product.f();
"""


@pytest.mark.parametrize("effect", [CASCADE, TRIGGER], ids=["cascade", "trigger"])
async def test_rows_of_other_tables_count_and_must_be_declared(databases, pool, tenant, effect) -> None:
    async with pool.agent(tenant) as agent:
        await agent.execute("INSERT INTO product.items (id, order_id) SELECT n, 'a' FROM generate_series(1, 4) AS n")
    await pool.execute(effect)
    declared = ORDERS.model_copy(update={"also_changes": ("items",)})
    wrong = ORDERS.model_copy(update={"also_changes": ("customers",)})
    found = [
        await databases.write(tenant, deleting(resource=resource, limit=limit), key(number), {"where.id": "a"})
        for number, (resource, limit) in enumerate([(ORDERS, 9), (wrong, 9), (declared, 4)])
    ]
    shown = await databases.preview(tenant, deleting(resource=declared, limit=5), key(5), {"where.id": "a"})
    assert isinstance(shown, Changed)
    more = await databases.write(
        tenant, deleting(resource=declared, limit=5), key(5), {"where.id": "a"}, shown.image.replace("4", "3")
    )
    few = await databases.write(
        tenant, deleting(resource=declared, limit=5), key(5), {"where.id": "a"}, shown.image, rows_left=4
    )
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(4,)]
    assert await actions(pool) == []
    done = await databases.write(tenant, deleting(resource=declared, limit=5), key(5), {"where.id": "a"}, shown.image)

    assert found == [Refused("resource_drifted"), Refused("resource_drifted"), Refused("too_many_rows")]
    assert isinstance(done, Changed)
    assert done == shown
    assert shown.other_rows == {"items": 4}
    assert (more, few) == (Refused("rows_changed"), Refused("too_many_rows"))
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(0,)]


EFFECTS = pytest.mark.parametrize("effect", [CASCADE, TRIGGER], ids=["cascade", "trigger"])
SET_NULL = CASCADE.replace("CASCADE", "SET NULL (order_id)")
RULE = "CREATE RULE r AS ON DELETE TO product.orders DO ALSO DELETE FROM product.items"


async def items(pool: TenantPool, tenant: Endpoint) -> None:
    """Gives the order `a` 500 items."""
    async with pool.agent(tenant) as agent:
        await agent.execute("INSERT INTO product.items (id, order_id) SELECT n, 'a' FROM generate_series(1, 500) AS n")


@pytest.mark.parametrize("effect", [CASCADE, SET_NULL, TRIGGER, RULE], ids=["cascade", "set_null", "trigger", "rule"])
async def test_an_effect_that_is_added_after_the_inspection_is_refused_by_the_write(
    databases, pool, tenant, effect
) -> None:
    await items(pool, tenant)
    before = await databases.write(tenant, deleting(), key(1), {"where.id": "b"})
    await pool.execute(effect)
    refused = await databases.write(tenant, deleting(), key(2), {"where.id": "a"})
    shown = await databases.preview(tenant, deleting(), key(2), {"where.id": "a"})

    assert isinstance(before, Changed)
    assert (refused, shown) == (Refused("resource_drifted"), Refused("resource_drifted"))
    assert await pool.fetch("SELECT count(*) FROM product.items WHERE order_id = 'a'") == [(500,)]
    assert await pool.fetch("SELECT count(*) FROM product.orders WHERE id = 'a'") == [(1,)]
    assert await actions(pool) == [("run_1", 1, "d", "done")]


@EFFECTS
async def test_an_effect_that_is_committed_while_the_write_waits_is_refused(databases, pool, tenant, effect) -> None:
    await items(pool, tenant)
    assert isinstance(await databases.write(tenant, deleting(), key(1), {"where.id": "b"}), Changed)
    async with pool.superuser() as other, other.transaction():
        await other.execute(effect)
        waiting = asyncio.create_task(databases.write(tenant, deleting(), key(2), {"where.id": "a"}))
        await until(
            lambda: pool.fetch(
                "SELECT FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'", tenant.username
            )
        )

    assert await waiting == Refused("resource_drifted")
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(500,)]
    assert await actions(pool) == [("run_1", 1, "d", "done")]


async def test_rows_of_a_table_that_inherits_are_not_changed(databases, pool, tenant) -> None:
    await items(pool, tenant)
    await pool.execute("CREATE TABLE product.old () INHERITS (product.orders)")
    await pool.execute(TRIGGER.replace("ON product.orders", "ON product.old"))
    await pool.execute(
        "INSERT INTO product.old (tenant_id, id, total) SELECT tenant_id, 'x', 1 FROM product.orders LIMIT 1"
    )
    values = {"where.id": "x", "set.total": 2}
    found = [
        await databases.write(tenant, statement, key(number), values)
        for number, statement in enumerate((updating("total"), deleting()))
    ]

    assert found == [Refused("row_missing")] * 2
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(500,)]


async def test_foreign_keys_that_only_check_refuse_no_write(databases, pool, tenant) -> None:
    async with pool.agent(tenant) as agent:
        await agent.execute("INSERT INTO product.items (id, order_id) VALUES ('open', 'a')")
    await pool.execute(CASCADE.replace("CASCADE", "RESTRICT"))
    await pool.execute("ALTER TABLE product.orders ADD FOREIGN KEY (tenant_id, status) REFERENCES product.items")
    await pool.execute("ALTER TABLE product.orders ADD UNIQUE (tenant_id, total) DEFERRABLE")
    values = {"set.id": "x", "set.total": 5, "set.status": "open", "where.id": "c"}
    created = await databases.write(tenant, creating("id", "total", "status"), key(1), values)
    updated = await databases.write(tenant, updating("total"), key(2), values | {"set.total": 6})
    deleted = await databases.write(tenant, deleting(), key(3), values)
    refused = await databases.write(tenant, deleting(), key(4), {"where.id": "a"})

    assert [type(each) for each in (created, updated, deleted)] == [Changed] * 3
    assert refused == Refused("value_refused")


AUDIT = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN INSERT INTO product.items (tenant_id, id) VALUES (NEW.tenant_id, NEW.id); RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON product.orders FOR EACH ROW EXECUTE FUNCTION product.f();
"""


async def test_only_the_writes_that_have_a_trigger_need_its_tables_declared(databases, pool, tenant) -> None:
    await pool.execute(AUDIT)
    declared = ORDERS.model_copy(update={"also_changes": ("items",)})
    values = {"set.id": "x", "set.total": 1, "where.id": "a"}
    refused = await databases.write(tenant, creating("id", "total"), key(1), values)
    created = await databases.write(tenant, creating("id", "total", resource=declared), key(2), values)
    updated = await databases.write(tenant, updating("total"), key(3), values)

    assert refused == Refused("resource_drifted")
    assert isinstance(created, Changed)
    assert isinstance(updated, Changed)
    tables = ((ORDERS, frozenset(Verb)), (ITEMS, frozenset(Verb)))
    assert await databases.drift(tenant, tables) == {
        "orders": ["orders has a trigger, and the bundle declares no `also_changes`"]
    }
    assert await databases.drift(tenant, [(ORDERS, frozenset({Verb.READ, Verb.UPDATE}))]) == {}


DEFERRED = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN DELETE FROM product.items; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON product.orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION product.f();
"""
TRUNCATE = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN TRUNCATE product.items; RETURN NULL; END $$;
CREATE TRIGGER t AFTER UPDATE ON product.orders FOR EACH ROW EXECUTE FUNCTION product.f();
"""
DEFERRED_TRUNCATE = DEFERRED.replace("DELETE FROM", "TRUNCATE")


@pytest.mark.parametrize("effect", [DEFERRED, TRUNCATE, DEFERRED_TRUNCATE], ids=["deferred", "truncate", "both"])
async def test_deferred_triggers_and_truncate_are_counted_before_the_commit(databases, pool, tenant, effect) -> None:
    await items(pool, tenant)
    await pool.execute(effect)
    values = {"set.total": 1, "where.id": "a"}
    wrong = ORDERS.model_copy(update={"also_changes": ("customers",)})
    found = [await databases.write(tenant, updating("total", resource=wrong, limit=1000), key(1), values)]
    found.append(await databases.preview(tenant, updating("total", resource=wrong, limit=1000), key(2), values))

    assert found == [Refused("resource_drifted")] * 2
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(500,)]
    assert await actions(pool) == []


async def test_truncate_of_a_declared_table_is_refused_and_its_deferred_deletes_are_counted(
    databases, pool, tenant
) -> None:
    await items(pool, tenant)
    declared = ORDERS.model_copy(update={"also_changes": ("items",)})
    values = {"set.total": 1, "where.id": "a"}
    await pool.execute(TRUNCATE)
    truncated = await databases.write(tenant, updating("total", resource=declared, limit=1000), key(1), values)
    await pool.execute("DROP FUNCTION product.f CASCADE")
    await pool.execute(DEFERRED)
    many = await databases.write(tenant, updating("total", resource=declared, limit=500), key(2), values)
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(500,)]
    done = await databases.write(tenant, updating("total", resource=declared, limit=501), key(3), values)

    assert (truncated, many) == (Refused("resource_drifted"), Refused("too_many_rows"))
    assert isinstance(done, Changed)
    assert await pool.fetch("SELECT count(*) FROM product.items") == [(0,)]


DEFERRED_AGAIN = """
CREATE FUNCTION product.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN SET CONSTRAINTS ALL DEFERRED; DELETE FROM product.items WHERE id = '1'; RETURN NULL; END $$;
CREATE FUNCTION product.g() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN DELETE FROM product.ledger; RETURN NULL; END $$;
CREATE TABLE product.ledger AS SELECT generate_series(1, 100) AS id;
CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON product.orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION product.f();
CREATE CONSTRAINT TRIGGER t AFTER DELETE ON product.items DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION product.g();
"""


async def test_triggers_that_defer_others_again_are_counted(databases, pool, tenant) -> None:
    await items(pool, tenant)
    await pool.execute(DEFERRED_AGAIN)
    declared = ORDERS.model_copy(update={"also_changes": ("items",)})
    values = {"set.total": 1, "where.id": "a"}
    found = await databases.write(tenant, updating("total", resource=declared, limit=1000), key(1), values)

    assert found == Refused("resource_drifted")
    assert await pool.fetch("SELECT count(*) FROM product.ledger") == [(100,)]
