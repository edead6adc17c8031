"""Declarations of a service's jobs: effects (calls to other systems that a fact requires) and timers."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from paybill_contracts.envelope import Fact
from paybill_contracts.event import Event, partition_of
from paybill_contracts.personal import Personal

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import ExtraStatements
from paybill_runtime.decisions.aggregates import Key, Stored
from paybill_runtime.decisions.group_commit import Decide
from paybill_runtime.decisions.job_rows import RESOURCE, Priority, RequiredJob
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.handled_signals import HandledSignals
from paybill_runtime.jobs.kinds import Limit, RetryAfter
from paybill_runtime.security.data_keys import DataKeys

# Its sequence is that of the inbox; a consumer that subscribes to the type only since an upgrade has passed it. None of
# the tenant's messages before it may be in the retry queue.
_HANDLED = (
    "SELECT EXISTS (SELECT FROM (SELECT sequence FROM chassis.inbox WHERE event_id = $1::text::uuid UNION ALL "
    "SELECT p.sequence FROM chassis.outbox AS o JOIN chassis.publication AS p USING (position) "
    "JOIN chassis.position AS h ON h.stream = 'EVENTS' AND h.partition = $2 AND h.sequence >= p.sequence "
    "WHERE o.event_id = $1::text::uuid) AS f WHERE NOT EXISTS (SELECT FROM chassis.parked AS k "
    "WHERE k.partition = $2 AND k.tenant = $3 AND k.sequence <= f.sequence))"
)
_ORDER_PAUSE_S = 0.05
E = TypeVar("E", bound=Event)
S = TypeVar("S")


class Refused(Exception):  # noqa: N818  # an answer of another system, not an error of ours
    """Raised by an effect when the other system refuses permanently: a retry cannot help. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call: decided and committed in one transaction under the lease. `last` also ends the effect.

    A failure whose outcome is `last` ends its job as done: it is an answer, and a retry would change nothing.

    extra_statements: changes of tables that hold no state, in the same transaction.
    """

    decide: Decide[Any]
    writes: Sequence[Key] = ()
    reads: Sequence[Key] = ()
    last: bool = False
    extra_statements: ExtraStatements | None = None


@dataclass(slots=True)
class Job(Generic[E]):
    """One attempt of an effect. `id` is the fact's id: the idempotency key of its calls, the same at every attempt."""

    event: E
    id: str
    attempt: int
    tenant: str
    traceparent: str
    log: logging.Logger
    _keys: DataKeys = field(repr=False)
    _database: Database = field(repr=False)
    _handled: HandledSignals = field(default_factory=HandledSignals, repr=False, kw_only=True)

    def now(self) -> datetime:
        """Returns the current time."""
        return clock.now()

    async def open(self, value: Personal[str]) -> str:
        """Returns a personal value in plain text; do not store it."""
        return await self._keys.open(value)

    async def in_log_order(self, within_s: float = 0.2) -> None:
        """Returns when this service has handled the fact of the job, and with it all earlier ones of the tenant.

        For a fact to which its own service subscribes: what precedes it in the log is in the state then. Raises
        RetryAfter after `within_s`, so that no slot is kept while NATS is away.
        """
        with self._handled.signal(self.id) as signal:
            if await self._is_handled():
                return
            await clock.wait_for_event(signal, within_s)
            if await self._is_handled():
                return
        raise RetryAfter(_ORDER_PAUSE_S, "earlier facts of the tenant are not handled yet")

    async def _is_handled(self) -> bool:
        async with self._database.direct() as connection:
            return bool(await connection.fetchval(_HANDLED, self.id, partition_of(self.tenant), self.tenant))

    async def state(self, stored: Stored[S], id_: str) -> S | None:
        """Returns the committed state of an aggregate, without a lock."""
        query = f"SELECT state::text FROM {stored.table.name} WHERE id = $1"  # noqa: S608  # from our code
        async with self._database.direct() as connection:
            state = await connection.fetchval(query, id_)
        return stored.load(state) if state is not None else None

    async def ids(self, stored: Stored[Any], after: str, limit: int, **columns: str) -> list[str]:
        """Returns the ids of at most `limit` aggregates after the id `after`, in order, with these column values."""
        equal = "".join(f" AND {name} = ${number}" for number, name in enumerate(columns, 3))
        query = f"SELECT id FROM {stored.table.name} WHERE id > $1{equal} ORDER BY id LIMIT $2"  # noqa: S608  # from our code
        async with self._database.direct() as connection:
            return [row["id"] for row in await connection.fetch(query, after, limit, *columns.values())]


Run = Callable[[Job[E], Any], AsyncIterator[Outcome]]
Failed = Callable[[Job[E], str], Outcome]


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one type of fact."""

    name: str
    run: Callable[[Any, Any], AsyncIterator[Outcome]]
    failed: Callable[[Any, str], Outcome] | None
    attempts: int
    job: RequiredJob
    limit: Limit | None
    cancelled: Callable[[Any, str], Outcome] | None = None


class JobRegistry:
    """The effects of a service, by the type of fact that requires them."""

    def __init__(self, *parts: "JobRegistry") -> None:
        """Merges the effects of `parts`, such as those of the service's modules."""
        self.effects: dict[str, Effect] = {}
        for part in parts:
            for type_, effect in part.effects.items():
                self._add(type_, effect)

    def effect(
        self,
        event: type[E],
        *,
        attempts: int = 8,
        failed: "Failed[E] | None" = None,
        cancelled: "Failed[E] | None" = None,
        locks: tuple[str, ...] = (RESOURCE,),
        priority: Priority = Priority.INTERACTIVE,
        within_s: float | None = None,
        limit: Limit | None = None,
    ) -> Callable[["Run[E]"], "Run[E]"]:
        """Registers an effect of `event`; after `attempts` failures the outcome of `failed` is recorded.

        cancelled: its outcome is recorded when an operator cancels the job, so that nothing waits for it any more.

        locks: names of the tenant's resources on which it works: effects that share one run in the order of their
        facts, others side by side. within_s: after this time a failed attempt is the last one. limit: shared
        with the other effects that have it; with `per`, a system has kinds of jobs of its own, such as `cancel/stripe`.
        """

        def register(function: "Run[E]") -> "Run[E]":
            name = getattr(function, "__name__", event.TYPE)
            job = RequiredJob(name, locks, priority, within_s)
            self._add(event.TYPE, Effect(name, function, failed, attempts, job, limit, cancelled))
            return function

        return register

    def _add(self, type_: str, effect: Effect) -> None:
        if type_ in self.effects:
            raise TypeError(f"{type_} has an effect already; call the second function from the first")
        self.effects[type_] = effect

    def required_jobs(self, fact: Fact) -> list[RequiredJob]:
        """Returns the jobs that a fact requires."""
        effect = self.effects.get(fact.event.TYPE)
        if effect is None:
            return []
        per = effect.limit.per if effect.limit is not None else None
        system = getattr(fact.event, per) if per is not None else None
        return [effect.job if system is None else replace(effect.job, kind=f"{effect.name}/{system}")]


@dataclass(frozen=True, slots=True)
class DueJob:
    """A kind of jobs of which one is requested whenever a point in time of any aggregate has passed.

    column: as of Timer. The job has to change the columns of all aggregates that are due.
    """

    stored: Stored[Any]
    column: str
    kind: str


@dataclass(frozen=True, slots=True)
class Timer:
    """A rule that runs when a point in time of an aggregate has passed.

    column: the generated text column with that time, empty when nothing is due. on_time: decides from the state and
    the time; its events have to change the column, so that the timer fires once. extra_statements: from the id and the
    time, changes of tables that hold no state, in the same transaction. owner: the column of the aggregate's owner;
    then on_time also receives the other aggregates of that owner.
    """

    stored: Stored[Any]
    column: str
    on_time: Callable[..., Sequence[Event]]
    extra_statements: Callable[[str, datetime], ExtraStatements] | None = None
    owner: str | None = None
    pause_s: float = 5.0
    """Pause of an aggregate whose rule records nothing although its timer is due."""

    def decision(self, id_: str, others: Sequence[str] = ()) -> Decide[int]:
        """Returns the decision for one aggregate, on its current state; its outcome is the number of events."""

        def decide(unit: UnitOfWork, context: DecisionContext) -> int:
            state = unit.get(self.stored, id_)
            others_of_owner = [other for name in others if (other := unit.get(self.stored, name)) is not None]
            more = (others_of_owner,) if self.owner is not None else ()
            events = self.on_time(state, context.now, *more) if state is not None else ()
            unit.record(self.stored, id_, events)
            return len(events)

        return decide
