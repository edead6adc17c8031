"""Rebuild of tables that an earlier version made without the tenant's column, which PostgreSQL cannot add as the first.

A table is made anew, filled and renamed in one transaction. What Paybill did not make would be lost with the old table:
PostgreSQL's dependencies name all of it, and the table is then left as it is.
"""

from collections.abc import Iterator
from typing import Any

from paybill_contracts.kinds import Table
from paybill_contracts.table_rebuilds import InspectedTables
from paybill_definitions.blueprint_rules import TENANT_COLUMN
from paybill_runtime.jobs.effects import Refused

from paybill_provisioner.drivers import namespaces
from paybill_provisioner.drivers.namespaces import DatabaseNamespace, ident, literal
from paybill_provisioner.drivers.server import Connection

MAX_OBSTACLES = 20
REBUILD_TIMEOUT_S = 86_400.0
"""Of a statement that copies a table. The time for a lock is that of every statement."""

# Own keys and the NOT NULL of their columns are ours. An identity column's sequence is an internal dependency.
_TABLES = """
SELECT c.relname::text AS name, c.relkind <> 'r' OR EXISTS (
           SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid) AS partitioned,
       pg_total_relation_size(c.oid) AS size_bytes,
       ARRAY(SELECT o.conname::text FROM pg_constraint AS o WHERE o.conrelid = c.oid ORDER BY 1) AS constraints,
       ARRAY(SELECT ARRAY[a.attname::text, CASE format_type(a.atttypid, a.atttypmod)
                              WHEN 'timestamp with time zone' THEN 'timestamptz'
                              ELSE format_type(a.atttypid, a.atttypmod) END,
                          (a.attnotnull AND NOT coalesce(a.attnum = ANY(k.conkey), false))::text,
                          (a.attacl IS NOT NULL)::text]
             FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS key (attnum, place)
             JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = key.attnum ORDER BY key.place) AS key,
       ARRAY(SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend AS d
             WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
             AND (d.deptype IN ('n', 'a') OR EXISTS (
                 SELECT FROM pg_class AS s WHERE d.classid = 'pg_class'::regclass AND s.oid = d.objid
                 AND s.relkind = 'S'))
             AND NOT EXISTS (SELECT FROM pg_constraint AS o WHERE d.classid = 'pg_constraint'::regclass
                             AND o.oid = d.objid AND o.conrelid = c.oid AND o.contype IN ('p', 'n'))
             GROUP BY 1 ORDER BY 1) AS dependents,
       ARRAY(SELECT ARRAY[CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                          a.privilege_type || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END]
             FROM aclexplode(c.relacl) AS a WHERE a.grantee <> c.relowner) AS grants
FROM pg_class AS c LEFT JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND c.relname = ANY($2::text[])
ORDER BY c.relname
"""


async def inspect(connection: Connection, address: str, namespace: DatabaseNamespace) -> InspectedTables:
    """Returns the size of the tables, and what Paybill did not make."""
    found = await _tables(connection, namespace)
    return InspectedTables(
        address=address,
        size_bytes=sum(table["size_bytes"] for table in found),
        obstacles=tuple(_obstacles(namespace, found))[:MAX_OBSTACLES],
    )


async def rebuild(connection: Connection, before: DatabaseNamespace, tenant_id: str) -> None:
    """Gives all tables of the namespace the tenant's column, in one transaction. Tables that have it stay.

    Raises Refused when one has something that Paybill did not make, or that nobody knew of at the inspection.
    """
    async with connection.transaction():
        names = [f"{ident(before.schema)}.{ident(table['name'])}" for table in await _tables(connection, before)]
        if not names:
            return
        await connection.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")
        found = await _tables(connection, before)
        if obstacles := list(_obstacles(before, found)):
            named = "; ".join(obstacles[:MAX_OBSTACLES])
            raise Refused(f"the tables of {before.schema} have what Paybill did not make: {named}; it would be lost")
        tables = {table.name: table for table in before.tables}
        for number, row in enumerate(found):
            if row["key"] != [TENANT_COLUMN, tables[row["name"]].columns[0].name]:
                statements = _rebuild(before, tables[row["name"]], row, tenant_id, f"paybill_earlier_{number}")
                await connection.execute(";\n".join(statements), timeout=REBUILD_TIMEOUT_S)


async def _tables(connection: Connection, namespace: DatabaseNamespace) -> list[Any]:
    names = [table.name for table in namespace.tables]
    return list(await connection.fetch(_TABLES, namespace.schema, names))


def _obstacles(namespace: DatabaseNamespace, found: list[Any]) -> Iterator[str]:
    """Yields what Paybill did not make, by table."""
    tables = {table.name: table for table in namespace.tables}
    for row in found:
        columns = tables[row["name"]].columns
        if row["key"] == [TENANT_COLUMN, columns[0].name]:
            continue
        known = {column.name: column.type for column in columns}
        if row["partitioned"]:
            yield f"{row['name']} is partitioned or inherits"
        if row["key"] != [columns[0].name]:
            yield f"{row['name']} has the primary key ({', '.join(row['key'])})"
        for name, type_, is_required, has_grants in row["columns"]:
            if known.get(name) != type_:
                yield f"column {name} {type_} of {row['name']}"
            if is_required == "true":
                yield f"NOT NULL of column {name} of {row['name']}"
            if has_grants == "true":
                yield f"grants on column {name} of {row['name']}"
        yield from row["dependents"]


def _rebuild(before: DatabaseNamespace, table: Table, row: Any, tenant_id: str, earlier: str) -> Iterator[str]:
    """Yields the statements for one table. The policy is made after the copy: it is forced for the owner, too."""
    schema, name = ident(before.schema), f"{ident(before.schema)}.{ident(table.name)}"
    created, *policy = namespaces.create_table(namespaces.with_tenant_column(before), table, name)
    existing = {column[0] for column in row["columns"]}
    columns = ", ".join(ident(column.name) for column in table.columns if column.name in existing)
    yield f"ALTER TABLE {name} RENAME TO {ident(earlier)}"
    for number, constraint in enumerate(row["constraints"]):
        new = ident(f"{earlier}_{number}")
        yield f"ALTER TABLE {schema}.{ident(earlier)} RENAME CONSTRAINT {ident(constraint)} TO {new}"
    yield created
    yield (
        f"INSERT INTO {name} ({ident(TENANT_COLUMN)}, {columns}) "  # noqa: S608  # all names are quoted
        f"SELECT {literal(tenant_id)}, {columns} FROM {schema}.{ident(earlier)}"
    )
    yield from policy
    yield from (f"GRANT {_grant(privilege, grantee, name)}" for grantee, privilege in row["grants"])
    yield f"DROP TABLE {schema}.{ident(earlier)}"


def _grant(privilege: str, grantee: str, name: str) -> str:
    kind, with_option, option = privilege.partition(" WITH ")
    return f"{kind} ON {name} TO {grantee}{with_option}{option}"
