"""Loads aggregates and saves them together with their outbox rows: one statement each for any number of rows.

Nothing is locked while a decision is made (optimistic concurrency): the statement that writes it checks the revisions
that were loaded, and fails with a conflict when another transaction changed one. So it may be made on kept states, too:
those of the last commit of this process (decision 0047).
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from paybill_runtime.database.leases import RELAY
from paybill_runtime.database.pool import Connection, fetch_rows
from paybill_runtime.database.statement import STATE_CHANGED, ExtraStatements, Statement
from paybill_runtime.decisions import outbox
from paybill_runtime.decisions.aggregates import AnyStored, Key
from paybill_runtime.decisions.job_rows import JobRequest, RequiredJobs, request_job, require_jobs
from paybill_runtime.decisions.unit_of_work import Loaded, UnitOfWork

Queries = Callable[[Statement], Sequence[str]]
"""Returns more SELECTs for the round trip of `load`: a negative number, a text, a bigint and a text each."""


JobRequests = Callable[[UnitOfWork], Iterable[JobRequest]]
"""Returns the jobs without a fact that the changes of a decision require."""


KEPT = 1024
"""States that a process keeps, those that were used last."""


def _no_requests(_: UnitOfWork) -> Iterable[JobRequest]:
    return ()


class Store:
    """The states of one service.

    required_jobs: returns the jobs that a fact requires; they are stored with it. is_held: as of Statement.
    sign: signs the facts of a transaction.
    """

    def __init__(
        self,
        states: Sequence[AnyStored],
        required_jobs: RequiredJobs,
        is_held: Callable[[str], bool],
        sign: outbox.Sign,
        job_requests: JobRequests = _no_requests,
    ) -> None:
        self.states: Mapping[str, AnyStored] = {stored.kind: stored for stored in sorted(states, key=lambda s: s.kind)}
        self._required_jobs = required_jobs
        self._is_held = is_held
        self._sign = sign
        self._job_requests = job_requests
        self._kept: OrderedDict[Key, tuple[Any, int]] = OrderedDict()

    def use_kept(self, unit: UnitOfWork, keys: Iterable[Key], *, writable: bool) -> list[Key]:
        """Adds kept states to a unit; returns the keys of those that have to be loaded."""
        missing = []
        for key in keys:
            if key in self._kept:
                state, revision = self._kept[key]
                unit.states[key] = Loaded(self.states[key.kind], state, revision, revision, writable, kept=True)
            else:
                missing.append(key)
        return missing

    def keep(self, unit: UnitOfWork) -> None:
        """Keeps the states of a unit that was committed, or that was loaded and changes nothing."""
        for key, loaded in unit.states.items():
            if loaded.stored.kept and loaded.revision:
                self._kept[key] = loaded.state, loaded.revision
                self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def forget(self, unit: UnitOfWork) -> None:
        """Keeps the states of a unit no longer: one of them may have been changed by another transaction."""
        for key in unit.states:
            self._kept.pop(key, None)

    async def load(
        self,
        connection: Connection,
        unit: UnitOfWork,
        writes: Iterable[Key],
        reads: Iterable[Key] = (),
        queries: Queries | None = None,
    ) -> list[tuple[int, str, int]]:
        """Loads states into `unit`; returns the number, text and bigint of the rows of `queries`."""
        for key in reads:
            unit.states[key] = Loaded(self.states[key.kind], None, 0, 0, writable=False)
        for key in writes:
            unit.states[key] = Loaded(self.states[key.kind], None, 0, 0, writable=True)
        ids: dict[str, list[str]] = defaultdict(list)
        for (kind, id_), loaded in unit.states.items():
            if not loaded.kept and "\0" not in id_:  # PostgreSQL cannot store it, so no aggregate has such an id
                ids[kind].append(id_)
        kinds = [kind for kind in self.states if kind in ids]
        values = Statement()
        selects = list(queries(values)) if queries is not None else []
        for number, kind in enumerate(kinds):
            table = self.states[kind].table.name  # from our own code, like every text of a statement here
            selects.append(
                f"SELECT {number}, id, revision, state::text FROM {table} "  # noqa: S608
                f"WHERE id = ANY({values.value(ids[kind])}::text[])"
            )
        found: list[tuple[int, str, int]] = []
        if not selects:
            return found
        for number, id_, revision, state in await fetch_rows(connection, " UNION ALL ".join(selects), *values.values):
            if number < 0:
                found.append((number, id_, revision))
            else:
                loaded = unit.states[Key(kinds[number], id_)]
                loaded.state, loaded.revision, loaded.base = loaded.stored.load(state), revision, revision
        return found

    async def write(
        self,
        connection: Connection,
        unit: UnitOfWork,
        leases: Collection[tuple[str, int]] = (),
        extra_statements: Iterable[ExtraStatements] = (),
    ) -> bool:
        """Writes the changed states, the facts, their jobs and `extra_statements` atomically.

        Returns whether a job is required, so that the worker has to be woken after the commit.

        leases: name and epoch of leases that have to be held. Raises LeaseLostError when one is not,
        a transaction conflict (see `errors`) when a loaded state was changed meanwhile, FactTooLargeError.
        """
        statement = Statement(self._is_held)
        statement.fence(leases)
        self._require_unchanged(statement, unit)
        self._save(statement, unit)
        if unit.facts:
            outbox.append(statement, unit.facts, self._sign)
            if not self._is_held(RELAY):
                statement.notify()
            require_jobs(statement, unit.facts, self._required_jobs, unit.now)
        for request in self._job_requests(unit):
            request_job(statement, request, "")
        for add in extra_statements:
            add(statement)
        await statement.execute(connection)
        return statement.requires_jobs

    def _require_unchanged(self, statement: Statement, unit: UnitOfWork) -> None:
        """Adds the preconditions of states that were only read. The outbox checks those that were changed.

        A changed state that was kept has a precondition too: the database may have been replaced by an older copy.
        """
        unchanged: dict[str, list[tuple[str, int]]] = defaultdict(list)
        kept: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for key, loaded in unit.states.items():
            if loaded.revision == loaded.base and loaded.base:
                unchanged[key.kind].append((key.id, loaded.base))
            elif loaded.kept:
                kept[key.kind].append((key.id, loaded.base))
        for kind in sorted(kept):
            ids, revisions = zip(*sorted(kept[kind]), strict=True)
            expected = statement.columns(id=("text", ids), revision=("bigint", revisions))
            rows = f"SELECT FROM {self.states[kind].table.name} AS t JOIN {expected} USING (id, revision)"
            statement.require(rows, len(ids), STATE_CHANGED)
        for kind in sorted(unchanged):
            ids, revisions = zip(*sorted(unchanged[kind]), strict=True)
            expected = statement.columns(id=("text", ids), revision=("bigint", revisions))
            rows = (
                f"SELECT FROM {self.states[kind].table.name} AS t JOIN {expected} USING (id, revision) "
                "ORDER BY id FOR SHARE OF t"
            )
            statement.require(rows, len(ids), STATE_CHANGED)

    def _save(self, statement: Statement, unit: UnitOfWork) -> None:
        changed: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
        for key, loaded in unit.states.items():
            if loaded.revision != loaded.base:
                changed[key.kind].append((key.id, loaded.revision, loaded.stored.document(loaded.state)))
        for kind in sorted(changed):
            ids, revisions, states = zip(*sorted(changed[kind]), strict=True)
            rows = statement.columns(id=("text", ids), revision=("bigint", revisions), state=("text", states))
            statement.add(
                f"INSERT INTO {self.states[kind].table.name} (id, revision, state) "  # noqa: S608
                f"SELECT id, revision, state::jsonb FROM {rows} "
                "ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, state = excluded.state"
            )
