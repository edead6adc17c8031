"""Logins and groups of tenants, each created, changed and granted by a role that has few members, without a superuser.

PostgreSQL reads all memberships of the role that changes a login or grants a group. The driver's own role would have
one for each tenant. Therefore logins are created by *creators* of at most `per_creator` logins each, and groups by one
*granter* that has nothing else. The driver acts as they do by their functions in a database of its own, because
SET ROLE would read the memberships of every role that the driver could become.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from paybill_provisioner.drivers import namespaces
from paybill_provisioner.drivers.inspection import Login, login_of
from paybill_provisioner.drivers.namespaces import ident, literal
from paybill_provisioner.drivers.server import Connection, TenantServer, in_turn

PER_CREATOR = 100
"""Logins of a creator: to change one of 1,000 takes PostgreSQL 4 ms, one of 100 takes 0.5 ms."""

PER_GROUP = 1000
"""Members of a group: `REVOKE` reads all of them."""

UPGRADE_PAGE = 50
"""Logins of an earlier version that are changed together."""

_LOCK = 4_281_773_102
"""Advisory lock on what this module creates. Tenants cannot connect to the databases in which it is taken."""

_CONCURRENT = 16
"""Logins that one process creates at the same time."""

_LAST_CREATOR = """
SELECT c.rolname::text AS name, (SELECT count(*) FROM pg_auth_members AS m WHERE m.member = c.oid) AS logins
FROM pg_roles AS c WHERE c.rolname >= $1::text::name AND c.rolname < $2::text::name AND c.rolname ~ '_[0-9]+$'
AND NOT c.rolcanlogin ORDER BY c.rolname DESC LIMIT 1
"""
_GROUPS = """
SELECT g.rolname::text AS name, EXISTS (
    SELECT FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.member
    WHERE m.roleid = g.oid AND m.admin_option AND r.rolname = $2) AS is_granted
FROM pg_roles AS g WHERE g.rolname = ANY($1::text[])
"""

_LOGIN = "r.rolname ~ '^[at]_[0-9a-f]{32}'"
# The driver is an administrator of what it created itself.
_EARLIER = f"""
SELECT r.rolname::text AS name FROM pg_roles AS r WHERE {_LOGIN} AND (
    EXISTS (SELECT FROM pg_auth_members AS m WHERE m.member = r.oid AND m.grantor = current_user::regrole)
    OR EXISTS (SELECT FROM pg_auth_members AS m WHERE m.roleid = r.oid AND m.member = current_user::regrole
               AND m.admin_option) AND NOT EXISTS (
        SELECT FROM pg_auth_members AS m JOIN pg_roles AS c ON c.oid = m.member WHERE m.roleid = r.oid
        AND m.admin_option AND starts_with(c.rolname::text, current_user || '_creator_')))
ORDER BY 1 LIMIT $1
"""  # noqa: S608  # constants
_LARGE = f"""
SELECT g.rolname::text AS name FROM pg_roles AS g JOIN pg_auth_members AS m ON m.roleid = g.oid
JOIN pg_roles AS r ON r.oid = m.member WHERE g.rolname ~ '_(members|agents_[a-p]{{6}})$' AND {_LOGIN} AND EXISTS (
    SELECT FROM pg_auth_members AS a JOIN pg_roles AS w ON w.oid = a.member
    WHERE a.roleid = g.oid AND a.admin_option AND w.rolname = $1)
GROUP BY 1 HAVING count(*) > $2 ORDER BY 1 LIMIT 1
"""  # noqa: S608  # constants
_ABOVE = f"""
SELECT r.rolname::text AS name FROM pg_roles AS g JOIN pg_auth_members AS m ON m.roleid = g.oid
JOIN pg_roles AS r ON r.oid = m.member WHERE g.rolname = $1 AND {_LOGIN} ORDER BY 1 OFFSET $2 LIMIT $3
"""  # noqa: S608  # constants
_COUNT = f"""
SELECT count(*) FROM pg_roles AS g JOIN pg_auth_members AS m ON m.roleid = g.oid
JOIN pg_roles AS r ON r.oid = m.member WHERE g.rolname = $1 AND {_LOGIN}
"""  # noqa: S608  # constants
_KINDS = ("members", "writers")
_PART = re.compile(r"(?P<group>(?P<database>.+)_(?:members|writers|agents_[a-p]{6}))(?:_(?P<number>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class _Memberships:
    """Change of a login's groups: those that it joins and leaves, and the part of the groups of one database."""

    join: frozenset[str] = frozenset()
    leave: frozenset[str] = frozenset()
    part: tuple[str, int] | None = None

    def of(self, groups: Iterable[str]) -> frozenset[str]:
        """Returns the groups afterwards. A login is in the same part of all groups of a database."""
        known = [found for each in groups if (found := _PART.fullmatch(each))]
        parts = {found["database"]: int(found["number"] or 1) for found in known}
        if self.part is not None:
            parts[self.part[0]] = self.part[1]
        named = ({found["group"] for found in known} | self.join) - self.leave
        others = {each for each in groups if not _PART.fullmatch(each)}
        return frozenset(others | {_part(each, parts.get(_database(each), 1)) for each in named})


def _database(group: str) -> str:
    found = _PART.fullmatch(group)
    return found["database"] if found else group


def _part(group: str, number: int) -> str:
    return group if number == 1 else f"{group}_{number}"


def _lock_of(role: str) -> int:
    return int.from_bytes(hashlib.sha256(f"login/{role}".encode()).digest()[:8], "big", signed=True)


class TenantRoles:
    """The logins of tenants in `server`, and their groups.

    per_creator: logins that one creator has at most; per_group: members of a group.
    """

    def __init__(self, server: TenantServer, per_creator: int = PER_CREATOR, per_group: int = PER_GROUP) -> None:
        self._server = server
        self._per_creator = per_creator
        self._per_group = per_group
        self._driver = ""
        self._preparing = asyncio.Lock()
        self._groups: set[str] = set()
        self._creator = ""
        self._room = 0
        """Logins that `_creator` gets before its members are counted again; other processes use it, too."""

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Opens a connection to the database with the functions of creators and granter."""
        async with self._preparing:
            if not self._driver:
                self._driver = await self._prepare()
        async with self._server.connection(f"{self._driver}_roles", pooled=True) as connection:
            yield connection

    async def login(self, role: str, own_groups: Iterable[str] = ()) -> Login | None:
        """Returns the login, or None when it does not exist. own_groups: those that it may be a member of."""
        async with self.connection() as connection:
            return await login_of(connection, role, own_groups)

    async def ensure_groups(self, groups: Iterable[str]) -> None:
        """Creates the groups that do not exist; those that the driver created are granted by the granter from now."""
        missing = [name for name in groups if name not in self._groups]
        if not missing:
            return
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            found = {row["name"]: row["is_granted"] for row in await connection.fetch(_GROUPS, missing, self._granter)}
            for name in missing:
                if name not in found:
                    await connection.execute(self._as(self._granter, namespaces.create_group(name)))
                elif not found[name]:
                    await connection.execute(_administered(name, self._granter))
        self._groups.update(missing)

    async def change(
        self, role: str, login: Login | None, attributes: str = "", join: Iterable[str] = (), leave: Iterable[str] = ()
    ) -> Login:
        """Creates the login, or changes it, with its groups, in one transaction; returns it as it is then.

        login: None creates it. A login of an earlier version, which the driver created, gets a creator.
        """
        joined, left = list(join), list(leave)
        await self.ensure_groups([*joined, *left, *(login.earlier_groups if login is not None else ())])
        creator = login.creator if login is not None and login.creator else await self._creator_with_room()
        if login is not None:
            await self._change(role, creator, attributes, _Memberships(frozenset(joined), frozenset(left)))
        else:
            grant = [self._granted(role, joined)] if joined else []
            await self._execute(";\n".join([self._as(creator, f"CREATE ROLE {ident(role)} {attributes}"), *grant]))
        return Login(superuser=False, privileged=False, creator=creator, earlier_groups=())

    async def change_existing(
        self, role: str, attributes: str, join: Iterable[str], leave: Iterable[str]
    ) -> Login | None:
        """Changes a login as `change` does, without knowing it before; returns None when it does not exist."""
        joined, left = frozenset(join), frozenset(leave)
        await self.ensure_groups([*joined, *left])
        login = await self._change(role, "", attributes, _Memberships(joined, left))
        if login is not None and login.is_earlier:
            return await self.change(role, login, attributes, joined, left)
        return login

    async def upgrade(self, page: int = UPGRADE_PAGE) -> bool:
        """Brings some logins of earlier versions to the form of this one; returns True while there may be more.

        They get a creator, and their memberships the granter; those above the limit of a group another part of it.
        """
        async with self.connection() as connection:
            earlier = [row["name"] for row in await connection.fetch(_EARLIER, page)]
            large = await connection.fetchrow(_LARGE, self._granter, self._per_group)
        for role in earlier:
            login = await self.login(role)
            if login is not None:
                await self.change(role, login)
        if earlier or large is None:
            return bool(earlier)
        number, room = await self._part_with_room(large["name"])
        async with self.connection() as connection:
            found = await connection.fetch(_ABOVE, large["name"], self._per_group, min(page, room))
        changed = 0
        for row in found:
            login = await self.login(row["name"])
            if login is not None and login.creator is not None:
                changed += 1
                memberships = _Memberships(part=(_database(large["name"]), number))
                await self._change(row["name"], login.creator, "", memberships)
        # A login that somebody else made has no creator, and stays.
        return changed > 0

    async def _change(self, role: str, creator: str, attributes: str, memberships: "_Memberships") -> Login | None:
        """Changes a login in turn with other changes of it, and returns it as it was: the lock covers what is read.

        creator: for a login of an earlier version; when it is empty, such a login stays as it is.
        """

        async def change() -> Login | None:
            async with self.connection() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock_of(role))
                login = await login_of(connection, role, ())
                if login is not None and (creator or not login.is_earlier):
                    statements = self._statements(role, login, login.creator or creator, attributes, memberships)
                    await connection.execute(";\n".join(["SELECT 1", *statements]))
                return login

        return await in_turn(change)

    def _statements(
        self, role: str, login: Login, creator: str, attributes: str, memberships: "_Memberships"
    ) -> Iterator[str]:
        """Yields the statements that change a login. Only the grantor can revoke a membership."""
        if login.creator is None:
            yield _administered(role, creator)
        before, target = frozenset(login.groups), memberships.of(login.groups)
        if login.earlier_groups:
            yield f"REVOKE {', '.join(map(ident, login.earlier_groups))} FROM {ident(role)}"
        if attributes:
            yield self._as(creator, f"ALTER ROLE {ident(role)} {attributes}")
        granted = before - frozenset(login.earlier_groups)
        if gone := sorted(granted - target):
            yield self._as(self._granter, f"REVOKE {', '.join(map(ident, gone))} FROM {ident(role)}")
        if new := sorted(target - granted):
            yield self._granted(role, new)

    def _granted(self, role: str, groups: Iterable[str]) -> str:
        grant = f"GRANT {', '.join(map(ident, groups))} TO {ident(role)} WITH INHERIT TRUE, SET FALSE"
        return self._as(self._granter, grant)

    async def _part_with_room(self, group: str) -> tuple[int, int]:
        """Returns the number of a further part of a group and its free places; it is made when every other is full.

        A part is a member of the group, so that it has the same privileges without a grant of its own.
        """
        number = 2
        while True:
            async with self.connection() as connection:
                present = await connection.fetchval(_COUNT, f"{group}_{number}")
            if present < self._per_group:
                break
            number += 1
        names = [f"{_database(group)}_{kind}" for kind in _KINDS] if group.endswith("_members") else [group]
        async with self.connection() as connection:
            parts = sorted(row["name"] for row in await connection.fetch(_GROUPS, names, self._granter))
        await self.ensure_groups(parts)
        await self.ensure_groups([f"{each}_{number}" for each in parts])
        for each in parts:
            grant = f"GRANT {ident(each)} TO {ident(f'{each}_{number}')} WITH INHERIT TRUE, SET FALSE"
            await self._execute(self._as(self._granter, grant))
        return number, self._per_group - present

    async def drop(self, role: str, login: Login) -> None:
        """Drops a login that owns nothing and has no privileges but memberships."""
        await self._execute(self._as(_creator(login), f"DROP ROLE {ident(role)}"))

    def membership(self, role: str, login: Login, options: str) -> str:
        """Returns the statement, for this module's database, by which the driver becomes a member of the login.

        options: of the membership, such as `INHERIT FALSE, SET TRUE`.
        """
        return self._as(_creator(login), f"GRANT {ident(role)} TO {ident(self._driver)} WITH {options}")

    @asynccontextmanager
    async def member(self, role: str, login: Login, options: str) -> AsyncIterator[None]:
        """Makes the driver a member of the login until the end of the block."""
        await self._execute(self.membership(role, login, options))
        try:
            yield
        finally:
            await self._execute(self._as(_creator(login), f"REVOKE {ident(role)} FROM {ident(self._driver)}"))

    @property
    def _granter(self) -> str:
        return f"{self._driver}_granter"

    @staticmethod
    def _as(runner: str, statement: str) -> str:
        return f"SELECT roles.{ident(runner)}({literal(statement)})"

    async def _execute(self, statements: str) -> None:
        """Runs statements in one transaction; two changes of one login at the same time take turns."""

        async def change() -> None:
            async with self.connection() as connection:
                await connection.execute(statements)

        await in_turn(change)

    async def _creator_with_room(self) -> str:
        """Returns a creator for one more login. A new one is created before the last one is full."""
        async with self.connection() as connection:
            if self._room < 1:
                self._creator, logins = await self._last_creator(connection)
                if not self._creator or logins >= self._full:
                    self._creator, logins = await self._next_creator(connection)
                self._room = max((self._full - logins) // 8, 1)
            self._room -= 1
            return self._creator

    @property
    def _full(self) -> int:
        """Logins after which a creator gets no new one: those that are created at the same time are not counted."""
        return max(self._per_creator - _CONCURRENT, 1)

    async def _last_creator(self, connection: Connection) -> tuple[str, int]:
        prefix = f"{self._driver}_creator"
        row = await connection.fetchrow(_LAST_CREATOR, f"{prefix}_", f"{prefix}`")
        return (row["name"], row["logins"]) if row else ("", 0)

    async def _next_creator(self, connection: Connection) -> tuple[str, int]:
        """Creates another creator, unless another process did."""
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            last, logins = await self._last_creator(connection)
            if last and logins < self._full:
                return last, logins
            number = int(last.rpartition("_")[2]) + 1 if last else 1
            name = f"{self._driver}_creator_{number:05}"
            await connection.execute(_create_runner(name, self._driver))
            return name, 0

    async def _prepare(self) -> str:
        """Creates the database of the functions, and the granter; returns the driver's role."""
        async with self._server.connection(self._server.maintenance_database, pooled=False) as connection:
            await connection.execute("SET lock_timeout = '60s'")
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
            driver: str = await connection.fetchval("SELECT current_user::text")
            database, granter = f"{driver}_roles", f"{driver}_granter"
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
                await connection.execute(namespaces.create_database(database))
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1 AND datallowconn", database):
                await connection.execute(namespaces.close_to_public(database))
            async with self._server.connection(database, pooled=False) as inside:
                await inside.execute("CREATE SCHEMA IF NOT EXISTS roles")
                if not await inside.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", granter):
                    await inside.execute(_create_runner(granter, driver))
            return driver


def _creator(login: Login) -> str:
    if login.creator is None:
        raise ValueError("a login of an earlier version has no creator before its first change")
    return login.creator


def _administered(role: str, by: str) -> str:
    """Returns the statement by which `by` may change and grant a role that the driver created."""
    return f"GRANT {ident(role)} TO {ident(by)} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"


def _create_runner(name: str, driver: str) -> str:
    """Creates a role that may create roles, and the function by which the driver acts as that role.

    It must be run in one transaction; the driver can become the role until its end.
    """
    role, function = ident(name), f"roles.{ident(name)}(text)"
    return f"""
    CREATE ROLE {role} NOLOGIN NOINHERIT CREATEROLE;
    GRANT {role} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE;
    GRANT USAGE, CREATE ON SCHEMA roles TO {role};
    SET LOCAL ROLE {role};
    CREATE FUNCTION {function} RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS 'BEGIN EXECUTE $1; END';
    REVOKE ALL ON FUNCTION {function} FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION {function} TO {ident(driver)};
    RESET ROLE;
    REVOKE CREATE ON SCHEMA roles FROM {role};
    REVOKE {role} FROM CURRENT_USER;
    """
