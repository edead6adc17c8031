"""Folding of facts that are sorted by aggregate and revision: one aggregate is in memory at a time."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from paybill_contracts.envelope import Fact, read_fact
from paybill_contracts.errors import DomainError

from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.errors import reason
from paybill_runtime.replay.alignment import Deviations
from paybill_runtime.replay.outbox_rows import OutboxRow
from paybill_runtime.replay.report import Faults

_REVISIONS_SHOWN = 5
"""Missing revisions that a fault names."""


class Folded(NamedTuple):
    """An aggregate with a state. state: in stored form; None when it has no facts, or they could not be folded."""

    stored: AnyStored
    id: str
    revision: int
    state: str | None

    @property
    def name(self) -> str:
        """`<kind>/<id>`, as in the outbox."""
        return f"{self.stored.kind}/{self.id}"


class _History:
    """The aggregate that is being folded. revisions, sequences: of its facts in the log."""

    __slots__ = ("broken", "facts", "missing", "name", "revision", "revisions", "sequences", "state", "stored")

    def __init__(self, name: str, stored: AnyStored | None) -> None:
        self.name = name
        self.stored = stored
        self.state: object = None
        self.revision = self.facts = 0
        self.missing: list[str] = []
        self.revisions, self.sequences = array("q"), array("q")
        self.broken = False


class Folding:
    """Folds the rows of an outbox, added in the order of aggregate and revision.

    aggregates: those with a state. unreadable: rows that are no facts.
    """

    def __init__(self, states: Sequence[AnyStored], deviations: Deviations, faults: Faults) -> None:
        self._by_kind = {stored.kind: stored for stored in states}
        self._deviations = deviations
        self._faults = faults
        self._history: _History | None = None
        self.aggregates = 0
        self.unreadable = 0

    def add(self, rows: Iterable[OutboxRow]) -> Iterator[Folded]:
        """Adds rows; yields the aggregates that are complete."""
        for row in rows:
            if self._history is None or self._history.name != row.aggregate:
                yield from self.finish()
                self._history = _History(row.aggregate, self._by_kind.get(row.aggregate.partition("/")[0]))
            self._add(self._history, row)

    def finish(self) -> Iterator[Folded]:
        """Yields the last aggregate."""
        history, self._history = self._history, None
        if history is None:
            return
        self._report_order(history)
        if history.missing:
            self._faults.add("gap", history.name, f"revisions {', '.join(history.missing)} are missing")
        if history.stored is not None:
            yield Folded(history.stored, history.name.partition("/")[2], history.revision, self._state(history))

    def _add(self, history: _History, row: OutboxRow) -> None:
        if row.id in self._deviations.absent:
            return
        sequence = self._deviations.sequences.get(row.id, row.sequence)
        fact = self._read(row, sequence)
        if fact is None:
            return
        history.facts += 1
        if sequence is not None:
            history.revisions.append(row.revision)
            history.sequences.append(sequence)
        if history.stored is None:
            return
        if row.revision != history.revision + 1:
            absent = range(history.revision + 1, row.revision)
            history.missing += map(str, absent[: _REVISIONS_SHOWN - len(history.missing)])
        history.revision = row.revision
        if history.broken:
            return
        try:
            history.state = history.stored.fold(history.state, fact.event)
        except Exception as error:  # noqa: BLE001  # an incomplete history may make a rule raise any error
            self._broken(history, error)

    def _read(self, row: OutboxRow, sequence: int | None) -> Fact | None:
        """Returns the fact of a row; None when it is malformed or contradicts its row."""
        where = f"outbox {row.id}" if sequence is None else f"sequence {sequence}"
        try:
            fact = read_fact(row.subject, row.parse_headers(), row.payload, sequence or 0)
        except (DomainError, ValueError) as error:
            self._faults.add("unreadable_fact", where, f"{row.subject}: {error}")
        else:
            if fact.revision == row.revision and fact.aggregate == row.aggregate:
                return fact
            self._faults.add(
                "altered_fact",
                where,
                f"{row.subject} has {fact.aggregate} revision {fact.revision}, "
                f"its row has {row.aggregate} revision {row.revision}",
            )
        self.unreadable += 1
        return None

    def _report_order(self, history: _History) -> None:
        """Reports facts that come after a later revision in the log."""
        pairs = zip(history.sequences, history.sequences[1:], strict=False)
        if all(one < other for one, other in pairs):
            return
        last, at = 0, 0
        for sequence, revision in sorted(zip(history.sequences, history.revisions, strict=True)):
            if revision < last:
                self._faults.add(
                    "swapped_facts",
                    f"sequences {at} and {sequence}",
                    f"revision {revision} of {history.name} comes after its revision {last}",
                )
            last, at = revision, sequence

    def _state(self, history: _History) -> str | None:
        if not history.facts or history.broken or history.stored is None:
            return None
        try:
            state = history.stored.dump(history.state)
        except Exception as error:  # noqa: BLE001  # as in `_add`
            self._broken(history, error)
            return None
        self.aggregates += 1
        return state

    def _broken(self, history: _History, error: Exception) -> None:
        history.broken, history.state = True, None
        self._faults.add("cannot_fold", history.name, reason(error))
