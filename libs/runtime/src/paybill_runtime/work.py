"""Effects: calls to the outside world that a recorded fact intends. They run at least once, never inside a transaction."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from opentelemetry.trace import SpanKind
from paybill_contracts.envelope import Fact, Origin, read_fact
from paybill_contracts.event import Event
from paybill_contracts.personal import Personal
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database import Database
from paybill_runtime.decide import Decide, Decider, Decision
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError
from paybill_runtime.keys import DataKeys
from paybill_runtime.leases import Leases, partition_lease
from paybill_runtime.parking import delay_s, reason
from paybill_runtime.state import Key, Stored
from paybill_runtime.telemetry import span, tenant_var

log = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)
S = TypeVar("S")

CONCURRENCY = 16
POLL_S = 0.5

_DUE = text(
    "SELECT e.event_id, e.work, e.tenant, e.partition, e.attempts, o.subject, o.headers, o.payload, o.revision "
    "FROM (SELECT DISTINCT ON (tenant) * FROM chassis.effect WHERE state = 'pending' ORDER BY tenant, position) AS e "
    "JOIN chassis.outbox AS o USING (event_id) "
    "WHERE e.partition = ANY(:partitions) AND e.next_at <= :now AND NOT e.tenant = ANY(:busy) ORDER BY e.position LIMIT :limit"
)
_DONE = text("UPDATE chassis.effect SET state = :state, reason = :reason WHERE event_id = :id AND work = :work")
_LATER = text(
    "UPDATE chassis.effect SET attempts = :attempts, next_at = :next_at, reason = :reason WHERE event_id = :id AND work = :work"
)


class Refused(Exception):  # noqa: N818  # an answer of the outside world, not an error of ours
    """The outside world said no for good: trying again cannot help. The message is the reason."""


class RetryAfter(Exception):  # noqa: N818  # as above
    """The outside world said when to come back; this does not count as a failed attempt."""

    def __init__(self, after_s: float, why: str) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call: decided and committed in one transaction, under the fence. `last` also ends the effect."""

    decide: Decide[Any]
    writes: Sequence[Key] = ()
    reads: Sequence[Key] = ()
    last: bool = False


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
        query = text(f"SELECT state::text AS state FROM {stored.table.name} WHERE id = :id")
        async with self._database.transaction() as connection:
            row = (await connection.execute(query, {"id": id_})).one_or_none()
        return stored.load(row.state) if row is not None else None


Run = Callable[[Job[E], Any], AsyncIterator[Outcome]]
Failed = Callable[[Job[E], str], Outcome]


@dataclass(frozen=True, slots=True)
class Effect:
    """How the effect of one type of fact is done."""

    name: str
    run: Callable[[Any, Any], AsyncIterator[Outcome]]
    failed: Callable[[Any, str], Outcome] | None
    attempts: int


class Work:
    """The table of a service's work.py: each type of fact and the effect that it intends."""

    def __init__(self) -> None:
        self.effects: dict[str, Effect] = {}

    def effect(
        self, event: type[E], *, attempts: int = 8, failed: "Failed[E] | None" = None
    ) -> Callable[["Run[E]"], "Run[E]"]:
        """Do this when `event` was recorded; after `attempts` failures, `failed` says what that means."""

        def register(function: "Run[E]") -> "Run[E]":
            if event.TYPE in self.effects:
                raise TypeError(f"{event.TYPE} has an effect already")
            self.effects[event.TYPE] = Effect(getattr(function, "__name__", event.TYPE), function, failed, attempts)
            return function

        return register

    def of(self, fact: Fact) -> list[str]:
        """The names of the effects that a fact intends."""
        effect = self.effects.get(fact.event.TYPE)
        return [effect.name] if effect is not None else []


class Worker:
    """Does what is due, one effect of a tenant at a time and in order, many tenants at once."""

    def __init__(  # it is where everything that an effect needs comes together
        self,
        service: str,
        work: Work,
        effects: Any,
        database: Database,
        decider: Decider,
        leases: Leases,
        keys: DataKeys,  # the service's own
    ) -> None:
        self._service = service
        self._work = work
        self._effects = effects
        self._database = database
        self._decider = decider
        self._leases = leases
        self._keys = keys
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        leases.on_change(self._wake.set)

    def wake(self) -> None:
        """Something was committed; it may intend effects."""
        self._wake.set()

    async def run(self) -> None:
        """Look for what is due, for ever."""
        try:
            while True:
                self._wake.clear()
                try:
                    found = await self._start_due()
                except DatabaseUnavailableError as error:
                    log.warning("effects wait: %s", error)
                    found = 0
                if not found:
                    await self._idle()
        finally:
            for task in self._busy.values():
                task.cancel()

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):  # not wait_for: before 3.12 it can swallow a cancellation
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_due(self) -> int:
        room = CONCURRENCY - len(self._busy)
        partitions = self._leases.partitions()
        if room <= 0 or not partitions or not self._work.effects:
            return 0
        values = {"partitions": partitions, "now": clock.now(), "busy": list(self._busy), "limit": room}
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_DUE, values)).all()
        for row in rows:
            task = asyncio.create_task(self._one(row))
            self._busy[row.tenant] = task
            task.add_done_callback(lambda _, tenant=row.tenant: self._finished(tenant))
        return len(rows)

    def _finished(self, tenant: str) -> None:
        self._busy.pop(tenant, None)
        self._wake.set()

    async def _one(self, row: Row[Any]) -> None:
        token = tenant_var.set(row.tenant)
        try:
            await self._attempt(row)
        except (DatabaseUnavailableError, LeaseLostError) as error:
            log.warning("the effect %s of %s stops: %s", row.work, row.event_id, error)
            await asyncio.sleep(POLL_S)
        finally:
            tenant_var.reset(token)

    async def _attempt(self, row: Row[Any]) -> None:
        fact = read_fact(row.subject, json.loads(row.headers), bytes(row.payload))
        effect = self._work.effects[fact.event.TYPE]
        with span(f"effect {row.work}", fact.origin.traceparent, SpanKind.CLIENT) as here:
            job: Job[Any] = Job(
                fact.event,
                fact.id,
                row.attempts + 1,
                row.tenant,
                here,
                logging.getLogger(f"effect.{row.work}"),
                self._keys,
                self._database,
            )
            origin = Origin(fact.id, fact.origin.correlation, f"service:{self._service}", here)
            try:
                ended = False
                async for outcome in effect.run(job, self._effects):
                    await self._commit(row, outcome, origin, done=outcome.last)
                    ended = outcome.last
                if not ended:
                    await self._finish(row, "done", "")
            except (DatabaseUnavailableError, LeaseLostError):
                raise
            except RetryAfter as error:
                await self._later(row, row.attempts, error.after_s, str(error))
            except Exception as error:  # noqa: BLE001  # every failure of the outside world is tried again or recorded
                await self._failed(row, effect, job, origin, error)

    async def _failed(self, row: Row[Any], effect: Effect, job: Job[Any], origin: Origin, error: Exception) -> None:
        attempts = row.attempts + 1
        why = str(error)[:400] if isinstance(error, Refused) else reason(error)
        if not isinstance(error, Refused) and attempts < effect.attempts:
            log.warning("the effect %s failed (attempt %d of %d): %s", row.work, attempts, effect.attempts, why)
            await self._later(row, attempts, delay_s(attempts), why)
            return
        log.error("the effect %s failed for good: %s", row.work, why, exc_info=error)
        if effect.failed is not None:
            await self._commit(row, effect.failed(job, why), origin, done=False)
        await self._finish(row, "failed", why)

    async def _commit(self, row: Row[Any], outcome: Outcome, origin: Origin, *, done: bool) -> None:
        held = self._held(row)

        async def finish(connection: AsyncConnection) -> None:
            await connection.execute(_DONE, {"id": row.event_id, "work": row.work, "state": "done", "reason": None})

        await self._decider.decide(
            Decision(origin, outcome.decide, outcome.writes, outcome.reads, held, finish if done else None)
        )

    async def _finish(self, row: Row[Any], state: str, why: str) -> None:
        values = {"id": row.event_id, "work": row.work, "state": state, "reason": why or None}
        async with self._database.transaction() as connection:
            await connection.execute(_DONE, values)

    async def _later(self, row: Row[Any], attempts: int, after_s: float, why: str) -> None:
        next_at = clock.now() + timedelta(seconds=after_s)
        values = {"id": row.event_id, "work": row.work, "attempts": attempts, "next_at": next_at, "reason": why}
        async with self._database.transaction() as connection:
            await connection.execute(_LATER, values)

    def _held(self, row: Row[Any]) -> dict[str, int]:
        held = self._leases.some([partition_lease(row.partition)])
        if not held:
            raise LeaseLostError(f"partition {row.partition} is not ours any more")
        return held


class Timers:
    """Fires what is due. Any replica may: the rule looks again under the aggregate's lock, so a timer fires once."""

    def __init__(self, timers: "Sequence[Timer]", service: str, database: Database, decider: Decider) -> None:
        self._timers = timers
        self._service = service
        self._database = database
        self._decider = decider

    async def run(self) -> None:
        """Look once every quarter of a second, for ever."""
        while True:
            for timer in self._timers:
                try:
                    await self._fire(timer)
                except DatabaseUnavailableError as error:
                    log.warning("timers wait: %s", error)
            await asyncio.sleep(0.25)

    async def _fire(self, timer: "Timer") -> None:
        stored = timer.stored
        now = clock.now()
        query = text(
            f"SELECT id FROM {stored.table.name} WHERE {timer.column} <= :now ORDER BY {timer.column} LIMIT 64"
        )
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query, {"now": now.replace(tzinfo=None).isoformat()})).all()
        for row in rows:
            cause = f"timer:{stored.kind}/{row.id}"
            origin = Origin(cause, cause, f"service:{self._service}", "")
            await self._decider.decide(Decision(origin, timer.decision(row.id), [stored.key(row.id)]))


@dataclass(frozen=True, slots=True)
class Timer:
    """A rule that time alone sets off. `column` is the generated text column that holds when; `on_time` decides."""

    stored: Stored[Any]
    column: str
    on_time: Callable[[Any, Any], Sequence[Event]]

    def decision(self, id_: str) -> Decide[None]:
        """Decide for one aggregate; it looks again under the lock, so that a timer fires once."""

        def decide(unit: Any, at: Any) -> None:  # Unit and Moment
            state = unit.get(self.stored, id_)
            if state is not None:
                unit.record(self.stored, id_, self.on_time(state, at.now))

        return decide
