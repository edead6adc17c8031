"""The oracle: what must hold at every moment, and what must hold once everything has come to rest. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from faults.books import Books, Row, Said

SILENT = {"cancel", "destroy_replaced"}
"""Effects after which nothing is said: the provider's own messages follow, or there may have been nothing to do."""


def always(log: Sequence[Said], upto: int, books: Books) -> list[str]:
    """What is wrong although nothing may ever be so.

    log: read to its end after the books were. upto: the end of the log before the books were read. What lies between
    may be newer than the books, so only what came before is held against them.
    """
    return [f"{books.service}: {each}" for each in _always(log, upto, books)]


def _always(log: Sequence[Said], upto: int, books: Books) -> Iterator[str]:
    by_id = {row.id: row for row in books.rows}
    places = _places(log)
    yield from _of_the_outbox(log, upto, books, by_id)
    yield from _revisions(books)
    yield from _order(books.rows, places)
    for said in log:
        told = f"{said.type} {said.id} at {said.sequence}"
        if said.type not in books.hears:
            continue
        # The position and what was decided are one transaction.
        if said.sequence <= books.positions.get(said.partition, 0) and said.id not in books.inbox:
            yield f"never heard {told}, although it has read on to {books.positions[said.partition]}"
    for id_ in sorted(books.inbox - places.keys()):
        yield f"has heard {id_}, which is not in the stream"
    at = {said.sequence: said.id for said in log}
    for partition, id_ in books.newest.items():
        if id_ and at.get(books.positions[partition]) != id_:
            yield f"takes {id_} for what stands at {books.positions[partition]}, which it is not"


def _of_the_outbox(log: Sequence[Said], upto: int, books: Books, by_id: Mapping[str, Row]) -> Iterator[str]:
    at = {said.sequence: said.id for said in log}
    for row in books.rows:
        if row.sequence is not None and at.get(row.sequence) != row.id:
            yield f"{row.type} {row.id} was confirmed at {row.sequence}, where the stream has {at.get(row.sequence)}"
    for said in log:
        if said.type.partition(".")[0] == books.service and said.sequence <= upto and said.id not in by_id:
            yield f"{said.type} {said.id} at {said.sequence} was published, and never decided"


def _revisions(books: Books) -> Iterator[str]:
    seen: dict[str, list[int]] = defaultdict(list)
    for row in books.rows:
        seen[row.aggregate].append(row.revision)
    for aggregate, revisions in seen.items():
        if revisions != list(range(1, len(revisions) + 1)):
            yield f"the revisions of {aggregate} are {revisions}"
        elif aggregate.partition("/")[0] in books.kinds and books.states.get(aggregate) != len(revisions):
            yield f"{aggregate} is at {books.states.get(aggregate)} in its table, at {len(revisions)} in the outbox"
    for aggregate in books.states.keys() - seen.keys():
        yield f"{aggregate} has a state, and no fact"


def _order(rows: Sequence[Row], places: Mapping[str, int]) -> Iterator[str]:
    """A tenant's facts stand in the stream as they do in the outbox."""
    last: dict[str, tuple[int, Row]] = {}
    for row in rows:
        place = places.get(row.id)
        if place is None:
            continue
        whose = row.tenant or row.aggregate
        before, other = last.get(whose, (0, row))
        if place < before:
            yield f"{row.type} {row.id} at {place} was decided after {other.type} {other.id} at {before}"
        last[whose] = max((before, other), (place, row), key=lambda each: each[0])


def _places(log: Iterable[Said]) -> dict[str, int]:
    places: dict[str, int] = {}
    for said in log:
        places.setdefault(said.id, said.sequence)
    return places


def of_the_log(log: Sequence[Said]) -> list[str]:
    """What is wrong in the stream itself: a fact twice, or before the fact that led to it."""
    places = _places(log)
    wrong = [
        f"{said.type} {said.id} stands at {places[said.id]} and at {said.sequence}"
        for said in log
        if _again(said, places)
    ]
    wrong += [
        f"{said.type} {said.id} at {said.sequence} stands before its cause at {places[said.cause]}"
        for said in log
        if places.get(said.cause, 0) > places[said.id]
    ]
    return wrong


def _again(said: Said, places: Mapping[str, int]) -> bool:
    return places[said.id] != said.sequence


def at_rest(log: Sequence[Said], books: Books) -> list[str]:
    """What is left over, or has no outcome, once there is nothing more to do."""
    return [f"{books.service}: {each}" for each in _at_rest(log, books)]


def _at_rest(log: Sequence[Said], books: Books) -> Iterator[str]:
    caused = {row.cause for row in books.rows}
    for row in books.rows:
        if row.sequence is None:
            yield f"{row.type} {row.id} is still in the outbox"
    for said in log:
        if said.type in books.hears and said.id not in books.inbox:
            yield f"{said.type} {said.id} at {said.sequence} was never heard"
    for effect in books.effects:
        if effect.state != "done":
            yield f"the effect {effect.work} of {effect.id} is {effect.state}"
        elif effect.id not in caused and effect.work not in SILENT:
            yield f"the effect {effect.work} of {effect.id} has no outcome"
    if books.parked:
        yield f"{books.parked} facts are parked"


def once_each(log: Sequence[Said], types: Iterable[str], tenants: Iterable[str]) -> list[str]:
    """What did not happen to each tenant exactly once."""
    wanted = Counter(list(tenants))
    wrong = []
    for type_ in types:
        found = Counter({said.id: said.tenant for said in log if said.type == type_}.values())
        wrong += [
            f"{type_} was said {found[tenant]} times of {tenant or 'nobody'}"
            for tenant in sorted(found.keys() | wanted.keys())
            if found[tenant] != wanted[tenant]
        ]
    return wrong


def counted(log: Sequence[Said], books: Books, numbers: int) -> tuple[list[str], list[str]]:
    """What the probe noted or settled twice, too early or for nobody; and what of the `numbers` is still missing."""
    told = {said.id: said.revision for said in log if said.type == "billing.probe_asked"}
    notes = {row.id: told.get(row.cause, 0) for row in books.rows if row.type == "tenant.probe_noted"}
    wanted = list(range(1, numbers + 1))
    wrong, missing = [], []
    for verb, type_ in (("noted", "tenant.probe_noted"), ("settled", "tenant.probe_settled")):
        seen: dict[str, list[int]] = {said.tenant: [] for said in log if said.id in told}
        for row in books.rows:
            if row.type == type_:
                seen[row.tenant].append(notes[row.id] if verb == "noted" else notes.get(row.cause, 0))
        wrong += [f"{tenant} {verb} {found}" for tenant, found in seen.items() if found != wanted[: len(found)]]
        missing += [f"{tenant} {verb} only {found}" for tenant, found in seen.items() if len(found) < numbers]
    return wrong, missing
