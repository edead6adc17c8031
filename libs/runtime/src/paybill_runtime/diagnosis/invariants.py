"""Invariants of a service: checked for a tenant after each change of its states, and for all tenants by a timer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paybill_contracts.envelope import Origin
from paybill_contracts.event import partition_of
from paybill_contracts.invariants import Difference, Invariant, ViolationStatus, judge

from paybill_runtime import clock
from paybill_runtime.database.leases import RELAY, partition_lease
from paybill_runtime.database.pool import Database
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Key, Stored
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, RetryAfter
from paybill_runtime.settings import ServiceSettings

CHECK = "check_invariants"
"""Kind of the jobs that check one tenant whose states differ."""
CHECK_ALL = "check_all_invariants"
PAGE = 200
CHECKS_WITHIN_TOLERANCE = 6
"""A difference is checked so often before it counts as violated: one that goes and comes back starts anew."""
MAX_INTERVAL_S = 10.0
"""Longest time between two checks of a tenant whose states differ."""


@dataclass(frozen=True, slots=True)
class TenantState:
    """A kind of states that exist once for each tenant. id_of: from the tenant's id. tenant_of: from the state."""

    stored: Stored[Any]
    id_of: Callable[[str], str]
    tenant_of: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Invariants:
    """The invariants of a service. states: what they compare, in the order in which a check receives them.

    journey: the state with which the journey of a tenant begins; by default the first of `states`.
    """

    violations: Violations
    states: Sequence[TenantState]
    rules: Sequence[Invariant]
    journey: TenantState | None = None

    def differences(self, states: Sequence[Any], now: datetime) -> dict[int, Difference]:
        """Returns the differences of one tenant, by the number of the invariant."""
        if all(state is None for state in states):
            return {}
        found = {rule.number: rule.check(states, now) for rule in self.rules}
        return {number: difference for number, difference in found.items() if difference is not None}

    def keys(self, tenant_id: str) -> list[Key]:
        """Returns the keys of a tenant's states."""
        return [each.stored.key(each.id_of(tenant_id)) for each in self.states]

    def changed_tenants(self, unit: UnitOfWork) -> set[str]:
        """Returns the tenants whose states a decision changed, unless all of them are loaded and agree."""
        changed: set[str] = set()
        for each in self.states:
            for key, loaded in unit.states.items():
                if key.kind == each.stored.kind and loaded.revision != loaded.base:
                    changed.add(each.tenant_of(loaded.state))
        return {tenant for tenant in changed if not self._agree(unit, tenant)}

    def _agree(self, unit: UnitOfWork, tenant_id: str) -> bool:
        keys = self.keys(tenant_id)
        if not unit.states.keys() >= set(keys):
            return False
        return not self.differences([unit.states[key].state for key in keys], unit.now)


def aggregate_of(invariants: Invariants | None) -> Callable[[str], str | None]:
    """Returns a function from a tenant's id to the name of its first state: that with which its journey begins."""
    if invariants is None:
        return lambda _: None
    first = invariants.journey or invariants.states[0]
    return lambda tenant_id: "{0.kind}/{0.id}".format(first.stored.key(first.id_of(tenant_id)))


class InvariantChecks:
    """Runs the checks of one service, which may have no invariants."""

    def __init__(self, invariants: Invariants | None, settings: ServiceSettings) -> None:
        self.violations = invariants.violations if invariants is not None else None
        self._invariants = invariants if invariants is not None and invariants.rules else None
        self._tolerance = timedelta(seconds=settings.invariant_tolerance_s)
        self._interval_s = settings.invariant_interval_s
        self._pause_s = min(settings.invariant_tolerance_s / CHECKS_WITHIN_TOLERANCE, MAX_INTERVAL_S)

    def job_requests(self, unit: UnitOfWork) -> list[JobRequest]:
        """Returns the checks that the changes of a decision require; most require none."""
        if self._invariants is None:
            return []
        return [self._request(tenant, unit.now) for tenant in sorted(self._invariants.changed_tenants(unit))]

    def _request(self, tenant_id: str, now: datetime) -> JobRequest:
        return JobRequest(
            CHECK,
            tenant_id,
            partition_lease(partition_of(tenant_id)),
            now + timedelta(seconds=self._pause_s),
            queue=f"{CHECK}/{tenant_id}",
            priority=Priority.BULK,
            detail=json.dumps({"since": now.isoformat()}),
        )

    def kinds(self, database: Database, group_commit: GroupCommit) -> list[Kind]:
        """Returns the kinds of jobs: one for a tenant that differs, one for all tenants."""
        if (invariants := self._invariants) is None:
            return []

        async def check(job: ClaimedJob) -> None:
            await self._check(job, invariants, group_commit)

        async def check_all(_: ClaimedJob) -> float:
            await self._check_all(invariants, database)
            return self._interval_s

        return [
            Kind(CHECK, check, derived=True),
            Kind(CHECK_ALL, check_all, RELAY, Priority.BULK, recurring=True),
        ]

    async def _check(self, job: ClaimedJob, invariants: Invariants, group_commit: GroupCommit) -> None:
        """Checks one tenant. Raises RetryAfter while its states differ."""
        tenant, now, violations = job.key, clock.now(), invariants.violations
        before = {name: datetime.fromisoformat(since) for name, since in json.loads(job.detail or "{}").items()}
        cause, service = f"job:{CHECK}/{tenant}", violations.service

        def decide(unit: UnitOfWork, _: DecisionContext) -> dict[int, Difference]:
            states = [unit.states[key].state for key in invariants.keys(tenant)]
            differences = invariants.differences(states, now)
            for rule in invariants.rules:
                id_, since = violations.key_of(rule.number, tenant).id, _since(before, rule.number, now)
                difference = differences.get(rule.number)
                violation = unit.get(violations, id_)
                events = judge(service, violation, rule, tenant, difference, since, now, self._tolerance)
                unit.record(violations, id_, events)
            return differences

        found = await group_commit.decide(
            Decision(
                Origin(cause, cause, f"service:{service}", ""),
                decide,
                [violations.key_of(rule.number, tenant) for rule in invariants.rules],
                invariants.keys(tenant),
                job.leases,
            )
        )
        if found:
            detail = {str(number): _since(before, number, now).isoformat() for number in found}
            raise RetryAfter(self._pause_s, _text(found), json.dumps(detail))

    async def _check_all(self, invariants: Invariants, database: Database) -> None:
        """Requests a check of each tenant whose states differ or have a violation."""
        found = await _with_violation(invariants.violations, database)
        after: str | None = ""
        while after is not None:
            after, page = await _page(invariants, database, after)
            now = clock.now()
            found |= {tenant for tenant, states in page.items() if invariants.differences(states, now)}
        if not found:
            return
        statement, now = Statement(), clock.now()
        for tenant in sorted(found):
            request_job(statement, self._request(tenant, now), "")
        async with database.direct(committing=True) as connection:
            await statement.execute(connection)


async def _with_violation(violations: Violations, database: Database) -> set[str]:
    """Returns the tenants with an open violation: its job ends it when the invariant holds again."""
    query = f"SELECT tenant_id FROM {violations.table.name} WHERE status = $1"  # noqa: S608  # names are our own
    async with database.direct() as connection:
        return {row[0] for row in await connection.fetch(query, ViolationStatus.OPEN.value)}


async def _page(invariants: Invariants, database: Database, after: str) -> tuple[str | None, dict[str, list[Any]]]:
    """Returns the states of a page of tenants, and the position of the next page; None after the last one."""
    first, *others = invariants.states
    query = f"SELECT id, state::text FROM {first.stored.table.name} WHERE id > $1 ORDER BY id LIMIT {PAGE}"  # noqa: S608  # as above
    async with database.direct() as connection:
        rows = await connection.fetch(query, after)
        loaded = [first.stored.load(row[1]) for row in rows]
        page: dict[str, list[Any]] = {first.tenant_of(state): [state] for state in loaded}
        for each in others:
            query = f"SELECT id, state::text FROM {each.stored.table.name} WHERE id = ANY($1::text[])"  # noqa: S608  # as above
            found = await connection.fetch(query, [each.id_of(tenant) for tenant in page])
            states = {row[0]: each.stored.load(row[1]) for row in found}
            for tenant, known in page.items():
                known.append(states.get(each.id_of(tenant)))
    return rows[-1][0] if len(rows) == PAGE else None, page


def _since(before: Mapping[str, datetime], number: int, now: datetime) -> datetime:
    """Returns the begin of a difference: that of the last check, or of the change that requested the first one."""
    return before.get(str(number)) or before.get("since") or now


def _text(found: Mapping[int, Difference]) -> str:
    parts = [f"invariant {number}: {each.left}, and {each.right}" for number, each in sorted(found.items())]
    return single_line("; ".join(parts))
