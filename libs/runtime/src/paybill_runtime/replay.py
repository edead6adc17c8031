"""Folding the log through a service's own rules, and comparing what comes out with its live tables."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson
from paybill_contracts.envelope import Fact, read_fact
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.app import Service
from paybill_runtime.database import Database
from paybill_runtime.errors import ConfigurationError, reason
from paybill_runtime.feed import Feed, stream_sequence
from paybill_runtime.settings import ServiceSettings, read_secret
from paybill_runtime.state import AnyStored, Key
from paybill_runtime.streams import EVENTS, connect

MAX_FAULTS_SHOWN = 100
SILENCE_S = 10.0

_OUTBOX = text(
    "SELECT event_id::text AS id, aggregate, revision, subject, sequence, sha256(payload) AS digest, "
    "CASE WHEN sequence IS NULL THEN headers END AS headers, CASE WHEN sequence IS NULL THEN payload END AS payload "
    "FROM chassis.outbox ORDER BY position"
)
_OWNERS = text(
    "SELECT DISTINCT owner FROM chassis.lease WHERE owner <> '' AND "
    "EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = lease.owner)"
)
_LOCK = text("SELECT name FROM chassis.lease ORDER BY name FOR UPDATE")


@dataclass(frozen=True, slots=True)
class Fault:
    """One place where the log and the tables, or the log and the outbox, do not agree."""

    kind: str
    where: str
    message: str


@dataclass(slots=True)
class Report:
    """What a replay found. `equal` means that every table is exactly what the log says."""

    service: str
    facts: int = 0
    from_outbox: int = 0
    duplicates: int = 0
    after_snapshot: int = 0
    aggregates: int = 0
    rebuilt: bool = False
    faults: list[Fault] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def add(self, kind: str, where: str, message: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind, where, message))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; at most 100 faults are shown, `fault_count` counts all."""
        return {
            "service": self.service,
            "equal": self.equal,
            "facts": self.facts,
            "from_outbox": self.from_outbox,
            "duplicates": self.duplicates,
            "after_snapshot": self.after_snapshot,
            "aggregates": self.aggregates,
            "rebuilt": self.rebuilt,
            "fault_count": len(self.faults),
            "faults": [
                {"kind": fault.kind, "where": fault.where, "message": fault.message}
                for fault in self.faults[:MAX_FAULTS_SHOWN]
            ],
        }


@dataclass(frozen=True, slots=True)
class _Row:
    """An outbox row as it was at the snapshot."""

    aggregate: str
    revision: int
    subject: str
    sequence: int | None
    digest: bytes


@dataclass(slots=True)
class _Snapshot:
    """One view of the database: the outbox, the facts that are not relayed yet, and every state."""

    outbox: dict[str, _Row]
    unsent: list[Fact]
    states: dict[Key, tuple[int, str]]
    known_upto: int


async def replay(service: Service, settings: ServiceSettings, database: Database, *, rebuild: bool = False) -> Report:
    """Verify the tables of `service` against the log; with `rebuild`, write them anew from it.

    The service may run during a verification; for a rebuild it has to be stopped (ConfigurationError).
    """
    report = Report(service.name)
    async with database.snapshot() as connection:
        before = await _snapshot(connection, service.states, report)
    facts = await _log(service.name, settings, before, report)
    _check_presence(before, facts, report)
    for fact in before.unsent:
        facts.setdefault(fact.id, fact)
        report.from_outbox += 1
    report.facts = len(facts)
    folded = _fold(service.states, facts.values(), report)
    report.aggregates = len(folded)
    if rebuild and report.equal:
        await _rebuild(database, service.states, folded)
        report.rebuilt = True
        return report
    _compare(before.states, folded, report)
    return report


async def _snapshot(connection: AsyncConnection, states: Sequence[AnyStored], report: Report) -> _Snapshot:
    outbox: dict[str, _Row] = {}
    unsent: list[Fact] = []
    for row in await connection.execute(_OUTBOX):
        outbox[row.id] = _Row(row.aggregate, row.revision, row.subject, row.sequence, bytes(row.digest))
        if row.sequence is None:
            try:
                unsent.append(read_fact(row.subject, json.loads(row.headers), bytes(row.payload)))
            except (DomainError, ValueError) as error:
                report.add("unreadable_fact", f"outbox {row.id}", f"{row.subject}: {error}")
    kept: dict[Key, tuple[int, str]] = {}
    for stored in states:
        table = stored.table.name
        query = text(f"SELECT id, revision, state::text AS state FROM {table}")  # noqa: S608  # a name in our code
        for row in await connection.execute(query):
            kept[stored.key(row.id)] = (row.revision, canonical(orjson.loads(row.state)).decode())
    known = max((row.sequence or 0 for row in outbox.values()), default=0)
    return _Snapshot(outbox, unsent, kept, known)


async def _log(context: str, settings: ServiceSettings, before: _Snapshot, report: Report) -> dict[str, Fact]:
    """Every fact of the stream that belongs to the snapshot, each id once."""
    password = read_secret(settings.nats_password_file)
    client = await connect(settings.nats_url, settings.nats_user, password, wait_s=5)
    feed = Feed(client, EVENTS, [f"paybill.events.*.{context}.>"], 1, batch=1000)
    facts: dict[str, Fact] = {}
    newest: dict[str, tuple[int, int]] = {}
    try:
        left = await feed.pending()
        while left > 0:
            messages = await feed.next(SILENCE_S)
            if not messages:
                raise TimeoutError("the stream does not answer")
            left -= len(messages)
            for message in messages:
                _take(
                    message.subject,
                    message.headers or {},
                    message.data,
                    stream_sequence(message),
                    before,
                    facts,
                    newest,
                    report,
                )
    finally:
        await feed.close()
        await client.close()
    return facts


def _take(
    subject: str,
    headers: Mapping[str, str],
    payload: bytes,
    sequence: int,
    before: _Snapshot,
    facts: dict[str, Fact],
    newest: dict[str, tuple[int, int]],
    report: Report,
) -> None:
    id_ = headers.get("ce-id", "")
    row = before.outbox.get(id_)
    if row is None:
        if sequence > before.known_upto:
            report.after_snapshot += 1
        else:
            report.add(
                "unknown_fact", f"sequence {sequence}", f"{subject} is in the log, but this service never decided it"
            )
        return
    if id_ in facts:
        report.duplicates += 1
        return
    if sha256(payload).digest() != row.digest:
        report.add(
            "altered_fact",
            f"sequence {sequence}",
            f"{subject} differs from what was decided ({row.aggregate} revision {row.revision})",
        )
        return
    try:
        fact = read_fact(subject, headers, payload, sequence)
    except DomainError as error:
        report.add("unreadable_fact", f"sequence {sequence}", f"{subject}: {error}")
        return
    facts[id_] = fact
    last = newest.get(fact.aggregate)
    if last is not None and fact.revision < last[0]:
        report.add(
            "swapped_facts",
            f"sequences {last[1]} and {sequence}",
            f"revision {fact.revision} of {fact.aggregate} stands behind its revision {last[0]}",
        )
    newest[fact.aggregate] = (fact.revision, sequence)


def _check_presence(before: _Snapshot, facts: Mapping[str, Fact], report: Report) -> None:
    for id_, row in before.outbox.items():
        if row.sequence is None:
            continue
        fact = facts.get(id_)
        if fact is None:
            report.add(
                "lost_fact",
                f"sequence {row.sequence}",
                f"{row.subject} {id_} ({row.aggregate} revision {row.revision}) was confirmed, but is not in the log",
            )
        elif fact.sequence != row.sequence:
            report.add(
                "misplaced_fact", f"sequence {fact.sequence}", f"{row.subject} {id_} was confirmed at {row.sequence}"
            )


def _fold(states: Sequence[AnyStored], facts: Iterable[Fact], report: Report) -> dict[Key, tuple[int, str]]:
    """The state of every aggregate, from its facts in the order of their revisions."""
    by_kind = {stored.kind: stored for stored in states}
    histories: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.event.AGGREGATE in by_kind:
            histories[fact.aggregate].append(fact)
    folded: dict[Key, tuple[int, str]] = {}
    for aggregate, history in histories.items():
        history.sort(key=lambda fact: fact.revision)
        revisions = [fact.revision for fact in history]
        if revisions != list(range(1, len(revisions) + 1)):
            missing = sorted(set(range(1, revisions[-1] + 1)).difference(revisions))
            report.add("gap", aggregate, f"revisions {', '.join(map(str, missing[:5]))} are missing")
        kind, _, id_ = aggregate.partition("/")
        stored = by_kind[kind]
        state = None
        try:
            for fact in history:
                state = stored.fold(state, fact.event)
            folded[stored.key(id_)] = (revisions[-1], stored.dump(state))
        except Exception as error:  # noqa: BLE001  # a history with holes may lead a rule anywhere
            report.add("cannot_fold", aggregate, reason(error))
    return folded


def _compare(kept: Mapping[Key, tuple[int, str]], folded: Mapping[Key, tuple[int, str]], report: Report) -> None:
    for key in sorted(kept.keys() | folded.keys()):
        where = f"{key.kind}/{key.id}"
        if key not in kept:
            report.add("missing_row", where, "the log says that it exists, but the table has no row")
        elif key not in folded:
            report.add("unexpected_row", where, "the table has a row that no fact explains")
        elif kept[key] != folded[key]:
            report.add("different_state", where, _difference(kept[key], folded[key]))


def _difference(kept: tuple[int, str], folded: tuple[int, str]) -> str:
    """Which fields differ; the values may be sealed or long, so only their names are told."""
    if kept[0] != folded[0]:
        return f"the table is at revision {kept[0]}, the log at {folded[0]}"
    live, true = orjson.loads(kept[1]), orjson.loads(folded[1])
    names = sorted(name for name in live.keys() | true.keys() if live.get(name) != true.get(name))
    return f"the field{'s' if len(names) > 1 else ''} {', '.join(names)} differ from the log"


async def _rebuild(database: Database, states: Sequence[AnyStored], folded: Mapping[Key, tuple[int, str]]) -> None:
    """Write all states anew in one transaction, while nobody owns anything."""
    async with database.transaction() as connection:
        await connection.execute(_LOCK)
        owners = (await connection.execute(_OWNERS)).scalars().all()
        if owners:
            raise ConfigurationError(f"{', '.join(owners)} still runs; stop it, then rebuild")
        for stored in states:
            mine = [
                (key.id, revision, state)
                for key, (revision, state) in sorted(folded.items())
                if key.kind == stored.kind
            ]
            await connection.execute(text(f"DELETE FROM {stored.table.name}"))  # noqa: S608  # from our own code
            if mine:
                ids, revisions, documents = zip(*mine, strict=True)
                await connection.execute(
                    text(
                        f"INSERT INTO {stored.table.name} (id, revision, state) "  # noqa: S608  # as above
                        "SELECT n.id, n.revision, n.state::jsonb FROM unnest(CAST(:ids AS text[]), "
                        "CAST(:revisions AS bigint[]), CAST(:states AS text[])) AS n (id, revision, state)"
                    ),
                    {"ids": list(ids), "revisions": list(revisions), "states": list(documents)},
                )
