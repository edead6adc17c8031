"""Invariants of the log and the databases: those that hold at all times, and those that hold when idle. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from faults.snapshots import OutboxRow, ServiceSnapshot, StreamFact

WITHOUT_OUTCOME = {
    "cancel",
    "destroy_replaced",
    "plan_by_policy",
    "plan_by_prices",
    "plan_environments",
    "stop_agent",
    "stop_tenant",
}
"""Effects without an own outcome: the provider's messages follow, or there may be nothing to do."""


def always(log: Sequence[StreamFact], upto: int, snapshot: ServiceSnapshot) -> list[str]:
    """Returns violations of invariants that hold at all times.

    log: read to its end after the snapshot. upto: the end of the log before the snapshot. Facts in between may be newer
    than the snapshot, so only earlier ones are compared with it.
    """
    return [f"{snapshot.service}: {each}" for each in _always(log, upto, snapshot)]


def _always(log: Sequence[StreamFact], upto: int, snapshot: ServiceSnapshot) -> Iterator[str]:
    by_id = {row.id: row for row in snapshot.rows}
    sequences = _sequences(log)
    yield from _of_the_outbox(log, upto, snapshot, by_id)
    yield from _revisions(snapshot)
    yield from _order(snapshot.rows, sequences)
    for fact in log:
        described = f"{fact.type} {fact.id} at {fact.sequence}"
        if fact.type not in snapshot.handled_types:
            continue
        # The position and the decisions are one transaction.
        if fact.sequence <= snapshot.positions.get(fact.partition, 0) and fact.id not in snapshot.inbox:
            yield f"never handled {described}, although its position is {snapshot.positions[fact.partition]}"
    for id_ in sorted(snapshot.inbox - sequences.keys()):
        yield f"has handled {id_}, which is not in the stream"
    at = {fact.sequence: fact.id for fact in log}
    for partition, id_ in snapshot.newest.items():
        if id_ and at.get(snapshot.positions[partition]) != id_:
            yield f"expects {id_} at {snapshot.positions[partition]}, where the stream has another fact"


def _of_the_outbox(
    log: Sequence[StreamFact], upto: int, snapshot: ServiceSnapshot, by_id: Mapping[str, OutboxRow]
) -> Iterator[str]:
    at = {fact.sequence: fact.id for fact in log}
    for row in snapshot.rows:
        if row.sequence is not None and at.get(row.sequence) != row.id:
            yield f"{row.type} {row.id} was confirmed at {row.sequence}, where the stream has {at.get(row.sequence)}"
    for fact in log:
        if fact.type.partition(".")[0] == snapshot.service and fact.sequence <= upto and fact.id not in by_id:
            yield f"{fact.type} {fact.id} at {fact.sequence} was published, and never decided"


def _revisions(snapshot: ServiceSnapshot) -> Iterator[str]:
    found_by_key: dict[str, list[int]] = defaultdict(list)
    for row in snapshot.rows:
        found_by_key[row.aggregate].append(row.revision)
    for aggregate, revisions in found_by_key.items():
        if revisions != list(range(1, len(revisions) + 1)):
            yield f"the revisions of {aggregate} are {revisions}"
        elif aggregate.partition("/")[0] in snapshot.kinds and snapshot.states.get(aggregate) != len(revisions):
            yield f"{aggregate} is at {snapshot.states.get(aggregate)} in its table, at {len(revisions)} in the outbox"
    for aggregate in snapshot.states.keys() - found_by_key.keys():
        yield f"{aggregate} has a state, and no fact"


def _order(rows: Sequence[OutboxRow], sequences: Mapping[str, int]) -> Iterator[str]:
    """Facts of a tenant have the same order in the stream as in the outbox."""
    last: dict[str, tuple[int, OutboxRow]] = {}
    for row in rows:
        sequence = sequences.get(row.id)
        if sequence is None:
            continue
        key = row.tenant or row.aggregate
        before, previous = last.get(key, (0, row))
        if sequence < before:
            yield f"{row.type} {row.id} at {sequence} was decided after {previous.type} {previous.id} at {before}"
        last[key] = max((before, previous), (sequence, row), key=lambda each: each[0])


def _sequences(log: Iterable[StreamFact]) -> dict[str, int]:
    sequences: dict[str, int] = {}
    for fact in log:
        sequences.setdefault(fact.id, fact.sequence)
    return sequences


def in_the_log(log: Sequence[StreamFact]) -> list[str]:
    """Returns violations in the stream itself: a fact twice, or before its cause."""
    sequences = _sequences(log)
    wrong = [
        f"{fact.type} {fact.id} is at {sequences[fact.id]} and at {fact.sequence}"
        for fact in log
        if _is_repeated(fact, sequences)
    ]
    wrong += [
        f"{fact.type} {fact.id} at {fact.sequence} is before its cause at {sequences[fact.cause]}"
        for fact in log
        if sequences.get(fact.cause, 0) > sequences[fact.id]
    ]
    return wrong


def _is_repeated(fact: StreamFact, sequences: Mapping[str, int]) -> bool:
    return sequences[fact.id] != fact.sequence


def when_idle(log: Sequence[StreamFact], snapshot: ServiceSnapshot) -> list[str]:
    """Returns unfinished work and missing outcomes, once nothing is left to do."""
    return [f"{snapshot.service}: {each}" for each in _when_idle(log, snapshot)]


def _when_idle(log: Sequence[StreamFact], snapshot: ServiceSnapshot) -> Iterator[str]:
    caused = {row.cause for row in snapshot.rows}
    for row in snapshot.rows:
        if row.sequence is None:
            yield f"{row.type} {row.id} is still in the outbox"
    for fact in log:
        if fact.type in snapshot.handled_types and fact.id not in snapshot.inbox:
            yield f"{fact.type} {fact.id} at {fact.sequence} was never handled"
    for effect in snapshot.effects:
        if effect.state != "done":
            yield f"the effect {effect.work} of {effect.id} is {effect.state}"
        elif effect.id not in caused and effect.work.partition("/")[0] not in WITHOUT_OUTCOME:
            yield f"the effect {effect.work} of {effect.id} has no outcome"
    if snapshot.retrying:
        yield f"{snapshot.retrying} facts are in the retry queue"


def once_each(log: Sequence[StreamFact], types: Iterable[str], tenants: Iterable[str]) -> list[str]:
    """Returns tenants to which an event did not happen exactly once."""
    expected = Counter(list(tenants))
    wrong = []
    for type_ in types:
        found = Counter({fact.id: fact.tenant for fact in log if fact.type == type_}.values())
        wrong += [
            f"{type_} was published {found[tenant]} times for {tenant or 'no tenant'}"
            for tenant in sorted(found.keys() | expected.keys())
            if found[tenant] != expected[tenant]
        ]
    return wrong


def probe_violations(log: Sequence[StreamFact], snapshot: ServiceSnapshot, numbers: int) -> tuple[list[str], list[str]]:
    """Returns the probe's duplicate, early or unexpected facts; and missing ones of the `numbers`."""
    requested = {fact.id: fact.revision for fact in log if fact.type == "billing.probe_requested"}
    notes = {row.id: requested.get(row.cause, 0) for row in snapshot.rows if row.type == "tenant.probe_noted"}
    expected = list(range(1, numbers + 1))
    wrong, missing = [], []
    for verb, type_ in (("noted", "tenant.probe_noted"), ("settled", "tenant.probe_settled")):
        found_by_key: dict[str, list[int]] = {fact.tenant: [] for fact in log if fact.id in requested}
        for row in snapshot.rows:
            if row.type == type_:
                found_by_key[row.tenant].append(notes[row.id] if verb == "noted" else notes.get(row.cause, 0))
        wrong += [
            f"{tenant} {verb} {found}" for tenant, found in found_by_key.items() if found != expected[: len(found)]
        ]
        missing += [f"{tenant} {verb} only {found}" for tenant, found in found_by_key.items() if len(found) < numbers]
    return wrong, missing
