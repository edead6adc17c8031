"""Statements of steps on a real PostgreSQL: rows, refusals, approvals, and claims."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from paybill_agent_gateway.effects import connections
from paybill_agent_gateway.effects.connections import Endpoint
from paybill_agent_gateway.effects.tenant_databases import (
    Changed,
    Done,
    Refused,
    Repeated,
    RowChange,
    Rows,
    TenantDatabases,
    Unknown,
    Voided,
)
from paybill_runtime.testing import cancel, until
from tenant_orders import (
    UP_TO_5000,
    actions,
    creating,
    deleting,
    key,
    orders_pool,
    reading,
    tenant_with_orders,
    totals,
    updating,
)
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


async def test_a_read_returns_the_rows_that_the_grants_permit(databases, tenant) -> None:
    one = reading("id", "total", condition=UP_TO_5000)
    several = reading("id", where="status", one=False, order="id")

    assert await databases.read(tenant, one, {"where.id": "a"}) == Rows(({"id": "a", "total": 100},))
    assert await databases.read(tenant, one, {"where.id": "b"}) == Rows(())
    assert await databases.read(tenant, several, {"where.status": "open"}) == Rows(({"id": "a"}, {"id": "b"}))
    assert await databases.read(tenant, several, {"where.status": None}) == Rows(())


async def test_values_of_every_type_are_written_and_read_in_canonical_form(databases, tenant) -> None:
    values = {
        "id": "d'; --",
        "total": 2**63 - 1,
        "status": "\u00e9\U0001f600\\",
        "at": "2026-01-31T10:00:00.000001Z",
        "day": "2026-01-31",
        "price": "0.00000010",
        "ref": "0b0e1e2c-0000-4000-8000-0123456789ab",
        "data": '{"a": [1, 2.50]}',
        "raw": "\\x00ff",
        "paid": False,
        "n": -(2**31),
    }
    names = list(values)
    made = await databases.write(tenant, creating(*names), key(1), {f"set.{name}": values[name] for name in names})
    found = await databases.read(tenant, reading(*names), {"where.id": values["id"]})

    assert isinstance(made, Changed)
    assert made.rows == (RowChange(None, values),)
    assert found == Rows((values,))


async def test_a_time_that_python_cannot_represent_is_read_as_text(databases, tenant, pool) -> None:
    await pool.execute("UPDATE product.orders SET at = 'infinity', day = '-infinity' WHERE id = 'a'")
    await pool.execute("UPDATE product.orders SET at = '20000-01-01 00:00+00' WHERE id = 'c'")
    statement = reading("at", "day")
    deleted = await databases.write(tenant, deleting(), key(1), {"where.id": "b"})

    assert await databases.read(tenant, statement, {"where.id": "a"}) == Rows(({"at": "infinity", "day": "-infinity"},))
    assert await databases.read(tenant, statement, {"where.id": "c"}) == Refused("value_refused")
    assert isinstance(deleted, Changed)


@pytest.mark.parametrize(
    ("statement", "values", "code"),
    [
        (creating("id", "total"), {"set.id": "a", "set.total": 1}, "row_exists"),
        (creating("id", "total", condition=UP_TO_5000), {"set.id": "x", "set.total": 5001}, "row_denied"),
        (creating("id"), {"set.id": "x"}, "value_refused"),
        (updating("total", condition=UP_TO_5000), {"where.id": "a", "set.total": 5001}, "row_denied"),
        (updating("total"), {"where.id": "x", "set.total": 1}, "row_missing"),
        (updating("total", "status"), {"where.status": "open", "set.total": 1}, "too_many_rows"),
        (deleting(condition=UP_TO_5000), {"where.id": "b"}, "row_denied"),
        (deleting(), {"where.id": "x"}, "row_missing"),
        (deleting("status"), {"where.status": "open"}, "too_many_rows"),
    ],
)
async def test_a_refused_write_leaves_neither_a_change_nor_an_action(
    databases, tenant, pool, statement, values, code
) -> None:
    before = await totals(pool)

    assert await databases.write(tenant, statement, key(1), values) == Refused(code)
    assert await databases.preview(tenant, statement, key(1), values) == Refused(code)
    assert await totals(pool) == before
    assert await actions(pool) == []


async def test_a_write_returns_the_rows_before_and_after(databases, tenant, pool) -> None:
    statement = updating("total", "status", limit=5, condition=UP_TO_5000)
    done = await databases.write(tenant, statement, key(1), {"where.status": "open", "set.total": 7})

    assert isinstance(done, Changed)
    assert done.rows == tuple(
        RowChange({"id": each, "total": was, "status": "open"}, {"id": each, "total": 7, "status": "open"})
        for each, was in (("a", 100), ("b", 9000))
    )
    assert await totals(pool) == {"a": 7, "b": 7, "c": 1}
    assert await actions(pool) == [("run_1", 1, "d", "done")]


async def test_a_repeated_write_changes_nothing_and_returns_the_digest_of_the_first(databases, tenant, pool) -> None:
    await databases.write(tenant, updating("total"), key(1, "first"), {"where.id": "a", "set.total": 7})
    again = await databases.write(tenant, updating("total"), key(1, "second"), {"where.id": "a", "set.total": 8})
    await databases.claim(tenant, "run_1", 2)
    late = await databases.write(tenant, updating("total"), key(2), {"where.id": "a", "set.total": 9})

    assert again == Repeated(voided=False, digest="first")
    assert late == Repeated(voided=True, digest="")
    assert (await totals(pool))["a"] == 7


async def test_a_preview_changes_nothing_and_its_image_is_needed_by_the_write(databases, tenant, pool) -> None:
    values = {"where.id": "a", "set.total": 7}
    shown = await databases.preview(tenant, updating("total"), key(1), values)
    assert isinstance(shown, Changed)
    assert (await totals(pool))["a"] == 100
    await pool.execute("UPDATE product.orders SET total = 101 WHERE id = 'a'")
    refused = await databases.write(tenant, updating("total"), key(1), values, shown.image)
    new = await databases.preview(tenant, updating("total"), key(1), values)
    assert isinstance(new, Changed)
    done = await databases.write(tenant, updating("total"), key(1), values, new.image)

    assert refused == Refused("rows_changed")
    assert isinstance(done, Changed)
    assert done == new
    assert (await totals(pool))["a"] == 7


async def test_an_approved_row_that_is_gone_has_changed(databases, tenant, pool) -> None:
    for statement in (updating("total"), deleting()):
        values = {"where.id": "a", "set.total": 7}
        shown = await databases.preview(tenant, statement, key(1), values)
        await pool.execute("UPDATE product.orders SET id = 'z' WHERE id = 'a'")
        assert await databases.write(tenant, statement, key(1), values, shown.image) == Refused("rows_changed")
        await pool.execute("UPDATE product.orders SET id = 'a' WHERE id = 'z'")


async def test_concurrent_writes_return_what_they_replaced(databases, tenant, pool) -> None:
    results = await asyncio.gather(
        *(
            databases.write(tenant, updating("total"), key(number), {"where.id": "a", "set.total": number})
            for number in range(1, 31)
        )
    )
    edges = {(each.rows[0].before["total"], each.rows[0].after["total"]) for each in results}
    chain = [100]
    while len(chain) <= 30:
        chain.append(next(after for before, after in edges if before == chain[-1]))

    assert chain[-1] == (await totals(pool))["a"]
    assert len(edges) == 30


async def test_a_table_that_changed_is_refused_until_it_is_as_before(pool, tenant) -> None:
    now = 0.0
    databases = TenantDatabases(pool.secrets, lambda: now)
    statement = reading("id")
    changes = {
        "ALTER COLUMN n TYPE bigint": "ALTER COLUMN n TYPE integer",
        "ALTER COLUMN total DROP NOT NULL": "ALTER COLUMN total SET NOT NULL",
        "RENAME COLUMN n TO m": "RENAME COLUMN m TO n",
        "SET SCHEMA public": "SET SCHEMA product",
    }
    for change, reversal in changes.items():
        await pool.execute(f"ALTER TABLE product.orders {change}")
        now += 30
        assert await databases.read(tenant, statement, {"where.id": "a"}) == Refused("resource_drifted"), change
        schema = "public" if "SCHEMA" in change else "product"
        await pool.execute(f"ALTER TABLE {schema}.orders {reversal}")
        now += 30
        assert await databases.read(tenant, statement, {"where.id": "a"}) == Rows(({"id": "a"},))
    await pool.execute("CREATE RULE r AS ON INSERT TO product.orders DO ALSO NOTHING")
    now += 30

    assert await databases.read(tenant, statement, {"where.id": "a"}) == Refused("resource_drifted")
    databases.close()


async def test_a_claim_wins_or_finds_what_was_done(databases, tenant, pool) -> None:
    done = await databases.write(tenant, updating("total"), key(1, "x"), {"where.id": "a", "set.total": 7})

    assert isinstance(done, Changed)
    assert await databases.claim(tenant, "run_1", 1) == Done("x")
    assert await databases.claim(tenant, "run_1", 2) == Voided()
    assert await databases.claim(tenant, "run_1", 2) == Voided()
    assert await actions(pool) == [("run_1", 1, "x", "done"), ("run_1", 2, "", "void")]


async def test_a_late_statement_never_changes_rows_after_its_claim(databases, tenant, pool) -> None:
    """150 actors run their statement while another process settles it: every verdict stays true."""

    async def settled(seq: int) -> tuple[Any, Any]:
        values = {"set.id": f"late-{seq}", "set.total": 1}
        late, claim = (
            databases.write(tenant, creating("id", "total"), key(seq), values),
            databases.claim(tenant, "run_1", seq),
        )
        if seq % 2:
            return await asyncio.gather(late, claim)
        claimed, written = await asyncio.gather(claim, late)
        return written, claimed

    results = [await settled(seq) for seq in range(1, 151)]
    rows = {name for (name,) in await pool.fetch("SELECT id FROM product.orders WHERE id LIKE 'late-%'")}
    for seq, (written, claimed) in enumerate(results, 1):
        if isinstance(claimed, Voided):
            assert written == Repeated(voided=True, digest="")
        else:
            assert (type(written), claimed) == (Changed, Done("d"))
        assert (f"late-{seq}" in rows) is isinstance(claimed, Done)


async def test_a_session_that_ends_during_the_statement_leaves_an_unknown_outcome(databases, tenant, pool) -> None:
    async with pool.superuser() as other, other.transaction():
        await other.execute("SELECT 1 FROM product.orders WHERE id = 'a' FOR UPDATE")
        waiting = asyncio.create_task(
            databases.write(tenant, updating("total"), key(1), {"where.id": "a", "set.total": 7})
        )
        await until(
            lambda: pool.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = $1 AND wait_event_type = 'Lock'",
                tenant.username,
            )
        )
        found = await waiting

    assert found == Unknown()
    assert await databases.claim(tenant, "run_1", 1) == Voided()
    assert (await totals(pool))["a"] == 100


async def test_a_statement_without_an_answer_in_time_leaves_an_unknown_outcome(
    databases, tenant, pool, monkeypatch
) -> None:
    monkeypatch.setattr(connections, "STATEMENT_TIMEOUT_S", 0.3)
    async with pool.superuser() as other, other.transaction():
        await other.execute("SELECT 1 FROM product.orders WHERE id = 'a' FOR UPDATE")
        found = await databases.write(tenant, updating("total"), key(1), {"where.id": "a", "set.total": 7})

    settled = await databases.claim(tenant, "run_1", 1)
    assert found == Unknown()
    assert ((await totals(pool))["a"] == 7) is (settled == Done("d"))


async def test_a_cancelled_write_is_settled_by_its_claim(databases, tenant, pool) -> None:
    async with pool.superuser() as other, other.transaction():
        await other.execute("SELECT 1 FROM product.orders WHERE id = 'a' FOR UPDATE")
        waiting = asyncio.create_task(
            databases.write(tenant, updating("total"), key(1), {"where.id": "a", "set.total": 7})
        )
        await until(
            lambda: pool.fetch(
                "SELECT FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'", tenant.username
            )
        )
        await cancel(waiting)

    settled = await databases.claim(tenant, "run_1", 1)
    assert ((await totals(pool))["a"] == 7) is (settled == Done("d"))


async def test_a_statement_that_waits_too_long_for_a_lock_changes_nothing(databases, tenant, pool) -> None:
    async with pool.superuser() as other, other.transaction():
        await other.execute("SELECT 1 FROM product.orders WHERE id = 'a' FOR UPDATE")
        found = await databases.write(tenant, updating("total"), key(1), {"where.id": "a", "set.total": 7})

    assert found == Refused("database_unavailable")
    assert await databases.claim(tenant, "run_1", 1) == Voided()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, True, "1", 1.5])
async def test_a_value_that_does_not_fit_is_refused_before_anything_is_sent(databases, tenant, value) -> None:
    found = await databases.write(tenant, updating("total"), key(1), {"where.id": "a", "set.total": value})

    assert found == Refused("value_refused")
