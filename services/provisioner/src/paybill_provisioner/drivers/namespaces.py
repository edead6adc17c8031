"""Namespace of a tenant's rows in PostgreSQL, and the statements that create, open or close it. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import Column, Role, Schema, Table
from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access
from paybill_definitions.blueprint_rules import COLUMN_TYPES, TENANT_COLUMN

MAX_NAME_BYTES = 63
"""PostgreSQL truncates longer names without an error, so that two names could become equal."""

TENANT_OF_CURRENT_USER = """(('ten_' || substr(CURRENT_USER::text, 3, 32)) COLLATE "default")"""
"""Tenant id of the current role. It follows from the role's name, which a tenant cannot change.

CURRENT_USER has the collation "C", with which the comparison could not use the index of the key.
"""

POLICY = "own_rows"
POLICY_EXPRESSION = """(tenant_id = (('ten_'::text || substr((CURRENT_USER)::text, 3, 32)) COLLATE "default"))"""
"""The policy's expression, as PostgreSQL shows it."""

AGENT_SCHEMA = "paybill_agent"
ACTIONS = f"{AGENT_SCHEMA}.actions"
"""Table of the actions of tenants' agents, which no tenant can use."""

ACTIONS_POLICY_EXPRESSION = POLICY_EXPRESSION.replace("tenant_id", "tenant")
"""Expression of the policy of that table."""

EARLIER_POLICY_EXPRESSION = "(tenant_id = ('ten_'::text || substr((CURRENT_USER)::text, 3, 32)))"
"""The expression of earlier versions, without the collation."""

_LETTERS = str.maketrans("0123456789", "ghijklmnop")


@dataclass(frozen=True, slots=True)
class DatabaseNamespace:
    """Namespace of a tenant: its rows in a pool, its schema in a bridge, its database in a silo."""

    isolation: Isolation
    database: str
    schema: str
    tables: tuple[Table, ...]
    tenant_column: bool

    @classmethod
    def of(cls, resource: Resource) -> Self:
        """Builds the namespace of a schema. Raises TypeError for another kind."""
        schema = resource.attributes
        if not isinstance(schema, Schema):
            raise TypeError(f"{resource.address} is no schema")
        return cls(
            isolation=resource.isolation,
            database=schema.database,
            schema=schema.name,
            tables=schema.tables,
            tenant_column=schema.tenant_column,
        )

    @property
    def shared(self) -> bool:
        """True when other tenants use the same database."""
        return self.isolation is not Isolation.SILO

    @property
    def connect_group(self) -> str:
        """Group of all tenants of a shared database."""
        return connect_group(self.database)

    @property
    def write_group(self) -> str:
        """Group of the tenants that may write in a pool."""
        return f"{self.database}_writers"


def with_tenant_column(namespace: DatabaseNamespace) -> DatabaseNamespace:
    """Returns the namespace whose tables and keys begin with the tenant's id."""
    return replace(namespace, tenant_column=True)


def connect_group(database: str) -> str:
    """Returns the group of all tenants of a shared database, with CONNECT; in a pool with SELECT, too."""
    return f"{database}_members"


def agents_group(database: str, blueprint: str) -> str:
    """Returns the group of the agents' logins of a shared database whose environments have this blueprint.

    A blueprint's name can be too long for the name of a role. The letters of its hash keep the number of a part apart.
    """
    letters = sha256(blueprint.encode()).hexdigest()[:6].translate(_LETTERS)
    return f"{database}_agents_{letters}"


def erasers_group(database: str) -> str:
    """Returns the group that may delete the rows of agents' actions in a shared database; no login is in it."""
    return f"{database}_erasers"


def groups(isolation: Isolation, database: str) -> tuple[str, ...]:
    """Returns the groups that a database needs.

    Privileges on shared objects are granted to groups and never to tenants: an access list with thousands of entries is
    slow, and two tenants could not be added to it concurrently.
    """
    match isolation:
        case Isolation.POOL:
            return (connect_group(database), f"{database}_writers")
        case Isolation.BRIDGE:
            return (connect_group(database),)
        case Isolation.SILO:
            return ()


def ident(name: str) -> str:
    """Quotes `name` as an SQL identifier. Raises ValueError for a name that PostgreSQL cannot store."""
    if not name or "\x00" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{name[:100]!r} is no PostgreSQL name: 1 to {MAX_NAME_BYTES} bytes, no NUL")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quotes `text` as an SQL string. Raises ValueError for NUL, and for backslashes, which depend on a setting."""
    if "\x00" in text or "\\" in text:
        raise ValueError("a text with NUL or a backslash cannot be quoted")
    return "'" + text.replace("'", "''") + "'"


def create_group(name: str) -> str:
    """Returns the statement for a role that only holds privileges."""
    return f"CREATE ROLE {ident(name)} NOLOGIN NOINHERIT"


TENANT_TEMPLATE = "paybill_tenants"
"""Template of tenants' databases, in which PUBLIC has fewer rights; it is made with the driver's role."""


def create_database(database: str, template: str = "template0") -> str:
    """Returns the statement for a database that accepts no connections yet. It must be run alone."""
    return f"CREATE DATABASE {ident(database)} TEMPLATE {ident(template)} ENCODING 'UTF8' ALLOW_CONNECTIONS false"


def close_to_public(database: str) -> str:
    """Revokes PUBLIC's default privileges on a new database, then allows connections."""
    name = ident(database)
    return f"""
    REVOKE ALL ON DATABASE {name} FROM PUBLIC;
    ALTER DATABASE {name} SET search_path = "$user", product;
    ALTER DATABASE {name} ALLOW_CONNECTIONS true;
    """


def close_public_schema() -> str:
    """Revokes PUBLIC's default privileges on the schema `public`."""
    return "REVOKE ALL ON SCHEMA public FROM PUBLIC"


def grant_connect(database: str) -> str:
    """Grants CONNECT to the group. As the last statement of the set-up it also marks the database as complete."""
    return f"GRANT CONNECT ON DATABASE {ident(database)} TO {ident(connect_group(database))}"


def drop_database(database: str) -> str:
    """Drops a database, and ends its sessions. It must be run alone."""
    return f"DROP DATABASE IF EXISTS {ident(database)} WITH (FORCE)"


def create_schema(
    namespace: DatabaseNamespace, tables: Mapping[str, set[str]], not_null: Mapping[str, set[str]]
) -> str:
    """Creates the schema, and the tables and columns that are not in `tables`.

    not_null: columns of `tables` that refuse NULL; they accept it when the blueprint does not require them any more.
    """
    schema = ident(namespace.schema)
    parts = [f"CREATE SCHEMA IF NOT EXISTS {schema}"]
    if namespace.isolation is Isolation.POOL:
        parts.append(f"GRANT USAGE ON SCHEMA {schema} TO {ident(namespace.connect_group)}")
    for table in namespace.tables:
        name = f"{schema}.{ident(table.name)}"
        if table.name not in tables:
            parts += create_table(namespace, table, name)
            continue
        missing = [column for column in table.columns if column.name not in tables[table.name]]
        parts += [f"ALTER TABLE {name} ADD COLUMN {_column(column)}" for column in missing]
        relaxed = sorted(optional_columns(table) & not_null[table.name])
        parts += [f"ALTER TABLE {name} ALTER COLUMN {ident(column)} DROP NOT NULL" for column in relaxed]
    return ";\n".join(parts)


def create_table(namespace: DatabaseNamespace, table: Table, name: str) -> list[str]:
    """Creates a table with the same columns and the same key in every placement."""
    key = [ident(table.columns[0].name)]
    columns = [_column(column) for column in table.columns]
    if namespace.tenant_column:
        key.insert(0, ident(TENANT_COLUMN))
        columns.insert(0, f"{ident(TENANT_COLUMN)} text NOT NULL DEFAULT {TENANT_OF_CURRENT_USER}")
    create = f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)}))"
    return [create, *(_row_level_security(namespace, name) if namespace.tenant_column else ())]


def _row_level_security(namespace: DatabaseNamespace, name: str) -> list[str]:
    """Forces the policy, which otherwise would not apply to the owner; privileges are granted only after it.

    A bridge and a silo have it, too, so that an application sees no difference after a move.
    """
    own = f"{ident(TENANT_COLUMN)} = {TENANT_OF_CURRENT_USER}"
    policy = [
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {POLICY} ON {name} USING ({own}) WITH CHECK ({own})",
    ]
    if namespace.isolation is not Isolation.POOL:
        return policy
    return [
        *policy,
        f"GRANT SELECT ON {name} TO {ident(namespace.connect_group)}",
        f"GRANT INSERT, UPDATE, DELETE ON {name} TO {ident(namespace.write_group)}",
    ]


def use_index(namespace: DatabaseNamespace, tables: Iterable[str]) -> str:
    """Returns the statements that give policies and defaults of an earlier version the collation of the key."""
    own = f"{ident(TENANT_COLUMN)} = {TENANT_OF_CURRENT_USER}"
    names = [f"{ident(namespace.schema)}.{ident(table)}" for table in sorted(tables)]
    return ";\n".join(
        f"ALTER POLICY {POLICY} ON {name} USING ({own}) WITH CHECK ({own});\n"
        f"ALTER TABLE {name} ALTER COLUMN {ident(TENANT_COLUMN)} SET DEFAULT {TENANT_OF_CURRENT_USER}"
        for name in names
    )


def _column(column: Column) -> str:
    if column.type not in COLUMN_TYPES:
        raise ValueError(f"{column.type[:100]!r} is no column type of a blueprint")
    return f"{ident(column.name)} {column.type}{' NOT NULL' if column.required else ''}"


def optional_columns(table: Table) -> set[str]:
    """Returns the columns that accept NULL."""
    return {column.name for column in table.columns[1:] if not column.required}


def role_attributes(role: Role, access: Access | None, verifier: str | None) -> str:
    """Returns the attributes of a login. access, verifier of its password: None keeps those that it has."""
    login = f" {login_attribute(access)}" if access is not None else ""
    password = f" PASSWORD {literal(verifier)}" if verifier is not None else ""
    return f"NOINHERIT{login} CONNECTION LIMIT {role.connection_limit:d}{password}"


def password_attribute(verifier: str) -> str:
    """Returns the attribute that changes the password alone."""
    return f"PASSWORD {literal(verifier)}"


def login_attribute(access: Access) -> str:
    """Returns the attribute that opens or closes a login."""
    return "NOLOGIN" if access is Access.CLOSED else "LOGIN"


def memberships(namespace: DatabaseNamespace, access: Access | None) -> tuple[list[str], list[str]]:
    """Returns the groups that a login with this access is in, and those that it is not in. access: None keeps them."""
    every = groups(namespace.isolation, namespace.database)
    if access is None:
        return list(every[:1]), []
    if access is Access.OPEN:
        return list(every), []
    return list(every[:1]), list(every[1:])


def privileges(namespace: DatabaseNamespace, role: str, access: Access | None) -> str:
    """Returns the statements for the privileges of a login on its own schema; empty in a pool, which has groups.

    Write privileges are revoked, because a tenant could change the setting default_transaction_read_only.
    access: None keeps them.
    """
    if namespace.isolation is Isolation.POOL:
        return ""
    name, schema = ident(role), ident(namespace.schema)
    parts = [] if namespace.shared else [f"GRANT CONNECT ON DATABASE {ident(namespace.database)} TO {name}"]
    parts.append(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
    parts.append(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}")
    if access is not None:
        verb, preposition = ("GRANT", "TO") if access is Access.OPEN else ("REVOKE", "FROM")
        parts.append(f"{verb} INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} {preposition} {name}")
    return ";\n".join(parts)


def drop_owned(role: str) -> str:
    """Drops the privileges of a login, and what it owns, in the connected database. The driver inherits them."""
    return f"DROP OWNED BY {ident(role)}"


def row_deleter(role: str) -> str:
    """Returns the name of the role that deletes the rows of a login in a pool: the policy shows it the same rows.

    The login itself may be deleted already, or be in use.
    """
    return f"{role[:34]}_rows"


def become(role: str) -> str:
    """Sets the current role until the end of the transaction."""
    return f"SET LOCAL ROLE {ident(role)}"


def delete_rows(namespace: DatabaseNamespace, tables: Iterable[str]) -> str:
    """Returns the statements that delete all rows that the current role sees."""
    schema = ident(namespace.schema)
    return ";\n".join(f"DELETE FROM {schema}.{ident(table)}" for table in sorted(tables))  # noqa: S608  # quoted names


def has_rows(namespace: DatabaseNamespace, table: str) -> str:
    """Returns the query for any row of a table that the current role sees."""
    return f"SELECT EXISTS (SELECT FROM {ident(namespace.schema)}.{ident(table)})"  # noqa: S608  # quoted names


def drop_schema(namespace: DatabaseNamespace) -> str:
    """Drops a tenant's own schema with everything in it."""
    return f"DROP SCHEMA IF EXISTS {ident(namespace.schema)} CASCADE"
