"""Histories of aggregates: each state is folded from its facts while the log is read."""

from collections.abc import Iterator, Sequence

from paybill_contracts.envelope import Fact
from paybill_contracts.event import Event

from paybill_runtime.decisions.aggregates import AnyStored
from paybill_runtime.errors import reason
from paybill_runtime.replay.report import Report

_REVISIONS_SHOWN = 5
"""Missing revisions that a fault names."""


class _History:
    """An aggregate so far. held: facts behind a gap, by revision; newest: the last revision, and its sequence."""

    __slots__ = ("broken", "held", "newest", "revision", "state", "stored")

    def __init__(self, stored: AnyStored | None) -> None:
        self.stored = stored
        self.state: object = None
        self.revision = 0
        self.newest = (0, 0)
        self.held: dict[int, Event] = {}
        self.broken = False


class Histories:
    """Folds facts, each added once in the order of the log, into states.

    Only the state of each aggregate is kept. Facts behind a gap are held until the gap is filled or `finish` is called.
    """

    def __init__(self, states: Sequence[AnyStored], report: Report) -> None:
        self._by_kind = {stored.kind: stored for stored in states}
        self._report = report
        self._histories: dict[str, _History] = {}

    def add(self, aggregate: str, fact: Fact) -> None:
        """Adds a fact of the log, or, with the sequence 0, one that is not published yet."""
        history = self._histories.get(aggregate)
        revision = fact.revision
        if history is None:
            stored = self._by_kind.get(fact.event.AGGREGATE)
            if stored is None and revision == 1:
                return  # most facts without a state are the only one of their aggregate
            history = self._histories[aggregate] = _History(stored)
        if fact.sequence:
            last, at = history.newest
            if revision < last:
                self._report.add(
                    "swapped_facts",
                    f"sequences {at} and {fact.sequence}",
                    f"revision {revision} of {aggregate} comes after its revision {last}",
                )
            history.newest = (revision, fact.sequence)
        if history.stored is None:
            return
        if revision != history.revision + 1:
            history.held[revision] = fact.event
            return
        self._fold(aggregate, history, revision, fact.event)
        while history.held and (held := history.held.pop(history.revision + 1, None)) is not None:
            self._fold(aggregate, history, history.revision + 1, held)

    def _fold(self, aggregate: str, history: _History, revision: int, event: Event) -> None:
        history.revision = revision
        if history.broken or history.stored is None:
            return
        try:
            history.state = history.stored.fold(history.state, event)
        except Exception as error:  # noqa: BLE001  # an incomplete history may make a rule raise any error
            self._broken(aggregate, history, error)

    def _broken(self, aggregate: str, history: _History, error: Exception) -> None:
        history.broken, history.state = True, None
        self._report.add("cannot_fold", aggregate, reason(error))

    def finish(self) -> None:
        """Reports the gaps, and folds the facts behind them."""
        for aggregate, history in self._histories.items():
            if history.held:
                missing: list[str] = []
                for revision in sorted(history.held):
                    absent = range(history.revision + 1, revision)
                    missing += map(str, absent[: _REVISIONS_SHOWN - len(missing)])
                    self._fold(aggregate, history, revision, history.held.pop(revision))
                self._report.add("gap", aggregate, f"revisions {', '.join(missing)} are missing")
        self._report.aggregates = sum(
            1 for history in self._histories.values() if history.stored and not history.broken
        )

    def pop(self, aggregate: str) -> tuple[int, str] | None:
        """Removes an aggregate; returns its revision and its state in stored form.

        None when it has no facts, or they could not be folded.
        """
        history = self._histories.pop(aggregate, None)
        if history is None or history.stored is None or history.broken:
            return None
        try:
            return history.revision, history.stored.dump(history.state)
        except Exception as error:  # noqa: BLE001  # as in `_fold`
            self._broken(aggregate, history, error)
            return None

    def remaining(self) -> Iterator[str]:
        """Returns the aggregates with a state that were not removed."""
        return (name for name, history in self._histories.items() if history.stored and not history.broken)
