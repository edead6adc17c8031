"""What is there of a tenant's place in PostgreSQL, read in one round trip before anything is made."""

from dataclasses import dataclass

from paybill_provisioner.drivers.server import Connection
from paybill_provisioner.drivers.spaces import POLICY, Space

_SURVEY = """
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS role,
       ARRAY(SELECT coalesce(r.rolname::text, 'PUBLIC')
             FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
             LEFT JOIN pg_roles AS r ON r.oid = a.grantee WHERE d.datname = current_database()) AS admitted,
       EXISTS (SELECT FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
               WHERE n.nspname = 'public' AND a.grantee = 0) AS commons
"""
_TABLES = """
SELECT c.relname::text AS name,
       c.relrowsecurity AND c.relforcerowsecurity
       AND ARRAY(SELECT p.polname::text FROM pg_policy AS p WHERE p.polrelid = c.oid) = ARRAY[$2] AS walled,
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class AS c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """Whether the tenant's role is there, who may enter the database, the columns of each table, and what is unsafe.

    commons: everybody may use the schema `public`.
    unwalled: without forced row-level security by our policy alone; only in a pool does that matter.
    """

    role: bool
    admitted: frozenset[str]
    commons: bool
    tables: dict[str, set[str]]
    unwalled: frozenset[str]

    def ready(self, space: Space) -> bool:
        """Whether the database is finished: not everybody may enter, but who should may."""
        closed = "PUBLIC" not in self.admitted and not self.commons
        return closed and (not space.shared or space.members in self.admitted)

    def has(self, space: Space) -> bool:
        """Whether every table and column of the space is there."""
        return all({name for name, _ in table.columns} <= self.tables.get(table.name, set()) for table in space.tables)


async def survey(connection: Connection, space: Space) -> Survey:
    """Look. `connection` is to the space's database."""
    row = await connection.fetchrow(_SURVEY, space.role)
    tables = await connection.fetch(_TABLES, space.schema, POLICY)
    if row is None:
        raise LookupError("a query without FROM gave no row")
    return Survey(
        role=row["role"],
        admitted=frozenset(row["admitted"]),
        commons=row["commons"],
        tables={table["name"]: set(table["columns"]) for table in tables},
        unwalled=frozenset(table["name"] for table in tables if not table["walled"]),
    )
