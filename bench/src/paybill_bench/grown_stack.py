"""A stack that knows many tenants: real ones, one in each pool, and copies of their states with logins of their own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from paybill_embedded.databases import DRIVER_ROLE
from paybill_embedded.nats import NatsServer
from paybill_stack.layout import SERVICES

from paybill_bench.activations import Webhook
from paybill_bench.blueprints import blueprint_file
from paybill_bench.journeys import Stack
from paybill_bench.process_statistics import tree_processor_time_s
from paybill_bench.servers import BenchmarkError, BenchServers, started_servers

PLAN = "starter"

_TABLES = """
SELECT table_name::text AS name FROM information_schema.columns
WHERE table_schema = 'public' AND column_name = 'state' ORDER BY 1
"""
_COPY = """
INSERT INTO {table} (id, revision, state)
SELECT replace(replace(s.id, $4, md5('tenant' || n)), $5, md5('subscription' || n)), s.revision,
       regexp_replace(
           replace(
               replace(replace(s.state::text, $4, md5('tenant' || n)), $5, md5('subscription' || n)),
               $6, 'cs_grown_' || n
           ),
           '"slug": "[^"]*"', '"slug": "grown-' || n || '"'
       )::jsonb
FROM {table} AS s, generate_series($1::int, $2::int) AS n
WHERE s.state::text LIKE '%' || $3 || '%'
"""
"""Copies of one tenant's states, with other numbers of tenant and subscription, another checkout and another slug."""
_NUMBERS = """
SELECT substr(a.id, 5) AS tenant, substr(s.id, 5) AS subscription, a.state->>'checkout' AS checkout
FROM accounts AS a JOIN subscriptions AS s ON s.state->'subscription'->>'tenant_id' = a.id WHERE a.id = ANY($1)
"""
_LOGINS = """
SELECT 't_' || substr(id, 5) || ' ' || (
    SELECT built->'outputs'->>'database' FROM jsonb_array_elements(state->'built') AS built
    WHERE built->'resource'->>'address' = 'database.main') AS line
FROM environments WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 't_' || substr(id, 5)) ORDER BY id
"""
_RARELY = {"PAYBILL_INVARIANT_INTERVAL_S": "86400"}
_NO_CHECKS = {
    "tenant": _RARELY,
    "billing": _RARELY,
    "provisioner": _RARELY | {"PAYBILL_DRIFT_EVERY_S": "604800", "PAYBILL_ISOLATION_EVERY_S": "86400"},
    "agent-gateway": _RARELY,
}
_LOGINS_MODULE = "paybill_bench.inside_provisioner.logins"


@dataclass(frozen=True, slots=True)
class GrownStack:
    """A running stack with `amount` tenants before it is measured."""

    amount: int
    servers: BenchServers
    bus: NatsServer
    stack: Stack

    def processor_time_s(self) -> float:
        """Returns the processor time of all services, NATS and PostgreSQL so far."""
        pids = self.stack.pids()
        measured = [*(pids[name] for name in SERVICES), self.bus.pid, self.servers.postgres.pid]
        return sum(tree_processor_time_s(pid) for pid in measured if pid is not None)


@asynccontextmanager
async def grown_stack(amount: int, pools: int, **variables: str) -> AsyncIterator[GrownStack]:
    """Runs a stack until the end of the block. pools: of each region, all used; variables: of billing.

    Scheduled checks of all tenants do not run: they cost more with more tenants, whether or not one is onboarded.
    """
    with started_servers() as servers:
        async with servers.bus() as bus:
            blueprints = blueprint_file(servers.folder, pools)
            environment = {name: _NO_CHECKS[name] for name in SERVICES}
            environment["billing"] = environment["billing"] | variables
            stack = Stack(servers, bus, blueprints=blueprints, environment=environment)
            try:
                await stack.start()
                await stack.start_one_by_one(await stack.sign_up(PLAN, 1))
                async with stack.recorded((PLAN,)):
                    real = await stack.sign_up(PLAN, pools - 1)
                    await stack.start_one_by_one(real)
                    async with stack.paused():
                        await _grow(servers, real, amount)
                    yield GrownStack(amount, servers, bus, stack)
            finally:
                await stack.stop()


async def _grow(servers: BenchServers, real: Sequence[Webhook], amount: int) -> None:
    """Copies the states of real tenants until there are `amount`, and creates the logins of the copies."""
    async with _connected(servers, "billing") as connection:
        numbers = await connection.fetch(_NUMBERS, [each.tenant for each in real])
    if len(numbers) != len(real):
        raise BenchmarkError(f"{len(real) - len(numbers)} tenants have no subscription")
    missing = amount - len(real) - 1
    bounds = [place * missing // len(real) for place in range(len(real) + 1)]
    for service in SERVICES:
        async with _connected(servers, service) as connection:
            for table in await connection.fetch(_TABLES):
                for place, each in enumerate(numbers):
                    names = each["tenant"], each["tenant"], each["subscription"], each["checkout"]
                    last = bounds[place + 1] - 1
                    await connection.execute(_COPY.format(table=table["name"]), bounds[place], last, *names)
            await connection.execute("VACUUM (ANALYZE)")
    async with _connected(servers, "provisioner") as connection:
        lines = [row["line"] for row in await connection.fetch(_LOGINS)]
    if len(lines) != missing:
        raise BenchmarkError(f"{len(lines)} copies of {missing} have no login")
    await _create_logins(servers, lines)
    await servers.checkpoint()


async def _create_logins(servers: BenchServers, lines: Sequence[str]) -> None:
    postgres = servers.postgres
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _LOGINS_MODULE),
        *(postgres.url(DRIVER_ROLE, "postgres"), str(postgres.password_file(DRIVER_ROLE))),
        stdin=asyncio.subprocess.PIPE,
    )
    await process.communicate("".join(f"{line}\n" for line in lines).encode())
    if process.returncode:
        raise BenchmarkError(f"the process that creates logins ended with {process.returncode}")


@asynccontextmanager
async def _connected(servers: BenchServers, database: str) -> AsyncIterator[Any]:
    """Opens a connection as the superuser."""
    postgres = servers.postgres
    connection = await asyncpg.connect(postgres.url("postgres", database), password=postgres.password("postgres"))
    try:
        yield connection
    finally:
        await connection.close()
