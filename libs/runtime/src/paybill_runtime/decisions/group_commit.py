"""Group commit: concurrent decisions share one transaction, and a failing one does not affect the others."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_runtime import clock
from paybill_runtime.database.dry_run import is_dry_run
from paybill_runtime.database.pool import Connection, Database
from paybill_runtime.database.retry import retry_on_conflict
from paybill_runtime.database.statement import ExtraStatements
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.restore_guard import RestoreGuard
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork, decision_context
from paybill_runtime.errors import (
    DatabaseUnavailableError,
    RequestInProgressError,
    UnknownOutcomeError,
    constraint_of,
)
from paybill_runtime.http.dry_run import DryRunEnded

T = TypeVar("T")
Decide = Callable[[UnitOfWork, DecisionContext], T]
InTransaction = Callable[[AsyncConnection], Any]

MAX_GROUP = 128


class OnCommit(Protocol):
    """Called after every commit."""

    def __call__(self, *, requires_jobs: bool) -> None:
        """Wakes what waits for commits; `requires_jobs`: the worker, too."""


@dataclass(slots=True, eq=False)
class Decision(Generic[T]):
    """One decision, and later its outcome or its error.

    decide: may run again when the transaction cannot be committed, so it only reads the unit and records on it.
    leases: the fencing tokens that it relies on. extra_statements: added to the statement that writes it, unless it
    refused. in_transaction: runs more statements in its transaction; slower, because they need one around them.
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
    """Runs decisions in groups. One transaction is open at a time; decisions that arrive meanwhile form the next."""

    def __init__(
        self, service: str, database: Database, store: Store, on_commit: OnCommit, restore_guard: RestoreGuard
    ) -> None:
        self._service = service
        self._database = database
        self._store = store
        self._on_commit = on_commit
        self._restore_guard = restore_guard
        self._turn = asyncio.Lock()
        self._queue: asyncio.Queue[tuple[Decision[Any], asyncio.Future[Any]]] = asyncio.Queue()

    async def decide(self, decision: Decision[T]) -> T:
        """Returns the outcome after the commit. Raises the decision's error, or the reason why the commit failed.

        In a dry run nothing is committed: it raises DryRunEnded, or the same errors.
        """
        if is_dry_run():
            raise await self._rehearse(decision)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((decision, future))
        return await future

    async def run(self) -> None:
        """Decides, commits and answers waiting decisions, until cancelled. After a fault it may be called again."""
        group: list[tuple[Decision[Any], asyncio.Future[Any]]] = []
        try:
            while True:
                group = [await self._queue.get()]
                while len(group) < MAX_GROUP and not self._queue.empty():
                    group.append(self._queue.get_nowait())
                # A caller that was cancelled before this point gets no decision; one cancelled later gets no answer.
                group = [(decision, future) for decision, future in group if not future.cancelled()]
                await self.commit([decision for decision, _ in group])
                for decision, future in group:
                    if future.cancelled():
                        continue
                    if decision.error is not None:
                        future.set_exception(decision.error)
                    else:
                        future.set_result(decision.outcome)
                group = []
        except asyncio.CancelledError:
            while not self._queue.empty():
                group.append(self._queue.get_nowait())
            for _, future in group:
                future.cancel()
            raise
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            raise

    async def commit(self, decisions: Sequence[Decision[Any]]) -> None:
        """Decides and commits all of them; afterwards each holds its outcome or its error.

        When the shared transaction fails, each decision gets a transaction of its own, so that only one fails.
        """
        if not decisions:
            return
        try:
            requires_jobs = await retry_on_conflict(lambda: self._once(decisions))
        except Exception as error:  # noqa: BLE001  # every error is the answer to the caller of the decision
            if len(decisions) > 1 and not isinstance(error, DatabaseUnavailableError):
                for decision in decisions:
                    await self.commit([decision])
                return
            if isinstance(error, UnknownOutcomeError):
                self._on_commit(requires_jobs=True)  # it may be committed
            refusal = self.domain_error_for(error)
            for decision in decisions:
                decision.error = refusal or error
        else:
            self._on_commit(requires_jobs=requires_jobs)

    async def _rehearse(self, decision: Decision[Any]) -> DryRunEnded:
        """Decides and writes in a transaction that is rolled back; returns the end of the dry run."""
        try:
            return await retry_on_conflict(lambda: self._rehearse_once(decision))
        except Exception as error:
            refusal = self.domain_error_for(error)
            if refusal is None:
                raise
            raise refusal from error

    async def _rehearse_once(self, decision: Decision[Any]) -> DryRunEnded:
        # In turn with the commits: among many of them a rehearsal would lose every conflict.
        async with self._turn:
            unit = await self._decided([decision])
            if decision.error is not None:
                raise decision.error
            async with self._database.rehearsal() as connection:
                await self._write(connection, unit, [decision])
        return DryRunEnded(unit.facts, decision.outcome)

    async def _once(self, decisions: Sequence[Decision[Any]]) -> bool:
        """Decides and commits in one transaction; returns whether a job is required."""
        async with self._turn:
            unit = await self._decided(decisions, may_keep=True)
            if unit.has_kept and not _is_written(unit, decisions):
                # Nothing would check the kept states, so that a refusal or a repeated answer could be out of date.
                self._store.forget(unit)
                unit = await self._decided(decisions, may_keep=True)
            try:
                requires_jobs = await self._committed(unit, decisions)
            except BaseException:
                self._store.forget(unit)
                raise
            self._store.keep(unit)
            return requires_jobs

    async def _committed(self, unit: UnitOfWork, decisions: Sequence[Decision[Any]]) -> bool:
        """Commits a unit, if it has anything to write; returns whether a job is required."""
        if not _is_written(unit, decisions):
            return False
        decided = [decision for decision in decisions if decision.error is None]
        if any(decision.in_transaction is not None for decision in decided):
            async with self._database.transaction() as transaction:
                return await self._write(transaction, unit, decided)
        async with self._database.direct(committing=True) as connection:
            return await self._write(connection, unit, decided)

    async def _decided(self, decisions: Sequence[Decision[Any]], *, may_keep: bool = False) -> UnitOfWork:
        """Returns a unit of work with the facts of the decisions; each has its outcome or its error.

        may_keep: decides on kept states where there are some.
        """
        self._restore_guard.check()
        unit = UnitOfWork(clock.now())
        writes = list(_keys(d.writes for d in decisions))
        reads = list(_keys(d.reads for d in decisions).difference(writes))
        if may_keep:
            reads = self._store.use_kept(unit, reads, writable=False)
            writes = self._store.use_kept(unit, writes, writable=True)
        if writes or reads:
            async with self._database.direct() as connection:
                await self._store.load(connection, unit, writes, reads)
        for decision in decisions:
            decision.error = None
            context = decision_context(unit.now, self._service, decision.origin.cause)
            try:
                with unit.savepoint(decision.origin):
                    decision.outcome = decision.decide(unit, context)
            except Exception as error:  # noqa: BLE001  # the answer to this caller; the other decisions are unaffected
                decision.error = error
        return unit

    async def _write(self, connection: Connection, unit: UnitOfWork, decided: Sequence[Decision[Any]]) -> bool:
        """Writes the decisions; returns whether a job is required."""
        if isinstance(connection, AsyncConnection):
            for decision in decided:
                if decision.in_transaction is not None:
                    await decision.in_transaction(connection)
        leases = {lease for decision in decided for lease in decision.leases.items()}
        extra = [add for decision in decided for add in decision.extra_statements]
        return await self._store.write(connection, unit, leases, extra)

    def domain_error_for(self, error: Exception) -> DomainError | None:
        """Returns the domain error for a violated constraint; None when there is none for it."""
        name = constraint_of(error)
        if name == "idempotency_pkey":
            return RequestInProgressError("the same request is in progress; send it again")
        for stored in self._store.states.values():
            if name in stored.conflicts:
                return stored.conflicts[name]("this value is already in use; choose another")
        return None


def _is_written(unit: UnitOfWork, decisions: Sequence[Decision[Any]]) -> bool:
    """Returns whether committing the decisions writes anything, and so checks the states that they were made on."""
    return bool(unit.facts) or any(
        decision.error is None and (decision.extra_statements or decision.in_transaction is not None)
        for decision in decisions
    )


def _keys(groups: Iterable[Sequence[Key]]) -> set[Key]:
    return {key for keys in groups for key in keys}
