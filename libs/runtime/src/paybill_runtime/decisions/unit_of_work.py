"""Unit of work: the states that decisions load, and the facts that they record. Pure until it is written."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

from paybill_contracts.envelope import Fact, Origin
from paybill_contracts.event import Event

from paybill_runtime.clock import new_id
from paybill_runtime.decisions.aggregates import Key, Stored
from paybill_runtime.telemetry import child, is_valid_traceparent

S = TypeVar("S")

_NO_ORIGIN = Origin("none", "none", "service:none", "")


class NotLoadedError(Exception):
    """A decision used a state that it did not request in `writes` or `reads`: a bug of the service."""


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """The time and the id of a decision. `id` has 32 hex digits and is the same when a message is handled again."""

    now: datetime
    id: str


def decision_context(now: datetime, *parts: str) -> DecisionContext:
    """Returns the context of the decision that `parts` identify."""
    return DecisionContext(now, sha256("/".join(parts).encode()).hexdigest()[:32])


@dataclass(slots=True)
class Loaded:
    """A state and its revision. `base`: the revision in the database; 0 when the aggregate does not exist there.

    kept: the state of an earlier commit, which was not loaded again.
    """

    stored: Stored[Any]
    state: Any
    revision: int
    base: int
    writable: bool
    kept: bool = False


@dataclass(slots=True)
class UnitOfWork:
    """Loaded states, and the facts recorded on them so far."""

    now: datetime
    origin: Origin = _NO_ORIGIN
    states: dict[Key, Loaded] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    _before: dict[Key, tuple[Any, int]] = field(default_factory=dict)

    @property
    def has_kept(self) -> bool:
        """True when a state was not loaded again, so that only writing the unit proves what was decided on it."""
        return any(loaded.kept for loaded in self.states.values())

    def get(self, stored: Stored[S], id_: str) -> S | None:
        """Returns the state of an aggregate; None when it does not exist yet."""
        return self._loaded(stored, id_).state  # type: ignore[no-any-return]  # states of all kinds share one dict

    def revision(self, stored: Stored[Any], id_: str) -> int:
        """Returns the revision of an aggregate; 0 when it does not exist yet."""
        return self._loaded(stored, id_).revision

    def record(self, stored: Stored[Any], id_: str, events: Iterable[Event]) -> None:
        """Records events of this aggregate, in order, and folds them into its state."""
        loaded = self._loaded(stored, id_)
        if not loaded.writable:
            raise NotLoadedError(f"{stored.kind}/{id_} was loaded for reading only; name it in `writes`")
        for event in events:
            if event.aggregate_id != f"{stored.kind}/{id_}":
                raise NotLoadedError(f"{event.TYPE} belongs to {event.aggregate_id}, not to {stored.kind}/{id_}")
            state = stored.fold(loaded.state, event)
            self._before.setdefault(Key(stored.kind, id_), (loaded.state, loaded.revision))
            loaded.state, loaded.revision = state, loaded.revision + 1
            self._add(event, loaded.revision)

    def emit(self, event: Event, revision: int = 1) -> None:
        """Records a fact that is not folded into a state, such as a refusal."""
        self._add(event, revision)

    def savepoint(self, origin: Origin) -> "_Savepoint":
        """Returns a context manager: the block records under `origin`; when it raises, its records are undone."""
        return _Savepoint(self, origin)

    def _loaded(self, stored: Stored[Any], id_: str) -> Loaded:
        loaded = self.states.get(Key(stored.kind, id_))
        if loaded is None:
            raise NotLoadedError(f"{stored.kind}/{id_} was not loaded; name it in `writes` or `reads`")
        return loaded

    def _add(self, event: Event, revision: int) -> None:
        origin = self.origin
        if not is_valid_traceparent(origin.traceparent):
            origin = Origin(origin.cause, origin.correlation, origin.actor, child(None))
        self.facts.append(Fact(event, new_id(), self.now, revision, origin))


class _Savepoint:
    """The context manager of `UnitOfWork.savepoint`."""

    __slots__ = ("_before", "_count", "_origin", "_unit")

    def __init__(self, unit: UnitOfWork, origin: Origin) -> None:
        self._unit, self._origin = unit, origin

    def __enter__(self) -> None:
        unit = self._unit
        unit._before.clear()  # noqa: SLF001  # part of UnitOfWork
        self._count, self._before = len(unit.facts), unit.origin
        unit.origin = self._origin

    def __exit__(self, kind: object, *_: object) -> None:
        unit = self._unit
        unit.origin = self._before
        if kind is not None:
            del unit.facts[self._count :]
            for key, (state, revision) in unit._before.items():  # noqa: SLF001  # as above
                unit.states[key].state, unit.states[key].revision = state, revision
