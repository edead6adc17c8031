"""Observation of what exists in a PostgreSQL server and its directories and carries our tags: the names of tenants."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from paybill_provisioner.domain.drift import NOTHING, Observed
from paybill_provisioner.drivers import Scope
from paybill_provisioner.drivers.server import DATABASE_MISSING, TenantServer

_NUMBER_LENGTH = 32

_LOGINS = """
SELECT r.rolname::text AS name, r.rolconnlimit AS connection_limit, r.rolcanlogin AS login,
       array_remove(ARRAY[CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                          CASE WHEN r.rolreplication THEN 'REPLICATION' END,
                          CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                          CASE WHEN r.rolcreatedb THEN 'CREATEDB' END], NULL) AS privileges,
       CASE WHEN starts_with(r.rolname::text, 'a_') THEN ARRAY(
           SELECT coalesce(d.datname || ': ', '') || setting FROM pg_db_role_setting AS s
           LEFT JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS setting
           WHERE s.setrole = r.oid ORDER BY 1) END AS settings
FROM pg_roles AS r
WHERE r.rolname ~ '^[at]_[0-9a-f]{32}' AND substr(r.rolname::text, 3) COLLATE "C" >= $1 AND
      substr(r.rolname::text, 3) COLLATE "C" < $2
ORDER BY 1
"""
_DATABASES = """
SELECT d.datname::text AS name, d.datname ~ '^silo_' AS own,
       ARRAY(SELECT a.privilege_type FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
             WHERE a.grantee = 0 ORDER BY 1) AS public
FROM pg_database AS d
WHERE pg_get_userbyid(d.datdba) = current_user AND (d.datname ~ '^(pool|bridge)_' OR (
    d.datname ~ '^silo_[0-9a-f]{32}' AND d.datname::text COLLATE "C" >= 'silo_' || $1 AND
    d.datname::text COLLATE "C" < 'silo_' || $2))
ORDER BY 1
"""
_SCHEMAS = """
SELECT n.nspname::text AS schema, c.relname::text AS table, a.attname::text AS column,
       CASE format_type(a.atttypid, a.atttypmod) WHEN 'timestamp with time zone' THEN 'timestamptz'
            ELSE format_type(a.atttypid, a.atttypmod) END AS type
FROM pg_namespace AS n
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname ~ '^product' OR (n.nspname ~ '^t_[0-9a-f]{32}' AND n.nspname::text COLLATE "C" >= 't_' || $1 AND
      n.nspname::text COLLATE "C" < 't_' || $2)
ORDER BY 1, 2, 3
"""
_DRIVER = """
SELECT rolcreatedb AS createdb, rolcreaterole AS createrole, rolsuper OR rolbypassrls AS bypasses
FROM pg_roles WHERE rolname = current_user
"""


async def observe_server(server: TenantServer, scope: Scope) -> AsyncGenerator[Sequence[Observed], None]:
    """Yields logins and databases, then the schemas of each database. A page is one call."""
    bounds = scope.after, scope.before
    async with server.connection(server.maintenance_database, pooled=True) as connection:
        logins = await connection.fetch(_LOGINS, *bounds)
        databases = await connection.fetch(_DATABASES, *bounds)
    place = {"host": server.host, "port": str(server.port)}
    yield [
        *(_login(row) for row in logins),
        *(
            Observed(
                "database",
                row["name"],
                _tenant_in(row["name"], "silo_") if row["own"] else None,
                {"public": ", ".join(row["public"]) or NOTHING},
                {**place, "database": row["name"]},
            )
            for row in databases
        ),
    ]
    for database in databases:
        try:
            async with server.connection(database["name"], pooled=not database["own"]) as connection:
                yield _schemas(database["name"], await connection.fetch(_SCHEMAS, *bounds))
        except DATABASE_MISSING:
            continue


def observe_files(directory: Path, scope: Scope) -> list[Observed]:
    """Returns the directories of tenants below `directory`: `<region>/<isolation>/t_<number>`, and what is in them."""
    found: list[Observed] = []
    for path in sorted(directory.glob("*/*/t_*")):
        tenant = _tenant_in(path.name, "t_")
        if tenant is None or not path.is_dir() or not scope.includes(tenant):
            continue
        found.append(_directory(directory, path, tenant))
        # A directory below it may be another bucket or the tenant's own.
        found += [_directory(directory, each, None) for each in sorted(path.iterdir()) if each.is_dir()]
    return found


async def problem_of(server: TenantServer) -> str | None:
    """Returns why the driver's role cannot work on the server; None when it can."""
    async with server.connection(server.maintenance_database, pooled=True) as connection:
        role = await connection.fetchrow(_DRIVER)
    lacks = [name for name, key in (("CREATEDB", "createdb"), ("CREATEROLE", "createrole")) if not role[key]]
    if lacks:
        return f"the role of the driver has no {' and no '.join(lacks)}; as a superuser, ALTER ROLE it"
    return "the role of the driver bypasses row-level security; it must not" if role["bypasses"] else None


def _login(row: Any) -> Observed:
    attributes = {
        "connection_limit": str(row["connection_limit"]),
        "login": "yes" if row["login"] else "no",
        "privileges": ", ".join(row["privileges"]) or NOTHING,
    }
    if row["settings"] is not None:
        attributes["settings"] = ", ".join(row["settings"])
    return Observed("role", row["name"], _tenant_in(row["name"], row["name"][:2]), attributes)


def _schemas(database: str, rows: list[Any]) -> list[Observed]:
    columns: dict[str, dict[str, str]] = {}
    for row in rows:
        found = columns.setdefault(row["schema"], {})
        if row["column"] is not None:
            found[f"{row['table']}.{row['column']}"] = row["type"]
    return [
        Observed("schema", f"{database}/{name}", _tenant_in(name, "t_") or _tenant_in(database, "silo_"), attributes)
        for name, attributes in columns.items()
    ]


def _directory(base: Path, path: Path, tenant: str | None) -> Observed:
    mode = path.stat().st_mode & 0o777
    return Observed("bucket", path.relative_to(base).as_posix(), tenant, {"mode": f"{mode:04o}"})


def _tenant_in(name: str, prefix: str) -> str | None:
    """Returns the tenant whose number follows `prefix`; None for another name."""
    number = name.removeprefix(prefix)[:_NUMBER_LENGTH]
    is_number = len(number) == _NUMBER_LENGTH and not set(number) - set("0123456789abcdef")
    return f"ten_{number}" if name.startswith(prefix) and is_number else None
