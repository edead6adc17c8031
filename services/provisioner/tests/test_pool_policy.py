"""The policy of a pool uses the primary key, older pools are altered in place, and placements have the same columns."""

import json
from typing import Any

import pytest
from paybill_contracts.placement import Isolation, Preset
from paybill_provisioner.drivers.namespaces import POLICY_EXPRESSION
from table_samples import shape_of

TENANTS, ROWS = 400, 500
OLD = "tenant_id = ('ten_' || substr(CURRENT_USER::text, 3, 32))"
"""The policy's expression before it had the collation of the key."""


async def explained(connection, query) -> Any:
    """Returns the plan of a query that is run as the tenant."""
    (row,) = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS OFF, FORMAT JSON) {query}")
    plan = json.loads(row[0])[0]["Plan"]
    while "Plans" in plan:
        (plan,) = plan["Plans"]
    return plan


async def filled(harness, environment) -> str:
    """Adds rows of other tenants to the pool, so that it has 400 tenants with 500 rows each."""
    database = environment.connections[0].database
    await harness.as_superuser(
        database,
        "INSERT INTO product.documents (tenant_id, id) SELECT tenant, 'd' || n FROM ("
        f"SELECT 'ten_' || md5(i::text) AS tenant FROM generate_series(2, {TENANTS}) AS i "
        f"UNION ALL SELECT '{environment.tenant_id}') AS t, generate_series(1, {ROWS}) AS n",
    )
    await harness.as_superuser(database, "ANALYZE product.documents")
    return database


async def test_a_row_by_its_key_takes_one_index_search_among_400_tenants(harness) -> None:
    """Fault 13: it took 801 searches, because the comparison of the policy could not use the index."""
    environment = await harness.ready(Preset.POOLED)
    await filled(harness, environment)
    async with harness.connect(environment) as connection:
        by_key = await explained(connection, "SELECT * FROM product.documents WHERE id = 'd7'")
        all_rows = await explained(connection, "SELECT * FROM product.documents")

    assert by_key["Index Cond"].startswith("((tenant_id")
    assert "id = 'd7'" in by_key["Index Cond"]
    assert (by_key["Index Searches"], by_key["Actual Rows"]) == (1, 1)
    # Without the key in the filter only the tenant's own rows are read.
    assert "(tenant_id" in all_rows.get("Index Cond", all_rows.get("Recheck Cond", ""))
    assert all_rows["Actual Rows"] == ROWS
    assert all_rows.get("Rows Removed by Filter", 0) == 0


async def test_a_pool_of_an_earlier_version_is_altered_in_place(harness) -> None:
    first = await harness.ready(Preset.POOLED)
    database = await filled(harness, first)
    await harness.as_driver(database, f"ALTER POLICY own_rows ON product.documents USING ({OLD}) WITH CHECK ({OLD})")
    await harness.as_driver(
        database,
        "ALTER TABLE product.documents ALTER COLUMN tenant_id SET DEFAULT 'ten_' || substr(CURRENT_USER::text, 3, 32)",
    )
    async with harness.connect(first) as connection:
        before = await explained(connection, "SELECT * FROM product.documents WHERE id = 'd7'")
    is_breach = await harness.driver.breaches(Isolation.POOL, database, {})
    second = await harness.ready(Preset.POOLED)
    expressions = await harness.as_superuser(
        database,
        "SELECT pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),"
        " pg_get_expr(d.adbin, d.adrelid) FROM pg_policy AS p JOIN pg_attrdef AS d ON d.adrelid = p.polrelid",
    )
    async with harness.connect(first) as connection:
        after = await explained(connection, "SELECT * FROM product.documents WHERE id = 'd7'")

    assert before.get("Index Searches", ROWS) > 1
    assert is_breach == []
    ((using, check, default),) = expressions
    assert (using, check) == (POLICY_EXPRESSION, POLICY_EXPRESSION)
    assert 'COLLATE "default"' in default
    assert (after["Index Searches"], after["Actual Rows"]) == (1, 1)
    assert await harness.can_write(second)


@pytest.mark.parametrize("preset", list(Preset))
async def test_an_insert_without_a_column_list_has_the_same_result_in_every_placement(harness, preset) -> None:
    """Fault 14: `tenant_id` existed in a pool only, so that the same statement failed or worked."""
    environment = await harness.ready(preset)
    async with harness.connect(environment) as connection:
        rows, columns, key = await shape_of(connection, environment)

    assert rows == [(environment.tenant_id, "a", '{"n": 1}')]
    assert columns == ["tenant_id", "id", "body"]
    assert key == "PRIMARY KEY (tenant_id, id)"
