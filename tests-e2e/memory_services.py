"""Services in memory: their own handlers, effects, timers and syncs, with states in a dict instead of tables."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from operator import attrgetter
from typing import Any

from paybill_contracts.envelope import Fact
from paybill_contracts.event import Event
from paybill_contracts.personal import Personal
from paybill_runtime.app import Service
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, Loaded, UnitOfWork, decision_context
from paybill_runtime.jobs.effects import Effect, Job, Outcome, Refused, Timer
from paybill_runtime.jobs.kinds import RetryAfter

EMAIL = "ada.lovelace@acme.example"
_DUE: dict[str, Callable[[Any], datetime | None]] = {
    "look": lambda state: state.next_sync,
    "approval_expires": lambda state: state.approval.expires_at if state.approval and state.approval.is_open else None,
}
"""Times of timers that no attribute has by the name of their column."""
_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "refusal_code": lambda state: state.refusal.code if state.refusal else None,
}
"""Values of columns that no attribute has by their name."""


@dataclass
class EffectJob:
    """An effect that a fact requires. number: in the order of the facts."""

    number: int
    effect: Effect
    fact: Fact
    attempts: int = 0
    error: str = ""


@dataclass
class MemoryJob(Job[Any]):
    """An attempt of an effect that reads the states in memory."""

    service: "MemoryService"

    def now(self) -> datetime:
        """Returns the virtual time."""
        return self.service.clock()

    async def open(self, _value: Personal[str]) -> str:
        """Returns the contact address of each tenant."""
        return EMAIL

    async def ids(self, stored: Any, after: str, limit: int, **columns: str) -> list[str]:
        """Returns the ids of aggregates after the id `after`, in order, with these column values."""
        found = sorted(
            key.id
            for key, (state, _) in self.service.states.items()
            if key.kind == stored.kind
            and key.id > after
            and all(_COLUMNS.get(name, attrgetter(name))(state) == value for name, value in columns.items())
        )
        return found[:limit]

    async def in_log_order(self, within_s: float = 0.0) -> None:
        """Raises RetryAfter until the service has handled the fact of the job."""
        if not any(each is self.event for each in reversed(self.service.handled)):
            raise RetryAfter(max(within_s, 1.0), "earlier facts of the tenant are not handled yet")

    async def state(self, stored: Any, id_: str) -> Any:
        """Returns the state."""
        return self.service.state(stored, id_)


class MemoryService:
    """The states of a service, and its handlers, effects and timers. clock: the virtual time."""

    def __init__(self, service: Service, clock: Callable[[], datetime]) -> None:
        self.service = service
        self.clock = clock
        self.stored = {stored.kind: stored for stored in service.states}
        self.states: dict[Key, tuple[Any, int]] = {}
        self.facts: list[Fact] = []
        self.jobs: list[EffectJob] = []
        self.recorded: Callable[[Sequence[Fact], Sequence[EffectJob]], None] = lambda _facts, _jobs: None
        self.statements: Callable[[Statement], None] = lambda _: None
        self._numbers = count()
        self._paused: dict[tuple[str, Key], datetime] = {}
        self._timer: tuple[datetime, Any, Key] | None = None
        self._is_timer_known = False
        self.changes = 0
        self.handled: list[Event] = []
        """Facts that the service has handled."""

    def state(self, stored: Any, id_: str) -> Any:
        """Returns a state; None when it does not exist."""
        return self.states.get(stored.key(id_), (None, 0))[0]

    def all(self, stored: Any) -> list[Any]:
        """Returns all states of a kind."""
        return [state for key, (state, _) in self.states.items() if key.kind == stored.kind]

    def decide(
        self,
        decide: Callable[[UnitOfWork, DecisionContext], Any],
        writes: Sequence[Key] = (),
        reads: Sequence[Key] = (),
        extra_statements: Callable[[Statement], None] | None = None,
    ) -> Any:
        """Runs a decision and commits it: states, facts, and the effects that these require. Returns its outcome."""
        unit = UnitOfWork(self.clock())
        for key in (*reads, *writes):
            state, revision = self.states.get(key, (None, 0))
            unit.states[key] = Loaded(self.stored[key.kind], state, revision, revision, writable=key in writes)
        outcome = decide(unit, decision_context(self.clock(), self.service.name, str(len(self.facts))))
        for key, loaded in unit.states.items():
            if loaded.revision != loaded.base:
                self._is_timer_known = False
                self.changes += 1
                self.states[key] = loaded.state, loaded.revision
        if extra_statements is not None:
            statement = Statement()
            extra_statements(statement)
            self.statements(statement)
        self.facts += unit.facts
        jobs = []
        for fact in unit.facts:
            effect = self.service.jobs.effects.get(fact.event.TYPE)
            if effect is not None:
                jobs.append(EffectJob(next(self._numbers), effect, fact))
        self.jobs += jobs
        self.recorded(unit.facts, jobs)
        return outcome

    def handle(self, event: Event) -> None:
        """Handles a fact, if the service subscribes to it."""
        handler = self.service.subscriptions.fact_handlers.get(event.TYPE)
        if handler is not None:
            self.decide(
                lambda unit, at: handler.handle(unit, event, at),
                list(handler.writes(event)),
                list(handler.reads(event)),
            )
            self.handled.append(event)

    def is_blocked(self, job: EffectJob) -> bool:
        """Returns True while an earlier effect holds one of the locks of this one."""
        locks = set(job.effect.job.locks)
        return any(each.number < job.number and locks & set(each.effect.job.locks) for each in self.jobs)

    async def attempt(self, job: EffectJob, systems: Any) -> float | None:
        """Attempts an effect; returns the seconds until the next attempt, None at its end."""
        claimed = MemoryJob(
            job.fact.event, job.fact.id, job.attempts + 1, "", "", logging.getLogger("effect"), None, None, self
        )
        try:
            async for outcome in job.effect.run(claimed, systems):
                self._commit(outcome)
        except RetryAfter as wait:
            return max(wait.after_s or 1.0, 0.1)
        except Exception as error:  # noqa: BLE001  # as the runtime does
            job.attempts += 1
            job.error = str(error)
            if not isinstance(error, Refused) and job.attempts < job.effect.attempts:
                return 2.0**job.attempts
            if job.effect.failed is not None:
                self._commit(job.effect.failed(claimed, str(error)))
        self.jobs.remove(job)
        return None

    def _commit(self, outcome: Outcome) -> None:
        self.decide(outcome.decide, outcome.writes, outcome.reads, outcome.extra_statements)

    def next_timer(self) -> tuple[datetime, Any, Key] | None:
        """Returns the timer that is due first, and its aggregate."""
        if not self._is_timer_known:
            self._timer, self._is_timer_known = self._first_timer(), True
        return self._timer

    def _first_timer(self) -> tuple[datetime, Any, Key] | None:
        found = None
        for timer in self.service.timers:
            due_of = _DUE.get(timer.column, attrgetter(timer.column))
            for key, (state, _) in self.states.items():
                if key.kind != timer.stored.kind or (due := due_of(state)) is None:
                    continue
                due = max(due, self._paused.get((timer.column, key), due))
                if found is None or due < found[0]:
                    found = due, timer, key
        return found

    def fire(self, timer: Timer, key: Key) -> None:
        """Fires a timer, as the runtime does; one that records nothing pauses."""
        others = []
        if timer.owner is not None:
            owner = self.states[key][0].subscription.tenant_id
            same = (k for k, (state, _) in self.states.items() if k.kind == key.kind and k != key)
            others = [each.id for each in same if self.states[each][0].subscription.tenant_id == owner]
        extra = timer.extra_statements(key.id, self.clock()) if timer.extra_statements is not None else None
        reads = [Key(key.kind, other) for other in others]
        if not self.decide(timer.decision(key.id, others), [key], reads, extra):
            self.pause(timer, key, timer.pause_s)

    def pause(self, timer: Any, key: Key, pause_s: float) -> None:
        """Lets a timer of an aggregate fire no sooner than after this time."""
        self._is_timer_known = False
        self._paused[timer.column, key] = self.clock() + timedelta(seconds=pause_s)

    def differences(self, tenant_id: str) -> dict[int, str]:
        """Returns the invariants of the service that do not hold for a tenant, by their number."""
        invariants = self.service.invariants
        if invariants is None:
            return {}
        states = [self.states.get(key, (None, 0))[0] for key in invariants.keys(tenant_id)]
        found = invariants.differences(states, self.clock())
        return {number: f"{each.left}, and {each.right}" for number, each in found.items()}
