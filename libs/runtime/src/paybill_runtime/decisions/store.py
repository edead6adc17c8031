"""Looking at states, and writing them with their facts: one statement each, whatever the size.

Nothing is locked while it is decided. What was looked at is compared when it is written, in the same statement: when
another transaction came in between, PostgreSQL refuses, and whoever decided looks again (optimistic concurrency).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paybill_contracts.envelope import MAX_PAYLOAD_BYTES, Fact, headers_of, subject_of
from paybill_contracts.event import canonical, encode, partition_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import Connection, fetch_rows
from paybill_runtime.decisions.aggregates import AnyStored, Key
from paybill_runtime.decisions.unit_of_work import Loaded, UnitOfWork
from paybill_runtime.errors import LEASE_LOST, FactTooLargeError, LeaseLostError

EffectNames = Callable[[Fact], Iterable[str]]
"""Names of the effects that a fact intends."""
Queue = tuple[int, str]
"""A partition and a tenant: those whose facts wait for one another when one is parked."""

STATE_CHANGED = "40001"
"""The SQLSTATE of a statement that another transaction came before (serialization_failure)."""
_HANDLED, _BLOCKED, _STATES = 0, 1, 2
"""What a row is about that `look` reads; from the last on, which kind of state."""
_OF_MESSAGES = "SELECT 0, event_id::text, 0::bigint, NULL FROM chassis.inbox WHERE event_id = ANY($1::uuid[])"
_OF_QUEUES = (
    "SELECT 1, n.tenant, n.partition::bigint, NULL FROM unnest($2::smallint[], $3::text[]) AS n (partition, tenant) "
    "WHERE EXISTS (SELECT FROM chassis.parked AS p WHERE p.partition = n.partition AND p.tenant = n.tenant)"
)


@dataclass(frozen=True, slots=True)
class HandledBatch:
    """The messages that a transaction handles, and how far their stream was read.

    positions: where each partition has been read to until now; upto, last: where it is read to now, and which message
    is there, so that a stream that was restored from an older copy is told from the one that was read.
    """

    stream: str
    messages: Mapping[str, int]
    positions: Mapping[int, int]
    up_to: int
    last_message: str


@dataclass(frozen=True, slots=True)
class KnownMessages:
    """Which messages were handled before, and in which queues something is parked."""

    handled: set[str]
    blocked: set[Queue]


@dataclass(slots=True)
class Statement:
    """A statement in the making. The same shape makes the same text, so that PostgreSQL plans it once."""

    clauses: list[str] = field(default_factory=list)
    preconditions: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def columns(self, **columns: tuple[str, Sequence[Any]]) -> str:
        """`unnest` of these columns, each a type and its values, as the table `n`, with the row's `place`."""
        arrays = ", ".join(f"{self.value(values)}::{type_}[]" for type_, values in columns.values())
        return f"unnest({arrays}) WITH ORDINALITY AS n ({', '.join(columns)}, place)"

    def value(self, value: Any) -> str:
        """The placeholder of one value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def require(self, rows: str, count: int, sqlstate: str) -> None:
        """Fail with `sqlstate` unless the query `rows` finds so many; they stay as they are until the end."""
        found = f"(SELECT count(*) FROM ({rows}) AS r) = {self.value(count)}::bigint"  # noqa: S608  # only our own text
        self.preconditions.append(f"chassis.insist({found}, {self.value(sqlstate)})")

    def fence(self, leases: Collection[tuple[str, int]]) -> None:
        """Fail, so that LeaseLostError is raised, unless these leases (name, epoch) are ours until the end."""
        if leases:
            names, epochs = zip(*sorted(leases), strict=True)
            claimed = self.columns(name=("text", names), epoch=("bigint", epochs))
            rows = f"SELECT FROM chassis.lease JOIN {claimed} USING (name, epoch) ORDER BY name FOR SHARE OF lease"
            self.require(rows, len(leases), LEASE_LOST)

    def add(self, change: str) -> str:
        """Change something, too; the name of what it returns."""
        name = f"c{len(self.clauses)}"
        self.clauses.append(f"{name} AS ({change})")
        return name

    async def execute(self, connection: Connection) -> None:
        """All of it, or nothing. What was insisted on is looked at first."""
        changes = f"WITH {', '.join(self.clauses)} " if self.clauses else ""
        checks = ", ".join(self.preconditions) or "1"
        await fetch_rows(connection, f"{changes}SELECT {checks}", *self.values)


class Store:
    """The states of one service. `works_of` says which effects a fact intends; they are put down beside it."""

    def __init__(self, states: Sequence[AnyStored], effect_names: EffectNames) -> None:
        self.states: Mapping[str, AnyStored] = {stored.kind: stored for stored in sorted(states, key=lambda s: s.kind)}
        self._effect_names = effect_names

    async def load(
        self,
        connection: Connection,
        unit: UnitOfWork,
        writes: Iterable[Key],
        reads: Iterable[Key] = (),
        messages: Collection[str] = (),
        queues: Collection[Queue] = (),
    ) -> KnownMessages:
        """Load states into `unit`; what is known of these messages and queues."""
        for key in reads:
            unit.states[key] = Loaded(self.states[key.kind], None, 0, 0, writable=False)
        for key in writes:
            unit.states[key] = Loaded(self.states[key.kind], None, 0, 0, writable=True)
        wanted: dict[str, list[str]] = defaultdict(list)
        for kind, id_ in unit.states:
            if "\0" not in id_:  # PostgreSQL cannot hold it, so nothing has such an id
                wanted[kind].append(id_)
        kinds = [kind for kind in self.states if kind in wanted]
        asked, values = [], list[Any]()
        if messages:
            values = [list(messages), *map(list, zip(*queues, strict=True))]
            asked = [_OF_MESSAGES, _OF_QUEUES]
        for number, kind in enumerate(kinds, start=_STATES):
            values.append(wanted[kind])
            table = self.states[kind].table.name  # from our own code, like everything that is put into statements here
            asked.append(
                f"SELECT {number}, id, revision, state::text FROM {table} WHERE id = ANY(${len(values)}::text[])"  # noqa: S608
            )
        known = KnownMessages(set(), set())
        if not asked:
            return known
        for number, id_, revision, state in await fetch_rows(connection, " UNION ALL ".join(asked), *values):
            if number == _HANDLED:
                known.handled.add(id_)
            elif number == _BLOCKED:
                known.blocked.add((revision, id_))
            else:
                loaded = unit.states[Key(kinds[number - _STATES], id_)]
                loaded.state, loaded.revision, loaded.base = loaded.stored.load(state), revision, revision
        return known

    async def write(
        self,
        connection: Connection,
        unit: UnitOfWork,
        leases: Collection[tuple[str, int]] = (),
        handled: HandledBatch | None = None,
        extra_statements: Iterable[Callable[[Statement], None]] = (),
    ) -> None:
        """Write every changed state, the facts, their effects, what was heard, and what `besides` adds; all or nothing.

        held: leases (name, epoch) that have to be ours. Raises LeaseLostError when one is not, a collision (see
        `errors.is_collision`) when a state is not any more as it was looked at, FactTooLargeError.
        """
        statement = Statement()
        statement.fence(leases)
        self._require_unchanged(statement, unit)
        self._save(statement, unit)
        if unit.facts:
            _append(statement, unit.facts)
            self._intend(statement, unit)
        if handled is not None:
            _record_handled(statement, handled)
        for add in extra_statements:
            add(statement)
        await statement.execute(connection)

    def _require_unchanged(self, statement: Statement, unit: UnitOfWork) -> None:
        """Insist that what was looked at and not changed is as it was. What was changed, the outbox compares."""
        same: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for key, loaded in unit.states.items():
            if loaded.revision == loaded.base and loaded.base:
                same[key.kind].append((key.id, loaded.base))
        for kind in sorted(same):
            ids, revisions = zip(*sorted(same[kind]), strict=True)
            looked = statement.columns(id=("text", ids), revision=("bigint", revisions))
            rows = (
                f"SELECT FROM {self.states[kind].table.name} AS t JOIN {looked} USING (id, revision) "
                "ORDER BY id FOR SHARE OF t"
            )
            statement.require(rows, len(ids), STATE_CHANGED)

    def _save(self, statement: Statement, unit: UnitOfWork) -> None:
        changed: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
        for key, loaded in unit.states.items():
            if loaded.revision != loaded.base:
                changed[key.kind].append((key.id, loaded.revision, loaded.stored.document(loaded.state)))
        for kind in sorted(changed):
            ids, revisions, states = zip(*sorted(changed[kind]), strict=True)
            rows = statement.columns(id=("text", ids), revision=("bigint", revisions), state=("text", states))
            statement.add(
                f"INSERT INTO {self.states[kind].table.name} (id, revision, state) "  # noqa: S608
                f"SELECT id, revision, state::jsonb FROM {rows} "
                "ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, state = excluded.state"
            )

    def _intend(self, statement: Statement, unit: UnitOfWork) -> None:
        intended = [(fact, work) for fact in unit.facts for work in self._effect_names(fact)]
        if not intended:
            return
        rows = statement.columns(
            event_id=("uuid", [fact.id for fact, _ in intended]),
            work=("text", [work for _, work in intended]),
            tenant=("text", [fact.event.tenant or "" for fact, _ in intended]),
            partition=("smallint", [partition_of(fact.event.tenant) for fact, _ in intended]),
        )
        statement.add(
            "INSERT INTO chassis.effect (event_id, work, tenant, partition, state, next_at) SELECT event_id, work, "  # noqa: S608
            f"tenant, partition, 'pending', {statement.value(unit.now)}::timestamptz FROM {rows} ORDER BY place"
        )


def _append(statement: Statement, facts: Sequence[Fact]) -> None:
    """Put facts into the outbox, in order. Two decisions on one revision of an aggregate collide here.

    Raises FactTooLargeError: in the outbox such a fact would hold up every other for ever.
    """
    payloads = [encode(fact.event) for fact in facts]
    for fact, payload in zip(facts, payloads, strict=True):
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise FactTooLargeError(
                f"{fact.event.TYPE} would have {len(payload)} bytes; {MAX_PAYLOAD_BYTES} are allowed: send less at once"
            )
    columns = "event_id, aggregate, revision, tenant, subject, headers, payload, recorded_at"
    rows = statement.columns(
        event_id=("uuid", [fact.id for fact in facts]),
        aggregate=("text", [fact.aggregate for fact in facts]),
        revision=("bigint", [fact.revision for fact in facts]),
        tenant=("text", [fact.event.tenant for fact in facts]),
        subject=("text", [subject_of(fact.event) for fact in facts]),
        headers=("text", [canonical(headers_of(fact)).decode() for fact in facts]),
        payload=("bytea", payloads),
        recorded_at=("timestamptz", [fact.time for fact in facts]),
    )
    statement.add(f"INSERT INTO chassis.outbox ({columns}) SELECT {columns} FROM {rows} ORDER BY place")  # noqa: S608


def _record_handled(statement: Statement, heard: HandledBatch) -> None:
    """Count messages as handled; a second copy collides. Move the positions on."""
    if heard.messages:
        rows = statement.columns(
            event_id=("uuid", list(heard.messages)), sequence=("bigint", list(heard.messages.values()))
        )
        statement.add(f"INSERT INTO chassis.inbox (event_id, sequence) SELECT event_id, sequence FROM {rows}")  # noqa: S608
    rows = statement.columns(
        partition=("smallint", list(heard.positions)), sequence=("bigint", list(heard.positions.values()))
    )
    moved = statement.add(
        f"UPDATE chassis.position AS p SET sequence = {statement.value(heard.up_to)}::bigint, "  # noqa: S608
        f"message = {statement.value(heard.last_message)}::uuid FROM {rows} "
        f"WHERE p.stream = {statement.value(heard.stream)} "
        "AND p.partition = n.partition AND p.sequence = n.sequence RETURNING 1"
    )
    # They are not where we left them: another process has read on, or the database was set back.
    statement.require(f"SELECT FROM {moved}", len(heard.positions), LEASE_LOST)


_FENCE = text("SELECT name, epoch FROM chassis.lease WHERE name = ANY(:names) ORDER BY name FOR SHARE")


async def fence(connection: AsyncConnection, held: Mapping[str, int]) -> None:
    """Lock these leases against a change of owner until the transaction ends; raise LeaseLostError if one is lost."""
    rows = await connection.execute(_FENCE, {"names": sorted(held)})
    lost = set(held.items()).difference((row.name, row.epoch) for row in rows)
    if lost:
        raise LeaseLostError(f"another process owns {', '.join(sorted(name for name, _ in lost))} now")
