"""Group commit: decisions that wait at the same moment share one transaction, and none can spoil another's."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import Statement, Store
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork, decision_context
from paybill_runtime.errors import (
    DatabaseUnavailableError,
    RequestInProgressError,
    constraint_of,
    is_transaction_conflict,
)

T = TypeVar("T")
Decide = Callable[[UnitOfWork, DecisionContext], T]
ExtraStatements = Callable[[Statement], None]
InTransaction = Callable[[AsyncConnection], Any]

MAX_GROUP = 128
MAX_TRIES = 5
_CONFLICT_CONSTRAINTS = {"outbox_aggregate_revision_key", "inbox_pkey"}
"""Constraints that say that another was first with this revision, or with this message."""


@dataclass(slots=True, eq=False)
class Decision(Generic[T]):
    """One thing to decide.

    decide: called again when the transaction cannot be committed, so it only looks at the unit and records on it.
    held: the leases that it relies on. besides: add to the statement that writes it, unless it refused.
    also: does more in its transaction, which is dearer, for then there has to be one around the statement.
    """

    origin: Origin
    decide: Decide[T]
    writes: Sequence[Key] = ()
    reads: Sequence[Key] = ()
    leases: Mapping[str, int] = field(default_factory=dict)
    extra_statements: Sequence[ExtraStatements] = ()
    in_transaction: InTransaction | None = None
    outcome: "T | None" = None
    error: BaseException | None = None


class GroupCommit:
    """Runs decisions in groups. One transaction is open at a time; what arrives meanwhile forms the next group."""

    def __init__(
        self, service: str, database: Database, store: Store, on_commit: Callable[[], None], restore_guard: RestoreGuard
    ) -> None:  # what it brings together
        self._service = service
        self._database = database
        self._store = store
        self._on_commit = on_commit
        self._restore_guard = restore_guard
        self._queue: asyncio.Queue[tuple[Decision[Any], asyncio.Future[Any]]] = asyncio.Queue()

    async def decide(self, decision: Decision[T]) -> T:
        """The outcome, once it is committed. Raises what the decision raised, or why it could not be committed."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((decision, future))
        return await future

    async def run(self) -> None:
        """Take what waits, decide it, commit, answer; for ever."""
        taken: list[tuple[Decision[Any], asyncio.Future[Any]]] = []
        try:
            while True:
                taken = [await self._queue.get()]
                while len(taken) < MAX_GROUP and not self._queue.empty():
                    taken.append(self._queue.get_nowait())
                # Whoever gave up before it began is not decided for; whoever gives up later just hears no answer.
                taken = [(decision, future) for decision, future in taken if not future.cancelled()]
                await self.commit([decision for decision, _ in taken])
                for decision, future in taken:
                    if future.cancelled():
                        continue
                    if decision.error is not None:
                        future.set_exception(decision.error)
                    else:
                        future.set_result(decision.outcome)
                taken = []
        finally:
            while not self._queue.empty():
                taken.append(self._queue.get_nowait())
            for _, future in taken:
                future.cancel()

    async def commit(self, decisions: Sequence[Decision[Any]]) -> None:
        """Decide and commit all of them; afterwards each holds its outcome or its error.

        What one of them does may fail the transaction that all share: then each has one of its own, and only it fails.
        """
        if not decisions:
            return
        try:
            await retry_on_conflict(lambda: self._once(decisions))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer to whoever decided it
            if len(decisions) > 1 and not isinstance(error, DatabaseUnavailableError):
                for decision in decisions:
                    await self.commit([decision])
                return
            refusal = self.domain_error_for(error)
            for decision in decisions:
                decision.error = refusal or error
        else:
            self._on_commit()

    async def _once(self, decisions: Sequence[Decision[Any]]) -> None:
        self._restore_guard.check()
        unit = UnitOfWork(clock.now())
        async with self._database.direct() as connection:
            await self._store.load(
                connection, unit, _keys(d.writes for d in decisions), _keys(d.reads for d in decisions)
            )
        for decision in decisions:
            decision.error = None
            try:
                with unit.savepoint(decision.origin):
                    decision.outcome = decision.decide(
                        unit, decision_context(unit.now, self._service, decision.origin.cause)
                    )
            except Exception as error:  # noqa: BLE001  # it is this caller's answer; the others go on
                decision.error = error
        decided = [decision for decision in decisions if decision.error is None]
        held = {lease for decision in decided for lease in decision.leases.items()}
        besides = [add for decision in decided for add in decision.extra_statements]
        extra = [decision.in_transaction for decision in decided if decision.in_transaction is not None]
        if extra:
            async with self._database.transaction() as connection:
                for also in extra:
                    await also(connection)
                await self._store.write(connection, unit, held, extra_statements=besides)
        elif unit.facts or besides:
            async with self._database.direct(committing=True) as connection:
                await self._store.write(connection, unit, held, extra_statements=besides)

    def domain_error_for(self, error: Exception) -> DomainError | None:
        """The refusal that a violated constraint stands for; None when it is no rule of the domain."""
        name = constraint_of(error)
        if name == "idempotency_pkey":
            return RequestInProgressError("the same request is being answered already; send it again")
        for stored in self._store.states.values():
            if name in stored.conflicts:
                return stored.conflicts[name]("this is taken already; choose another")
        return None


async def retry_on_conflict(act: Callable[[], Awaitable[T]]) -> T:
    """What a transaction comes to, run again when another one came in between and won."""
    for _ in range(MAX_TRIES - 1):
        try:
            return await act()
        except Exception as error:
            if not is_transaction_conflict(error) and constraint_of(error) not in _CONFLICT_CONSTRAINTS:
                raise
    return await act()


def _keys(groups: Iterable[Sequence[Key]]) -> set[Key]:
    return {key for keys in groups for key in keys}
