"""Inspection of existing databases and tables in PostgreSQL, before anything is created."""

from collections.abc import Iterable
from dataclasses import dataclass

from paybill_contracts.placement import Isolation

from paybill_provisioner.drivers.namespaces import (
    ACTIONS_POLICY_EXPRESSION,
    EARLIER_POLICY_EXPRESSION,
    POLICY,
    POLICY_EXPRESSION,
    DatabaseNamespace,
    connect_group,
    optional_columns,
)
from paybill_provisioner.drivers.server import Connection

_DATABASE = """
SELECT ARRAY(SELECT coalesce(r.rolname::text, 'PUBLIC')
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
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull) AS not_null
FROM pg_class AS c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
"""
_ROLE = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_LOGIN = """
SELECT rolsuper AS superuser,
       rolbypassrls OR rolreplication OR rolcreaterole OR rolcreatedb OR EXISTS (
           SELECT FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
           WHERE m.member = r.oid AND (regexp_replace(g.rolname::text, '_[0-9]+$', '') <> ALL($2::text[])
                                       OR m.set_option OR m.admin_option)) AS privileged,
       (SELECT c.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS c ON c.oid = m.member
        WHERE m.roleid = r.oid AND m.admin_option AND starts_with(c.rolname::text, current_user || '_creator_')
        LIMIT 1) AS creator,
       ARRAY(SELECT g.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
             WHERE m.member = r.oid ORDER BY 1) AS groups,
       ARRAY(SELECT g.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
             WHERE m.member = r.oid AND m.grantor = current_user::regrole ORDER BY 1) AS earlier_groups
FROM pg_roles AS r WHERE rolname = $1
"""
_EXPRESSIONS = (POLICY_EXPRESSION, EARLIER_POLICY_EXPRESSION)


@dataclass(frozen=True, slots=True)
class Login:
    """An existing login. privileged: it has an attribute, such as BYPASSRLS, or a membership that we do not give.

    creator: the role that may change it; None for a login of an earlier version, which the driver created.
    groups: its memberships; earlier_groups: those that the driver granted.
    """

    superuser: bool
    privileged: bool
    creator: str | None
    earlier_groups: tuple[str, ...]
    groups: tuple[str, ...] = ()

    @property
    def is_earlier(self) -> bool:
        """True for a login of an earlier version, which is not in the form of this one yet."""
        return self.creator is None or bool(self.earlier_groups)


@dataclass(frozen=True, slots=True)
class Tables:
    """Existing tables of a namespace, each with its columns, and those of them that refuse NULL.

    unprotected: those without exactly our forced row-level security policy. slow: those whose policy cannot use the
    index of the key.
    """

    columns: dict[str, set[str]]
    not_null: dict[str, set[str]]
    unprotected: frozenset[str]
    slow: frozenset[str]

    def include(self, namespace: DatabaseNamespace) -> bool:
        """Returns True when every table and column of the namespace exists, and accepts NULL unless it is required."""
        return all(
            {column.name for column in table.columns} <= self.columns.get(table.name, set())
            and optional_columns(table).isdisjoint(self.not_null[table.name])
            for table in namespace.tables
        )


async def is_ready(connection: Connection, isolation: Isolation, database: str) -> bool:
    """Returns True when the connected database is set up: PUBLIC cannot connect, and the group can."""
    row = await connection.fetchrow(_DATABASE)
    closed = "PUBLIC" not in row["connect_grantees"] and not row["public_schema_open"]
    return closed and (isolation is Isolation.SILO or connect_group(database) in row["connect_grantees"])


async def has_role(connection: Connection, role: str) -> bool:
    """Returns True when the login or group exists."""
    return bool(await connection.fetchval(_ROLE, role))


async def login_of(connection: Connection, role: str, own_groups: Iterable[str]) -> Login | None:
    """Returns the login, or None when it does not exist. own_groups: those that it may be a member of."""
    row = await connection.fetchrow(_LOGIN, role, list(own_groups))
    if row is None:
        return None
    return Login(
        row["superuser"], row["privileged"], row["creator"], tuple(row["earlier_groups"]), tuple(row["groups"])
    )


async def tables_of(connection: Connection, namespace: DatabaseNamespace) -> Tables:
    """Returns the existing tables of the namespace, over a connection to its database."""
    tables = await connection.fetch(_TABLES, namespace.schema)
    return Tables(
        columns={table["name"]: set(table["columns"]) for table in tables},
        not_null={table["name"]: set(table["not_null"]) for table in tables},
        unprotected=frozenset(
            table["name"]
            for table in tables
            if not (table["forced"] and len(table["policies"]) == 1 and is_our_policy(table["policies"][0]))
        ),
        slow=frozenset(table["name"] for table in tables if table["policies"] == [_policy(EARLIER_POLICY_EXPRESSION)]),
    )


def is_our_policy(policy: list[str]) -> bool:
    """Returns whether a policy as `_TABLES` shows it is ours, by its expression."""
    return any(policy == _policy(expression) for expression in _EXPRESSIONS)


def has_actions_policy(policies: list[list[str]]) -> bool:
    """Returns whether these are the policies of the table of agents' actions: exactly ours."""
    return policies == [_policy(ACTIONS_POLICY_EXPRESSION)]


def _policy(expression: str) -> list[str]:
    """Returns our policy as `_TABLES` shows it: for all commands and roles, permissive."""
    return [POLICY, "*", "true", "{0}", expression, expression]
