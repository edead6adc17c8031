"""Port to tenants' databases: executes prepared statements of steps, and claims the keys of unknown outcomes.

Only `fetch` of asyncpg is used, which prepares its text and refuses several statements (docs/decisions/0043). Codes
leave this module, and never a text of PostgreSQL, because it names tables, constraints and keys.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
from paybill_contracts.agent_bundles import AgentResource, Scalar, Verb
from paybill_runtime.security.secrets import Secrets

from paybill_agent_gateway.domain.columns import ValueRefusedError, canonical, native, needs_conversion
from paybill_agent_gateway.effects.changed_tables import FIRE_DEFERRED, Counts, changed_beside, counts, settled_counts
from paybill_agent_gateway.effects.connections import Connection, Connections, DatabaseUnavailableError, Endpoint, Place
from paybill_agent_gateway.effects.refusal_codes import DATABASE_UNAVAILABLE, VALUE_REFUSED, code_of
from paybill_agent_gateway.effects.shapes import SHAPES, Shapes, drift, shapes_of
from paybill_agent_gateway.statements import (
    ANSWERED,
    CLAIM,
    DIGEST,
    IMAGE,
    MAX_CREATED,
    RESOURCE_DRIFTED,
    ROWS_CHANGED,
    RUN,
    SEQ,
    TOO_MANY_ROWS,
    Statement,
)

_Result = TypeVar("_Result")

Values: TypeAlias = Mapping[str, Scalar | None]
"""Values of a statement by the names of its parameters, `where.<column>` and `set.<column>`, in canonical form."""
Fields: TypeAlias = dict[str, Scalar | None]

SHAPES_TRUSTED_S: Final = 30.0
PROBE: Final = "SELECT 1"
PROBE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ActionKey:
    """Key of an action in the tenant's database, and the digest of its call."""

    run: str
    seq: int
    digest: str


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row before and after a write; None where it does not exist."""

    before: Fields | None
    after: Fields | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that were read."""

    rows: tuple[Fields, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows that a write changed, or would change. image: digest of what it relies on, for the write that is approved.

    These are all rows before, and other_rows: numbers of rows that triggers and referential actions change, by table.
    """

    rows: tuple[RowChange, ...]
    image: str
    other_rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing changed, and nothing will. code: stable."""

    code: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """The action's key exists: it was done or voided before, and nothing changed now. digest: of the earlier call."""

    voided: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The connection was lost or too slow after the statement was sent: `claim` settles it."""


@dataclass(frozen=True, slots=True)
class Voided:
    """The key is claimed: nothing changed, and a late statement changes nothing."""


@dataclass(frozen=True, slots=True)
class Done:
    """The action was done before the claim. digest: of its call."""

    digest: str


class _RefusedError(Exception):
    """Ends a transaction that must be rolled back."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Check:
    """Limits of a write that changes other tables. limit: of rows of all tables; image: that was approved."""

    schema: str
    limit: int
    image: str | None = None

    def counted(self, statement: Statement, found: Changed, before: Counts, after: Counts) -> Changed:
        """Returns a change with the rows of other tables. Raises _RefusedError."""
        others = changed_beside(statement.resource, self.schema, len(found.rows), before, after)
        if others is None:
            raise _RefusedError(RESOURCE_DRIFTED)
        if len(found.rows) + sum(others.values()) > self.limit:
            raise _RefusedError(TOO_MANY_ROWS)
        counted = replace(found, image=f"{found.image} {json.dumps(others)}", other_rows=others)
        if self.image is not None and self.image != counted.image:
            raise _RefusedError(ROWS_CHANGED)
        return counted


class TenantDatabases:
    """Executes statements with the agents' logins.

    monotonic: seconds of a clock that never goes back; shapes of tables are trusted for 30 of them.
    """

    def __init__(self, secrets: Secrets, monotonic: Callable[[], float], *, tls: str = "prefer") -> None:
        self._connections = Connections(secrets, tls=tls)
        self._monotonic = monotonic
        self._shapes: dict[Place, tuple[float, Shapes]] = {}

    async def require(self, endpoint: Endpoint) -> Refused | None:
        """Returns why no statement can be sent now: call it before an intent is recorded.

        A round trip finds a connection that was lost unnoticed: with an intent, its outcome would be unknown.
        """

        async def probe(connection: Connection) -> None:
            await connection.fetch(PROBE, timeout=PROBE_TIMEOUT_S)

        return await self._idempotent(endpoint, probe)

    async def read(self, endpoint: Endpoint, statement: Statement, values: Values) -> Rows | Refused:
        """Reads rows, in canonical form."""

        async def run(connection: Connection) -> Rows | Refused:
            arguments = _arguments(statement, values)
            convert = [(each.name, each.type) for each in statement.columns if needs_conversion(each.type)]
            try:
                rows: list[Fields] = [dict(each) for each in await connection.fetch(statement.sql, *arguments)]
            except (OverflowError, ValueError):
                return Refused(VALUE_REFUSED)  # a time that Python cannot represent
            for row in rows:
                for name, type_ in convert:
                    row[name] = canonical(type_, row[name])
            return Rows(tuple(rows))

        if refused := await self._drifted(endpoint, statement):
            return refused
        return await self._idempotent(endpoint, run)

    async def write(
        self,
        endpoint: Endpoint,
        statement: Statement,
        key: ActionKey,
        values: Values,
        image: str | None = None,
        *,
        rows_left: int = MAX_CREATED,
    ) -> Changed | Refused | Repeated | Unknown:
        """Changes rows and records the action, or neither. image: of the approved preview; None without an approval.

        rows_left: maximum of rows of all tables, beside the statement's own.
        """

        async def run(connection: Connection) -> Changed | Refused | Repeated:
            arguments = _arguments(statement, values, key, image and image.partition(" ")[0])
            if statement.resource.also_changes:
                check = _Check(endpoint.schema, min(statement.limit, rows_left), image)
                return await _in_transaction(connection, statement, arguments, key, check, commit=True)
            return await _changed(connection, statement, arguments, key)

        if refused := await self._drifted(endpoint, statement):
            return refused
        return await self._within(endpoint, run)

    async def preview(
        self, endpoint: Endpoint, statement: Statement, key: ActionKey, values: Values, *, rows_left: int = MAX_CREATED
    ) -> Changed | Refused | Repeated:
        """Returns what `write` would change: the same statement, rolled back."""

        async def run(connection: Connection) -> Changed | Refused | Repeated:
            arguments = _arguments(statement, values, key)
            check = _Check(endpoint.schema, min(statement.limit, rows_left))
            return await _in_transaction(connection, statement, arguments, key, check, commit=False)

        if refused := await self._drifted(endpoint, statement):
            return refused
        return await self._idempotent(endpoint, run)

    async def claim(self, endpoint: Endpoint, run: str, seq: int) -> Voided | Done | Refused:
        """Settles an unknown outcome: inserts a tombstone under the key, or finds what was inserted first.

        Refused leaves the outcome unknown: claim again.
        """

        async def claim(connection: Connection) -> Voided | Done:
            if await connection.fetch(CLAIM, run, seq):
                return Voided()
            repeated = await _answered(connection, run, seq)
            return Voided() if repeated.voided else Done(repeated.digest)

        return await self._idempotent(endpoint, claim)

    async def drift(
        self, endpoint: Endpoint, verbs: Iterable[tuple[AgentResource, frozenset[Verb]]]
    ) -> dict[str, list[str]] | Refused:
        """Returns the differences of live tables from resources, by table; empty without any.

        verbs: of the steps on each resource. Later statements are decided on what is found here.
        """

        async def run(connection: Connection) -> dict[str, list[str]]:
            shapes = await self._read_shapes(connection, endpoint)
            found = {resource.name: drift(resource, shapes, used) for resource, used in verbs}
            return {name: differences for name, differences in found.items() if differences}

        return await self._idempotent(endpoint, run)

    def close(self) -> None:
        """Closes all connections."""
        self._connections.close()

    async def _idempotent(
        self, endpoint: Endpoint, run: Callable[[Connection], Awaitable[_Result]]
    ) -> _Result | Refused:
        """Runs a block that may run twice: once more, with a new connection, when its connection was lost."""
        found = await self._within(endpoint, run)
        if isinstance(found, Unknown):
            self._connections.close_free(endpoint.tenant_id)
            found = await self._within(endpoint, run)
        return Refused(DATABASE_UNAVAILABLE) if isinstance(found, Unknown) else found

    async def _within(
        self, endpoint: Endpoint, run: Callable[[Connection], Awaitable[_Result]]
    ) -> _Result | Refused | Unknown:
        """Runs a block on a connection, and returns a code or Unknown for whatever it raises.

        An error of PostgreSQL says that nothing changed. A lost connection, a timeout and a fatal error say nothing.
        asyncpg reports a connection that was lost inside an answer as an error of its own client.
        """
        try:
            async with self._connections.connection(endpoint) as connection:
                try:
                    return await run(connection)
                except asyncpg.PostgresError as error:
                    if error.severity_en != "ERROR":
                        raise
                    return Refused(code_of(error.sqlstate))
        except (DatabaseUnavailableError, ValueRefusedError) as error:
            return Refused(error.code)
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
            TimeoutError,
        ):
            return Unknown()

    async def _drifted(self, endpoint: Endpoint, statement: Statement) -> Refused | None:
        """Refuses a statement on a table that differs from its resource. Tenants of a pool share the check."""
        now = self._monotonic()
        checked, shapes = self._shapes.get(endpoint.place, (now - SHAPES_TRUSTED_S, {}))
        if now - checked >= SHAPES_TRUSTED_S:
            found = await self._idempotent(endpoint, lambda connection: self._read_shapes(connection, endpoint))
            if isinstance(found, Refused):
                return found
            shapes = found
        return Refused(RESOURCE_DRIFTED) if drift(statement.resource, shapes, (statement.verb,)) else None

    async def _read_shapes(self, connection: Connection, endpoint: Endpoint) -> Shapes:
        now = self._monotonic()
        shapes = shapes_of(await connection.fetch(SHAPES, endpoint.schema))
        self._shapes[endpoint.place] = (now, shapes)
        return shapes


def _arguments(
    statement: Statement, values: Values, key: ActionKey | None = None, image: str | None = None
) -> list[Any]:
    own: dict[str, Any] = {RUN: key.run, SEQ: key.seq, DIGEST: key.digest, IMAGE: image} if key else {}
    return [
        each.value
        if each.name is None
        else native(each.type, own[each.name] if each.name in own else values[each.name])
        for each in statement.parameters
    ]


async def _changed(
    connection: Connection, statement: Statement, arguments: list[Any], key: ActionKey
) -> Changed | Repeated:
    (row,) = await connection.fetch(statement.sql, *arguments)
    if not row["acted"]:
        return await _answered(connection, key.run, key.seq)
    return Changed(_changes(statement, row["before"], row["after"]), row["image"])


async def _in_transaction(
    connection: Connection,
    statement: Statement,
    arguments: list[Any],
    key: ActionKey,
    check: _Check,
    *,
    commit: bool,
) -> Changed | Refused | Repeated:
    """Runs a write in a transaction: rolled back for a preview, and when another table or too many rows changed.

    BEGIN and COMMIT are prepared like every statement. Deferred triggers and constraints are executed before the count,
    and in a preview: COMMIT would execute them after it.
    """
    await connection.fetch("BEGIN")
    try:
        others = statement.resource.also_changes
        before = await counts(connection) if others else {}
        found = await _changed(connection, statement, arguments, key)
        if others and isinstance(found, Changed):
            found = check.counted(statement, found, before, await settled_counts(connection))
        elif not commit:
            await connection.fetch(FIRE_DEFERRED)
    except _RefusedError as refused:
        await connection.fetch("ROLLBACK")
        return Refused(refused.code)
    except asyncpg.PostgresError as error:
        if error.severity_en == "ERROR":
            await connection.fetch("ROLLBACK")
        raise
    await connection.fetch("COMMIT" if commit else "ROLLBACK")
    return found


async def _answered(connection: Connection, run: str, seq: int) -> Repeated:
    ((outcome, digest),) = await connection.fetch(ANSWERED, run, seq)
    return Repeated(voided=outcome == "void", digest=digest)


def _changes(statement: Statement, before: str | None, after: str | None) -> tuple[RowChange, ...]:
    """Returns the rows as pairs. An update returns its key as first column and in both."""
    old, new = (_fields(statement, each) for each in (before, after))
    if statement.verb is not Verb.UPDATE:
        return tuple([RowChange(each, None) for each in old] + [RowChange(None, each) for each in new])
    key = statement.columns[0].name
    later = {row[key]: row for row in new}
    return tuple(RowChange(row, later.get(row[key])) for row in old)


def _fields(statement: Statement, rows: str | None) -> list[Fields]:
    found = json.loads(rows) if rows else []
    return [{each.name: canonical(each.type, row[each.name]) for each in statement.columns} for row in found]
