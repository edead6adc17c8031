"""The statements of a pooled onboarding without a control plane: logins, created closed and opened, with memberships.

They are those that the local driver sends for a tenant of an existing pool, in the same order, over as many
connections and by roles like its own: creators of at most 100 logins each, and a granter that has nothing but the
groups. Nothing is recorded, planned, checked or retried.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
from paybill_embedded.databases import DRIVER_ROLE

from paybill_bench.servers import BenchServers

PREFIX = "raw_"
DATABASE = "raw_roles"
GROUPS = ("raw_members", "raw_writers")
CONNECTIONS = 4
CONCURRENT = 16
PER_CREATOR = 100

_LOGIN = """
SELECT rolsuper AS superuser,
       rolbypassrls OR rolreplication OR rolcreaterole OR rolcreatedb OR EXISTS (
           SELECT FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
           WHERE m.member = r.oid AND (g.rolname <> ALL($2::text[]) OR m.set_option OR m.admin_option)) AS privileged,
       (SELECT c.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS c ON c.oid = m.member
        WHERE m.roleid = r.oid AND m.admin_option AND starts_with(c.rolname::text, 'raw_creator_')
        LIMIT 1) AS creator
FROM pg_roles AS r WHERE rolname = $1
"""
_RUNNER = """
CREATE ROLE {name} NOLOGIN NOINHERIT CREATEROLE;
CREATE FUNCTION roles.{name}(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
AS 'BEGIN EXECUTE $1; END';
GRANT CREATE ON SCHEMA roles TO {name};
ALTER FUNCTION roles.{name}(text) OWNER TO {name};
"""


class RawSql:
    """Creates logins by the statements alone, over `pool`."""

    def __init__(self, pool: Any, superuser: Any) -> None:
        self._pool = pool
        self._superuser = superuser
        self._creators = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, servers: BenchServers) -> AsyncIterator[Self]:
        """Creates the database of the functions, the granter and the groups, and opens the connections."""
        postgres = servers.postgres
        password = postgres.password("postgres")
        maintenance = await asyncpg.connect(postgres.url("postgres", "postgres"), password=password)
        await maintenance.execute(f"CREATE DATABASE {DATABASE}")
        await maintenance.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {DRIVER_ROLE}")
        await maintenance.close()
        superuser = await asyncpg.connect(postgres.url("postgres", DATABASE), password=password)
        await superuser.execute(f"CREATE SCHEMA roles; GRANT USAGE ON SCHEMA roles TO {DRIVER_ROLE}")
        await superuser.execute(_RUNNER.format(name=f"{PREFIX}granter"))
        for group in GROUPS:
            await superuser.execute(f"CREATE ROLE {group} NOLOGIN NOINHERIT")
            await superuser.execute(f"GRANT {group} TO {PREFIX}granter WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        async with asyncpg.create_pool(
            postgres.url(DRIVER_ROLE, DATABASE),
            password=postgres.password(DRIVER_ROLE),
            min_size=CONNECTIONS,
            max_size=CONNECTIONS,
        ) as pool:
            yield cls(pool, superuser)
        await superuser.close()

    async def build_all(self, amount: int) -> float:
        """Creates and opens so many logins; returns the seconds. Their creators exist before."""
        creators = [await self._new_creator() for _ in range(-(-amount // PER_CREATOR))]
        left = iter([(f"{PREFIX}{uuid.uuid4().hex}", creators[number // PER_CREATOR]) for number in range(amount)])
        clock = asyncio.get_running_loop().time
        begin = clock()

        async def work() -> None:
            for login, creator in left:
                await self._build(login, creator)

        await asyncio.gather(*(work() for _ in range(CONCURRENT)))
        return clock() - begin

    async def _build(self, login: str, creator: str) -> None:
        reads, writes = GROUPS
        await self._pool.fetchrow(_LOGIN, login, list(GROUPS))
        await self._pool.execute(
            f"SELECT roles.{creator}('CREATE ROLE \"{login}\" NOINHERIT NOLOGIN CONNECTION LIMIT 10');\n"
            f"SELECT roles.{PREFIX}granter('GRANT {reads} TO \"{login}\" WITH INHERIT TRUE, SET FALSE')"
        )
        found = await self._pool.fetchrow(_LOGIN, login, [])
        await self._pool.execute(
            f"SELECT roles.{found['creator']}('ALTER ROLE \"{login}\" LOGIN');\n"
            f"SELECT roles.{PREFIX}granter('GRANT {reads}, {writes} TO \"{login}\" WITH INHERIT TRUE, SET FALSE')"
        )

    async def _new_creator(self) -> str:
        self._creators += 1
        name = f"{PREFIX}creator_{self._creators:05}"
        await self._superuser.execute(_RUNNER.format(name=name))
        return name

    async def logins(self) -> Sequence[str]:
        """Returns the logins that are open and in both groups."""
        rows = await self._superuser.fetch(
            "SELECT rolname::text AS name FROM pg_roles AS r WHERE rolcanlogin AND NOT EXISTS ("
            "SELECT FROM unnest($1::text[]) AS g (name) WHERE NOT EXISTS (SELECT FROM pg_auth_members AS m "
            "WHERE m.member = r.oid AND m.roleid = g.name::regrole)) ORDER BY 1",
            list(GROUPS),
        )
        return [row["name"] for row in rows]
