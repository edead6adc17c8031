"""What a service declares: its effects (calls to the outside world that a fact intends) and its timers."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from paybill_contracts.envelope import Fact
from paybill_contracts.event import Event
from paybill_contracts.personal import Personal

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import Key, Stored
from paybill_runtime.decisions.group_commit import Decide, ExtraStatements
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.security.data_keys import DataKeys

E = TypeVar("E", bound=Event)
S = TypeVar("S")


class Refused(Exception):  # noqa: N818  # an answer of the outside world, not an error of ours
    """The outside world said no for good: trying again cannot help. The message is the reason."""


class RetryAfter(Exception):  # noqa: N818  # as above
    """The outside world said when to come back; this does not count as a failed attempt."""

    def __init__(self, after_s: float, why: str) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call: decided and committed in one transaction, under the fence. `last` also ends the effect.

    besides: adds to the statement that writes it, for tables of the service that are not state.
    """

    decide: Decide[Any]
    writes: Sequence[Key] = ()
    reads: Sequence[Key] = ()
    last: bool = False
    extra_statements: ExtraStatements | None = None


@dataclass(slots=True)
class Job(Generic[E]):
    """One effect to be done. `id` is the fact's id: the idempotency key of every call, the same at every attempt."""

    event: E
    id: str
    attempt: int
    tenant: str
    traceparent: str
    log: logging.Logger
    _keys: DataKeys = field(repr=False)
    _database: Database = field(repr=False)

    async def open(self, value: Personal[str]) -> str:
        """A personal value in clear; use it and forget it."""
        return await self._keys.open(value)

    async def state(self, stored: Stored[S], id_: str) -> S | None:
        """The current state of an aggregate, unlocked."""
        query = f"SELECT state::text FROM {stored.table.name} WHERE id = $1"  # noqa: S608  # from our code
        async with self._database.direct() as connection:
            state = await connection.fetchval(query, id_)
        return stored.load(state) if state is not None else None


Run = Callable[[Job[E], Any], AsyncIterator[Outcome]]
Failed = Callable[[Job[E], str], Outcome]


@dataclass(frozen=True, slots=True)
class Effect:
    """How the effect of one type of fact is done."""

    name: str
    run: Callable[[Any, Any], AsyncIterator[Outcome]]
    failed: Callable[[Any, str], Outcome] | None
    attempts: int


class JobRegistry:
    """Table of effects by the type of event that intends them. parts: tables of parts of the service, merged."""

    def __init__(self, *parts: "JobRegistry") -> None:
        self.effects: dict[str, Effect] = {}
        for part in parts:
            for type_, effect in part.effects.items():
                self._add(type_, effect)

    def effect(
        self, event: type[E], *, attempts: int = 8, failed: "Failed[E] | None" = None
    ) -> Callable[["Run[E]"], "Run[E]"]:
        """Do this when `event` was recorded; after `attempts` failures, `failed` says what that means."""

        def register(function: "Run[E]") -> "Run[E]":
            self._add(event.TYPE, Effect(getattr(function, "__name__", event.TYPE), function, failed, attempts))
            return function

        return register

    def _add(self, type_: str, effect: Effect) -> None:
        if type_ in self.effects:
            raise TypeError(f"{type_} has an effect already")
        self.effects[type_] = effect

    def effect_names(self, fact: Fact) -> list[str]:
        """The names of the effects that a fact intends."""
        effect = self.effects.get(fact.event.TYPE)
        return [effect.name] if effect is not None else []


@dataclass(frozen=True, slots=True)
class Timer:
    """A rule that time alone sets off.

    column: the generated text column that holds when, empty when nothing is due. on_time: decides, given the state and
    the time; what it returns makes the column change, so that a timer fires once. besides: given the id and the time,
    adds to the statement that writes it, for tables of the service that are not state. owner: the column of whom it
    belongs to; then on_time is given the others of that owner, too.
    """

    stored: Stored[Any]
    column: str
    on_time: Callable[..., Sequence[Event]]
    extra_statements: Callable[[str, datetime], ExtraStatements] | None = None
    owner: str | None = None

    def decision(self, id_: str, others: Sequence[str] = ()) -> Decide[int]:
        """Decide for one aggregate; it looks again under the lock. The number of events that came of it."""

        def decide(unit: UnitOfWork, at: DecisionContext) -> int:
            state = unit.get(self.stored, id_)
            found = [other for name in others if (other := unit.get(self.stored, name)) is not None]
            more = (found,) if self.owner is not None else ()
            events = self.on_time(state, at.now, *more) if state is not None else ()
            unit.record(self.stored, id_, events)
            return len(events)

        return decide
