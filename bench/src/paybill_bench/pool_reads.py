"""Reads of a tenant in a pool of many tenants, compared with a pool of few: one row by key, and all of its own rows.

Each pool is a database that the provisioner built. The rows of the other tenants are written directly; the tenant that
reads is a real one, with its own login, and sees nothing but its rows.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg

from paybill_bench.figures import Figure, Progress
from paybill_bench.provisioner import RunningProvisioner
from paybill_bench.servers import BenchmarkError, median

FEW, MANY = 10, 1000
ROWS = 500
"""Rows of each tenant."""
ROUNDS, READS_BY_KEY, FULL_READS = 20, 100, 10
_REGIONS = {FEW: "us-east", MANY: "eu-central"}
_PASSWORD = "read-rows"  # noqa: S105  # of a login that exists for a minute
_FILL = """
INSERT INTO product.documents (tenant_id, id, body)
SELECT t.id, 'd' || n, jsonb_build_object('text', repeat('x', 200))
FROM (SELECT $1 AS id UNION ALL SELECT 'ten_' || md5(other::text) FROM generate_series(2, $2) AS other) AS t,
     generate_series(1, $3) AS n
ORDER BY t.id, n
"""
"""A tenant's rows are written together, as by an import."""

_BY_KEY = "SELECT * FROM documents WHERE id = $1"
_ALL = "SELECT * FROM documents"

Times = dict[int, list[float]]


async def measure_reads(provisioner: RunningProvisioner, progress: Progress) -> Sequence[Figure]:
    """Reads in both pools in turn."""
    by_key: Times = {FEW: [], MANY: []}
    full: Times = {FEW: [], MANY: []}
    async with AsyncExitStack() as connections:
        tenants = {
            size: await connections.enter_async_context(reading_tenant(provisioner, size, _REGIONS[size], ROWS))
            for size in (FEW, MANY)
        }
        for _ in range(ROUNDS):
            for size, connection in tenants.items():
                by_key[size] += [await _timed(connection, 1, _BY_KEY, f"d{n % ROWS + 1}") for n in range(READS_BY_KEY)]
                full[size] += [await _timed(connection, ROWS, _ALL) for _ in range(FULL_READS)]
    key, every = _medians(by_key), _medians(full)
    progress(
        f"a row by key: {key[FEW]:.3f} and {key[MANY]:.3f} ms; {ROWS} rows: {every[FEW]:.2f}, {every[MANY]:.2f} ms"
    )
    return [
        Figure("pool.read_growth_10_1000", key[MANY] / key[FEW], "x", most=1.5),
        Figure("pool.full_read_growth_10_1000", every[MANY] / every[FEW], "x", most=1.5),
        Figure("pool.read_1000_p50_ms", key[MANY], "ms"),
        Figure("pool.full_read_1000_p50_ms", every[MANY], "ms"),
    ]


@asynccontextmanager
async def reading_tenant(
    provisioner: RunningProvisioner, size: int, region: str, rows: int
) -> AsyncIterator[asyncpg.Connection]:
    """Provides a tenant's connection to a new pool in `region` with the rows of `size` tenants."""
    [tenant] = await provisioner.register(1, region)
    await provisioner.build_all([tenant])
    login = provisioner.connections[tenant]
    postgres = provisioner.servers.postgres
    superuser = await asyncpg.connect(
        postgres.url("postgres", login["database"]), password=postgres.password("postgres")
    )
    try:
        await superuser.execute(_FILL, tenant, size, rows, timeout=300)
        await superuser.execute("VACUUM (ANALYZE, FREEZE) product.documents", timeout=300)
        await superuser.execute("CHECKPOINT")
        await superuser.execute(f"ALTER ROLE {login['username']} PASSWORD '{_PASSWORD}'")
    finally:
        await superuser.close()
    connection = await asyncpg.connect(postgres.url(login["username"], login["database"]), password=_PASSWORD)
    try:
        yield connection
    finally:
        await connection.close()


async def _timed(connection: Any, expected: int, query: str, *arguments: str) -> float:
    """Returns the milliseconds of a query."""
    begin = time.perf_counter()
    rows = await connection.fetch(query, *arguments)
    elapsed = (time.perf_counter() - begin) * 1000
    if len(rows) != expected:
        raise BenchmarkError(f"a tenant saw {len(rows)} rows instead of {expected}")
    return elapsed


def _medians(times: Times) -> Mapping[int, float]:
    return {size: median(each) for size, each in times.items()}
