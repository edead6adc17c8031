"""Group commit: decisions that wait at the same moment share one transaction, and none can spoil another's."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import asyncpg
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database import Database
from paybill_runtime.errors import LeaseLostError, is_collision
from paybill_runtime.state import Key
from paybill_runtime.store import Store, lost_leases
from paybill_runtime.unit import Moment, Unit, moment

log = logging.getLogger(__name__)
T = TypeVar("T")
Decide = Callable[[Unit, Moment], T]
Extra = Callable[[AsyncConnection], Any]

MAX_GROUP = 128
MAX_TRIES = 5


@dataclass(slots=True, eq=False)
class Decision(Generic[T]):
    """One thing to decide. `held` are the leases it relies on; `also` runs in its transaction, if it recorded."""

    origin: Origin
    decide: Decide[T]
    writes: Sequence[Key] = ()
    reads: Sequence[Key] = ()
    held: Mapping[str, int] = field(default_factory=dict)
    also: Extra | None = None
    outcome: "T | None" = None
    error: BaseException | None = None


class _SpoiledError(Exception):
    """What one decision does besides failed, so the transaction that it shares cannot be committed."""


class Decider:
    """Runs decisions in groups. One transaction is open at a time; what arrives meanwhile forms the next group."""

    def __init__(self, service: str, database: Database, store: Store, committed: Callable[[], None]) -> None:
        self._service = service
        self._database = database
        self._store = store
        self._committed = committed
        self._queue: asyncio.Queue[tuple[Decision[Any], asyncio.Future[Any]]] = asyncio.Queue()

    async def decide(self, decision: Decision[T]) -> T:
        """The outcome, once it is committed. Raises what the decision raised, or why it could not be committed."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((decision, future))
        return await future

    async def run(self) -> None:
        """Take what waits, decide it, commit, answer; for ever."""
        while True:
            waiting = [await self._queue.get()]
            while len(waiting) < MAX_GROUP and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            wanted = [(decision, future) for decision, future in waiting if not future.cancelled()]
            decisions = [decision for decision, _ in wanted]
            try:
                await self.commit(decisions)
            except asyncio.CancelledError:
                for _, future in wanted:
                    future.cancel()
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is every waiting caller's answer
                for decision in decisions:
                    decision.error = decision.error or error
            for decision, future in wanted:
                if future.cancelled():
                    continue
                if decision.error is not None:
                    future.set_exception(decision.error)
                else:
                    future.set_result(decision.outcome)

    async def commit(self, decisions: Sequence[Decision[Any]]) -> None:
        """Decide and commit all of them; each holds its outcome or its error afterwards."""
        for attempt in range(MAX_TRIES):
            try:
                await self._once(decisions)
                break
            except (IntegrityError, _SpoiledError) as error:
                if len(decisions) > 1:
                    for decision in decisions:
                        await self.commit([decision])
                    return
                if isinstance(error, _SpoiledError):
                    return
                refusal = self.conflict(error)
                if refusal is not None:
                    decisions[0].error = refusal
                    return
                if not _same_revision(error) or attempt == MAX_TRIES - 1:
                    raise
            except Exception as error:
                if not is_collision(error) or attempt == MAX_TRIES - 1:
                    raise
        self._committed()

    async def _once(self, decisions: Sequence[Decision[Any]]) -> None:
        now = clock.now()
        unit = Unit(now)
        async with self._database.transaction() as connection:
            held = {name: epoch for decision in decisions for name, epoch in decision.held.items()}
            lost = await lost_leases(connection, held)
            await self._store.load(
                connection, unit, _keys(d.writes for d in decisions), _keys(d.reads for d in decisions)
            )
            for decision in decisions:
                decision.error = None
                if lost.intersection(decision.held):
                    decision.error = LeaseLostError("another process has taken over")
                    continue
                at = moment(now, self._service, decision.origin.cause)
                try:
                    with unit.attempt(decision.origin):
                        decision.outcome = decision.decide(unit, at)
                except Exception as error:  # noqa: BLE001  # it is this caller's answer; the others go on
                    decision.error = error
            for decision in decisions:
                if decision.error is None and decision.also is not None:
                    try:
                        await decision.also(connection)
                    except DomainError as error:
                        decision.error = error
                        raise _SpoiledError from error
            await self._store.save(connection, unit)

    def conflict(self, error: IntegrityError) -> Exception | None:
        """The refusal that a violated constraint stands for; None when it is no rule of the domain."""
        name = constraint_of(error)
        for stored in self._store.states.values():
            if name in stored.conflicts:
                return stored.conflicts[name]("this is taken already; choose another")
        return None


def _keys(groups: Iterable[Sequence[Key]]) -> set[Key]:
    return {key for keys in groups for key in keys}


def constraint_of(error: IntegrityError) -> str:
    """The name of the constraint that was violated."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return cause.constraint_name or "" if isinstance(cause, asyncpg.IntegrityConstraintViolationError) else ""


def _same_revision(error: IntegrityError) -> bool:
    return constraint_of(error).startswith("outbox_aggregate")
