"""Where a tenant's rows are in PostgreSQL, and every statement that makes, opens or closes such a place. No I/O."""

from dataclasses import dataclass
from typing import Self

from paybill_contracts.placement import Isolation
from paybill_contracts.provisioner import Access

from paybill_provisioner.domain.blueprints import COLUMN_TYPES, TENANT_COLUMN
from paybill_provisioner.domain.environments import Environment
from paybill_provisioner.domain.graph import TABLE_PREFIX, Kind

MAX_NAME_BYTES = 63
"""PostgreSQL cuts longer names without an error, and two that are cut alike would be one."""

TENANT_OF_CURRENT_USER = "('ten_' || substr(CURRENT_USER::text, 3, 32))"
"""Whose rows the current role sees. The mapping is the role's name: no setting and no row that a tenant could write."""

POLICY = "own_rows"


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table of the customers' product: columns as (name, type), the key first."""

    name: str
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Space:
    """A tenant's place: in a pool the rows are its own, in a bridge the schema, in a silo the database."""

    isolation: Isolation
    database: str
    schema: str
    tables: tuple[TableShape, ...]
    role: str
    connection_limit: int

    @classmethod
    def of(cls, environment: Environment) -> Self:
        """The place that the environment's resources describe."""
        resources = {resource.kind: resource for resource in environment.resources.values()}
        schema, role = resources[Kind.SCHEMA], resources[Kind.ROLE]
        return cls(
            isolation=schema.isolation,
            database=schema.properties["database"],
            schema=schema.properties["name"],
            tables=tuple(
                _shape(name.removeprefix(TABLE_PREFIX), columns)
                for name, columns in sorted(schema.properties.items())
                if name.startswith(TABLE_PREFIX)
            ),
            role=role.properties["name"],
            connection_limit=int(role.properties["connection-limit"]),
        )

    @property
    def shared(self) -> bool:
        """Whether other tenants are in the same database."""
        return self.isolation is not Isolation.SILO

    @property
    def members(self) -> str:
        """The group of all who may enter a shared database; in a pool they may read there too."""
        return f"{self.database}_members"

    @property
    def writers(self) -> str:
        """The group of all who may write in a pool."""
        return f"{self.database}_writers"

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the database needs.

        Rights on what is shared are granted to groups and never to each tenant: a list of rights with thousands of
        entries is slow for everybody, and two tenants could not be added to it at the same time.
        """
        match self.isolation:
            case Isolation.POOL:
                return (self.members, self.writers)
            case Isolation.BRIDGE:
                return (self.members,)
            case Isolation.SILO:
                return ()


def _shape(name: str, columns: str) -> TableShape:
    pairs = [column.split(" ") for column in columns.split(", ")]
    return TableShape(name, tuple((column, type_) for column, type_ in pairs))


def ident(name: str) -> str:
    """`name` as an SQL identifier, whatever is in it. Raises ValueError for what PostgreSQL cannot hold."""
    if not name or "\x00" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{name[:100]!r} is no name for PostgreSQL: 1 to {MAX_NAME_BYTES} bytes, no NUL")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string. Raises ValueError for NUL and for backslashes, whose meaning is a setting's."""
    if "\x00" in text or "\\" in text:
        raise ValueError("a text with NUL or a backslash is not put into a statement")
    return "'" + text.replace("'", "''") + "'"


def create_group(name: str) -> str:
    """A role that only holds rights."""
    return f"CREATE ROLE {ident(name)} NOLOGIN NOINHERIT"


def create_database(database: str) -> str:
    """Nobody gets in before the rights are set. Must be a statement of its own."""
    return f"CREATE DATABASE {ident(database)} TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false"


def close_to_public(database: str) -> str:
    """Take from everybody what PostgreSQL gives to everybody in a new database, then let it be entered."""
    name = ident(database)
    return f"""
    REVOKE ALL ON DATABASE {name} FROM PUBLIC;
    ALTER DATABASE {name} SET search_path = "$user", product;
    ALTER DATABASE {name} ALLOW_CONNECTIONS true;
    """


def close_public_schema() -> str:
    """The same for the schema that every new database has."""
    return "REVOKE ALL ON SCHEMA public FROM PUBLIC"


def admit_members(space: Space) -> str:
    """Let the group into the shared database; the last thing that is done to it, so it says that all else is."""
    return f"GRANT CONNECT ON DATABASE {ident(space.database)} TO {ident(space.members)}"


def make_schema(space: Space, there: dict[str, set[str]]) -> str:
    """The schema, and of its tables and columns those that are not `there`."""
    schema = ident(space.schema)
    parts = [f"CREATE SCHEMA IF NOT EXISTS {schema}"]
    if space.isolation is Isolation.POOL:
        parts.append(f"GRANT USAGE ON SCHEMA {schema} TO {ident(space.members)}")
    for table in space.tables:
        name = f"{schema}.{ident(table.name)}"
        if table.name not in there:
            parts += _create_table(space, table, name)
            continue
        missing = [pair for pair in table.columns if pair[0] not in there[table.name]]
        parts += [f"ALTER TABLE {name} ADD COLUMN {_column(*pair)}" for pair in missing]
    return ";\n".join(parts)


def _create_table(space: Space, table: TableShape, name: str) -> list[str]:
    key = [ident(table.columns[0][0])]
    columns = [_column(*pair) for pair in table.columns]
    if space.isolation is Isolation.POOL:
        key.insert(0, ident(TENANT_COLUMN))
        columns.insert(0, f"{ident(TENANT_COLUMN)} text NOT NULL DEFAULT {TENANT_OF_CURRENT_USER}")
    create = f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)}))"
    return [create, *(_walls(space, name) if space.isolation is Isolation.POOL else ())]


def _walls(space: Space, name: str) -> list[str]:
    """Forced, because otherwise the owner is above the policy; the rights come after it, never before."""
    own = f"{ident(TENANT_COLUMN)} = {TENANT_OF_CURRENT_USER}"
    return [
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {POLICY} ON {name} USING ({own}) WITH CHECK ({own})",
        f"GRANT SELECT ON {name} TO {ident(space.members)}",
        f"GRANT INSERT, UPDATE, DELETE ON {name} TO {ident(space.writers)}",
    ]


def _column(name: str, type_: str) -> str:
    if type_ not in COLUMN_TYPES:
        raise ValueError(f"{type_[:100]!r} is no type of a blueprint")
    return f"{ident(name)} {type_}"


def make_role(space: Space, access: Access, *, exists: bool, verifier: str) -> str:
    """The tenant's role with all that `access` lets it do; in few statements, for each costs the server a millisecond.

    A membership is inherited but cannot be switched to with SET ROLE: the current user stays the tenant.
    """
    role, writes = ident(space.role), access is Access.OPEN
    verb, limit = "ALTER" if exists else "CREATE", f"CONNECTION LIMIT {space.connection_limit:d}"
    parts = [f"{verb} ROLE {role} NOINHERIT {_login(access)} {limit} PASSWORD {literal(verifier)}"]
    if space.isolation is Isolation.POOL:
        groups = [space.members, space.writers] if writes else [space.members]
        parts.append(f"GRANT {', '.join(map(ident, groups))} TO {role} WITH INHERIT TRUE, SET FALSE")
    else:
        if space.shared:
            parts.append(f"GRANT {ident(space.members)} TO {role} WITH INHERIT TRUE, SET FALSE")
        else:
            parts.append(f"GRANT CONNECT ON DATABASE {ident(space.database)} TO {role}")
        schema = ident(space.schema)
        rights = "SELECT, INSERT, UPDATE, DELETE" if writes else "SELECT"
        parts.append(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        parts.append(f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {role}")
    if exists and not writes:
        parts.append(_may_write(space, allowed=False))
    return ";\n".join(parts)


def set_access(space: Space, access: Access) -> str:
    """Bring `access` about, whatever it was before."""
    return f"ALTER ROLE {ident(space.role)} {_login(access)};\n{_may_write(space, allowed=access is Access.OPEN)}"


def _login(access: Access) -> str:
    return "NOLOGIN" if access is Access.CLOSED else "LOGIN"


def _may_write(space: Space, *, allowed: bool) -> str:
    """Read-only takes the right to write away; default_transaction_read_only is a setting that a tenant can change."""
    role = ident(space.role)
    verb, preposition = ("GRANT", "TO") if allowed else ("REVOKE", "FROM")
    if space.isolation is Isolation.POOL:
        option = " WITH INHERIT TRUE, SET FALSE" if allowed else ""
        return f"{verb} {ident(space.writers)} {preposition} {role}{option}"
    return f"{verb} INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {ident(space.schema)} {preposition} {role}"
