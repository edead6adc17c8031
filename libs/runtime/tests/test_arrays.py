"""Arrays reach PostgreSQL as texts, so that a connection never queries the catalogue for their types."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from paybill_runtime.database.arrays import texts
from paybill_runtime.database.pool import DIRECT
from paybill_runtime.database.statement import STATE_CHANGED, Statement

QUERIES = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'WITH RECURSIVE%'"
COLUMNS = {
    "text": ["", "a", "NULL", None, '{"b": "c\\\\d"}', "ü, 'e'", " f\n"],
    "smallint": [0, -(2**15), 2**15 - 1],
    "bigint": [1, None, -(2**63), 2**63 - 1],
    "uuid": [UUID(int=1), str(UUID(int=2**128 - 1))],
    "timestamptz": [datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), datetime(1970, 1, 1, tzinfo=UTC)],
    "boolean": [True, False, None],
}


@pytest.mark.parametrize("type_", COLUMNS)
async def test_columns_hold_the_values(served, type_) -> None:
    statement = Statement()
    rows = statement.columns(value=(type_, COLUMNS[type_]))

    async with served.running.context.database.direct() as connection:
        found = await connection.fetch(f"SELECT value::text, place FROM {rows}", *statement.values)
        expected = [
            await connection.fetchval(f"SELECT $1::text::{type_}::text", text) for text in texts(COLUMNS[type_])
        ]

    assert [tuple(row) for row in found] == [(value, place) for place, value in enumerate(expected, 1)]


async def test_a_service_queries_no_types_of_arrays(served, sign_up, log) -> None:
    assert (await sign_up(served)).status_code == 202
    await log.facts("tenant.tenant_requested", at_least=1)

    database = served.running.context.database
    opened: list[int] = []

    async def queries(connections: int) -> None:
        if not connections:
            return
        async with database.direct() as connection:
            opened.append(await connection.fetchval(QUERIES))
            await queries(connections - 1)

    await queries(DIRECT)
    async with database.transaction() as connection:
        opened.append((await connection.exec_driver_sql(QUERIES)).scalar_one())

    assert opened == [0] * (DIRECT + 1)


async def test_a_value_that_is_bound_and_not_used_is_refused_with_its_placeholder(served) -> None:
    statement = Statement()
    used, _, last = (statement.value(number) for number in range(3))
    statement.require(f"SELECT {used}::text, {last}::text", 1, STATE_CHANGED)

    async with served.running.context.database.direct() as connection:
        with pytest.raises(ValueError, match=r"does not use the values of \$2: SELECT"):
            await statement.execute(connection)
