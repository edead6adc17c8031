"""Inspection of a tenant's existing namespace in PostgreSQL, before anything is created."""

from dataclasses import dataclass

from paybill_provisioner.drivers.namespaces import (
    EARLIER_POLICY_EXPRESSION,
    POLICY,
    POLICY_EXPRESSION,
    DatabaseNamespace,
)
from paybill_provisioner.drivers.server import Connection

_INSPECTION = """
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS role,
       ARRAY(SELECT coalesce(r.rolname::text, 'PUBLIC')
             FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
             LEFT JOIN pg_roles AS r ON r.oid = a.grantee WHERE d.datname = current_database()) AS connect_grantees,
       EXISTS (SELECT FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
               WHERE n.nspname = 'public' AND a.grantee = 0) AS public_schema_open
"""
_TABLES = """
SELECT c.relname::text AS name,
       c.relrowsecurity AND c.relforcerowsecurity AS forced,
       ARRAY(SELECT ARRAY[p.polname::text, p.polcmd::text, p.polpermissive::text, p.polroles::text,
                          pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)]
             FROM pg_policy AS p WHERE p.polrelid = c.oid) AS policies,
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class AS c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
"""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Existing role, grantees of CONNECT, columns of each table, and unsafe settings.

    public_schema_open: PUBLIC may use the schema `public`. unprotected: tables without exactly our forced row-level
    security policy; only relevant in a pool. slow: those whose policy cannot use the index of the key.
    """

    role: bool
    connect_grantees: frozenset[str]
    public_schema_open: bool
    tables: dict[str, set[str]]
    unprotected: frozenset[str]
    slow: frozenset[str]

    def database_ready(self, namespace: DatabaseNamespace) -> bool:
        """Returns True when the database is set up: PUBLIC cannot connect, and the group can."""
        closed = "PUBLIC" not in self.connect_grantees and not self.public_schema_open
        return closed and (not namespace.shared or namespace.connect_group in self.connect_grantees)

    def has_tables(self, namespace: DatabaseNamespace) -> bool:
        """Returns True when every table and column of the namespace exists."""
        return all(
            {column.name for column in table.columns} <= self.tables.get(table.name, set())
            for table in namespace.tables
        )


async def inspect(connection: Connection, namespace: DatabaseNamespace) -> Inspection:
    """Inspects the namespace over a `connection` to its database."""
    row = await connection.fetchrow(_INSPECTION, namespace.role)
    tables = await connection.fetch(_TABLES, namespace.schema)
    if row is None:
        raise LookupError("a query without FROM gave no row")
    return Inspection(
        role=row["role"],
        connect_grantees=frozenset(row["connect_grantees"]),
        public_schema_open=row["public_schema_open"],
        tables={table["name"]: set(table["columns"]) for table in tables},
        unprotected=frozenset(
            table["name"]
            for table in tables
            if not (table["forced"] and any(table["policies"] == [_policy(each)] for each in _EXPRESSIONS))
        ),
        slow=frozenset(table["name"] for table in tables if table["policies"] == [_policy(EARLIER_POLICY_EXPRESSION)]),
    )


_EXPRESSIONS = (POLICY_EXPRESSION, EARLIER_POLICY_EXPRESSION)


def _policy(expression: str) -> list[str]:
    """Returns our policy as `_TABLES` shows it: for all commands and roles, permissive."""
    return [POLICY, "*", "true", "{0}", expression, expression]
