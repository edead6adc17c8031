"""Comparison of the tables with the folded outbox: page by page, so that memory does not grow with their number."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import orjson
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime.database.pool import fetch_rows
from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.replay.alignment import Deviations
from paybill_runtime.replay.folding import Folded, Folding
from paybill_runtime.replay.outbox_rows import by_revision
from paybill_runtime.replay.report import Faults


@dataclass(slots=True)
class Comparison:
    """The result. unreadable: outbox rows that are no facts; faults: of the facts; differences: of the tables."""

    aggregates: int = 0
    unreadable: int = 0
    faults: Faults = field(default_factory=Faults)
    differences: Faults = field(default_factory=Faults)

    @property
    def equal(self) -> bool:
        """True when neither facts nor tables have a fault."""
        return not (self.faults.fault_count or self.differences.fault_count)


async def fold(
    connection: AsyncConnection, folding: Folding, aggregates: Sequence[str] | None = None
) -> AsyncIterator[list[Folded]]:
    """Yields all aggregates with a state, or those named, in pages."""
    async for rows in by_revision(connection, aggregates):
        yield list(folding.add(rows))
    yield list(folding.finish())


async def compare(
    connection: AsyncConnection,
    states: Sequence[AnyStored],
    deviations: Deviations,
    aggregates: Sequence[str] | None = None,
) -> Comparison:
    """Folds the outbox, without what the log does not have, and compares the states with the tables.

    aggregates: only these, and no search for rows without facts.
    """
    comparison = Comparison()
    folding = Folding(states, deviations, comparison.faults)
    found: Counter[str] = Counter()
    async for page in fold(connection, folding, aggregates):
        await _compare_page(connection, page, comparison.differences, found)
    if aggregates is None:
        for stored in states:
            await _report_rows_without_facts(connection, stored, found[stored.kind], comparison.differences)
    comparison.aggregates, comparison.unreadable = folding.aggregates, folding.unreadable
    return comparison


async def corrected(
    connection: AsyncConnection, states: Sequence[AnyStored], deviations: Deviations, first: Comparison
) -> Comparison:
    """Returns the comparison with the deviations of the log, from the one that did not know them.

    Facts that the relay published after the snapshot are deviations, too: then few aggregates have to be folded again.
    """
    if not deviations.aggregates:
        return first
    if not first.equal:
        return await compare(connection, states, deviations)
    kinds = {stored.kind for stored in states}
    again = await compare(connection, states, deviations, sorted(deviations.aggregates))
    folded_before = sum(name.partition("/")[0] in kinds for name in deviations.aggregates)
    again.aggregates += first.aggregates - folded_before
    return again


async def _compare_page(
    connection: AsyncConnection, page: Sequence[Folded], differences: Faults, found: Counter[str]
) -> None:
    by_kind: defaultdict[str, list[Folded]] = defaultdict(list)
    for folded in page:
        by_kind[folded.stored.kind].append(folded)
    for kind, aggregates in by_kind.items():
        table = aggregates[0].stored.table.name
        query = f"SELECT id, revision, state::text FROM {table} WHERE id = ANY($1::text[])"  # noqa: S608  # our code
        rows = await fetch_rows(connection, query, [folded.id for folded in aggregates])
        found[kind] += len(rows)
        live = {id_: (revision, state) for id_, revision, state in rows}
        for folded in aggregates:
            _compare_one(folded, live.get(folded.id), differences)


def _compare_one(folded: Folded, row: tuple[int, str] | None, differences: Faults) -> None:
    """Compares one aggregate with its row in the table."""
    if row is None:
        if folded.state is not None:
            differences.add("missing_row", folded.name, "the log has facts of it, but the table has no row")
    elif folded.state is None:
        _report_unexpected(folded.name, differences)
    else:
        document = orjson.loads(row[1])
        live = row[0], canonical(document).decode()
        expected = folded.revision, folded.state
        if live != expected and not (live[0] == expected[0] and _is_of_earlier_shape(folded, document)):
            differences.add("different_state", folded.name, _difference(live, expected))


def _is_of_earlier_shape(folded: Folded, document: object) -> bool:
    """Returns whether the row only lacks fields that were added with a default after it was written.

    The service reads such a row as the folded state, and writes the new fields with the aggregate's next fact.
    """
    if folded.state is None or not _is_part(document, orjson.loads(folded.state)):
        return False
    try:
        return folded.stored.dump(folded.stored.load(canonical(document))) == folded.state
    except (ValueError, DomainError):
        return False


def _is_part(document: object, whole: object) -> bool:
    """Returns whether `whole` differs from `document` only by additional fields of its objects."""
    if isinstance(document, dict) and isinstance(whole, dict):
        return all(name in whole and _is_part(value, whole[name]) for name, value in document.items())
    if isinstance(document, list) and isinstance(whole, list) and len(document) == len(whole):
        return all(_is_part(each, other) for each, other in zip(document, whole, strict=True))
    return type(document) is type(whole) and document == whole


async def _report_rows_without_facts(
    connection: AsyncConnection, stored: AnyStored, found: int, differences: Faults
) -> None:
    """Reports the rows of a table whose aggregates the outbox does not have. found: number of the other rows."""
    table = stored.table.name
    total = (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()  # noqa: S608  # our code
    if total == found:
        return
    query = text(
        f"SELECT id FROM {table} AS t WHERE NOT EXISTS "  # noqa: S608  # as above
        f"(SELECT FROM chassis.outbox AS o WHERE o.aggregate = '{stored.kind}/' || t.id) ORDER BY id"
    )
    rows = await connection.stream(query)
    async for (id_,) in rows:
        _report_unexpected(f"{stored.kind}/{id_}", differences)


def _report_unexpected(name: str, differences: Faults) -> None:
    differences.add("unexpected_row", name, "the table has a row without facts in the log")


def _difference(table: tuple[int, str], folded: tuple[int, str]) -> str:
    """Returns the names of the fields that differ; values may be sealed or long."""
    if table[0] != folded[0]:
        return f"the table is at revision {table[0]}, the log at {folded[0]}"
    live, expected = orjson.loads(table[1]), orjson.loads(folded[1])
    if not isinstance(live, dict):
        return "the state in the table is not an object"
    names = sorted(name for name in live.keys() | expected.keys() if live.get(name) != expected.get(name))
    subject = f"the field {names[0]} differs" if len(names) == 1 else f"the fields {', '.join(names)} differ"
    return f"{subject} from the log"
