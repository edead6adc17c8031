"""Reading states under lock, and writing them out with their facts: one statement a table, whatever the size."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from paybill_contracts.envelope import MAX_PAYLOAD_BYTES, Fact, headers_of, subject_of
from paybill_contracts.event import canonical, encode, partition_of
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.errors import FactTooLargeError, LeaseLostError
from paybill_runtime.state import AnyStored, Key
from paybill_runtime.unit import Loaded, Unit

WorksOf = Callable[[Fact], Iterable[str]]
"""Names of the effects that a fact intends."""


class Store:
    """The states of one service. `works_of` says which effects a fact intends; they are put down beside it."""

    def __init__(self, states: Sequence[AnyStored], works_of: WorksOf) -> None:
        self.states: Mapping[str, AnyStored] = {stored.kind: stored for stored in states}
        self._works_of = works_of
        self._select = {
            kind: "SELECT id, revision, state::text AS state "  # noqa: S608  # the table's name is from our own code
            f"FROM {stored.table.name} WHERE id = ANY(:ids) ORDER BY id"
            for kind, stored in self.states.items()
        }
        self._upsert = {
            kind: text(
                f"INSERT INTO {stored.table.name} AS t (id, revision, state) "  # noqa: S608  # as above
                "SELECT n.id, n.revision, n.state::jsonb FROM unnest(CAST(:ids AS text[]), "
                "CAST(:revisions AS bigint[]), CAST(:states AS text[])) AS n (id, revision, state) "
                "ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, state = excluded.state"
            )
            for kind, stored in self.states.items()
        }

    async def load(self, connection: AsyncConnection, unit: Unit, writes: Iterable[Key], reads: Iterable[Key]) -> None:
        """Lock and load into `unit`, in the order of kinds and ids, which is the same on every path."""
        wanted: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
        for key in writes:
            wanted[key.kind][0].add(key.id)
        for key in reads:
            wanted[key.kind][1].add(key.id)
        for kind in sorted(wanted):
            writing, reading = wanted[kind]
            await self._load(connection, unit, kind, writing, "FOR UPDATE", writable=True)
            await self._load(connection, unit, kind, reading - writing, "FOR SHARE", writable=False)

    async def _load(
        self, connection: AsyncConnection, unit: Unit, kind: str, ids: set[str], lock: str, *, writable: bool
    ) -> None:
        stored = self.states[kind]
        for id_ in ids:
            unit.states[Key(kind, id_)] = Loaded(stored, None, 0, 0, writable)
        # PostgreSQL cannot hold NUL, so nothing has such an id; asking would fail whoever shares this transaction.
        possible = sorted(id_ for id_ in ids if "\0" not in id_)
        if not possible:
            return
        rows = await connection.execute(text(f"{self._select[kind]} {lock}"), {"ids": possible})
        for row in rows:
            unit.states[Key(kind, row.id)] = Loaded(
                stored, stored.load(row.state), row.revision, row.revision, writable
            )

    async def save(self, connection: AsyncConnection, unit: Unit) -> None:
        """Write every changed state, the facts, and the effects that they intend."""
        changed: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
        for key, loaded in unit.states.items():
            if loaded.revision != loaded.base:
                changed[key.kind].append((key.id, loaded.revision, loaded.stored.dump(loaded.state)))
        for kind in sorted(changed):
            ids, revisions, states = zip(*sorted(changed[kind]), strict=True)
            await connection.execute(
                self._upsert[kind], {"ids": list(ids), "revisions": list(revisions), "states": list(states)}
            )
        if unit.facts:
            await append(connection, unit.facts)
            await self._intend(connection, unit.facts, unit.now)

    async def _intend(self, connection: AsyncConnection, facts: Sequence[Fact], now: datetime) -> None:
        intended = [(fact, work) for fact in facts for work in self._works_of(fact)]
        if intended:
            await connection.execute(
                _INTEND,
                {
                    "ids": [UUID(fact.id) for fact, _ in intended],
                    "works": [work for _, work in intended],
                    "tenants": [fact.event.tenant or "" for fact, _ in intended],
                    "partitions": [partition_of(fact.event.tenant) for fact, _ in intended],
                    "now": now,
                },
            )


_INTEND = text(
    "INSERT INTO chassis.effect (event_id, work, tenant, partition, state, next_at) "
    "SELECT n.id, n.work, n.tenant, n.partition, 'pending', :now FROM unnest(CAST(:ids AS uuid[]), "
    "CAST(:works AS text[]), CAST(:tenants AS text[]), CAST(:partitions AS smallint[])) "
    "WITH ORDINALITY AS n (id, work, tenant, partition, place) ORDER BY n.place"
)

_APPEND = text(
    "INSERT INTO chassis.outbox (event_id, aggregate, revision, tenant, subject, headers, payload, recorded_at) "
    "SELECT n.id, n.aggregate, n.revision, n.tenant, n.subject, n.headers, n.payload, n.recorded_at FROM unnest("
    "CAST(:ids AS uuid[]), CAST(:aggregates AS text[]), CAST(:revisions AS bigint[]), CAST(:tenants AS text[]), "
    "CAST(:subjects AS text[]), CAST(:headers AS text[]), CAST(:payloads AS bytea[]), CAST(:times AS timestamptz[])) "
    "WITH ORDINALITY AS n (id, aggregate, revision, tenant, subject, headers, payload, recorded_at, place) "
    "ORDER BY n.place"
)


async def append(connection: AsyncConnection, facts: Sequence[Fact]) -> None:
    """Put facts into the outbox, in order. Two decisions on one revision of an aggregate collide here.

    Raises FactTooLargeError: in the outbox such a fact would hold up every other for ever.
    """
    payloads = [encode(fact.event) for fact in facts]
    for fact, payload in zip(facts, payloads, strict=True):
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise FactTooLargeError(
                f"{fact.event.TYPE} would have {len(payload)} bytes; {MAX_PAYLOAD_BYTES} are allowed: send less at once"
            )
    await connection.execute(
        _APPEND,
        {
            "ids": [UUID(fact.id) for fact in facts],
            "aggregates": [fact.aggregate for fact in facts],
            "revisions": [fact.revision for fact in facts],
            "tenants": [fact.event.tenant for fact in facts],
            "subjects": [subject_of(fact.event) for fact in facts],
            "headers": [canonical(headers_of(fact)).decode() for fact in facts],
            "payloads": payloads,
            "times": [fact.time for fact in facts],
        },
    )


_FENCE = text("SELECT name, epoch FROM chassis.lease WHERE name = ANY(:names) ORDER BY name FOR SHARE")


async def lost_leases(connection: AsyncConnection, held: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Lock these leases (name, epoch) against a change of owner until the transaction ends; those that are not ours."""
    claimed = set(held)
    if not claimed:
        return set()
    rows = await connection.execute(_FENCE, {"names": sorted({name for name, _ in claimed})})
    return claimed.difference((row.name, row.epoch) for row in rows)


async def fence(connection: AsyncConnection, held: Mapping[str, int]) -> None:
    """As `lost_leases`, but raise LeaseLostError when any is lost."""
    lost = await lost_leases(connection, held.items())
    if lost:
        raise LeaseLostError(f"another process owns {', '.join(sorted(name for name, _ in lost))} now")
