"""Scheduled check of drift: each environment has its slot in the period, by its id, and calls have a budget."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.incidents import IncidentStatus
from paybill_runtime.database.leases import RELAY
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.group_commit import Decide
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, RetryAfter
from paybill_runtime.telemetry import meter, span

from paybill_provisioner.domain import drift
from paybill_provisioner.domain.drift import Observed
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.drivers import AFTER_ALL, Drivers, Scope
from paybill_provisioner.tables import (
    CELL_KEYS,
    ENVIRONMENT_RANGE,
    ENVIRONMENTS,
    INCIDENT_SUBJECTS,
    INCIDENTS,
    PLANNING_READS,
    record_drift,
)

CHECK_DRIFT = "check_drift"
"""Kind of the job."""

MAX_SLOTS = 64
"""Parts of a period, and of the fleet: an environment is checked in the part that its id is in."""

MIN_SLOT_S = 5.0
PAGE = 50
"""Environments that are observed and decided together."""

_CHECKED = meter.create_counter("paybill.drift.checked", "{environment}", "Environments that a check has compared.")


class ProviderAwayError(RetryLaterError):
    """The provider of the environment does not answer, so that nothing can be compared."""

    code = "provider_away"


class CallBudget:
    """Calls of one provider for checks: so many in a second, and at most so many at once."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._next = 0.0

    async def take(self) -> None:
        """Waits until another call is in the budget."""
        now = time.monotonic()
        self._next = max(self._next, now) + self._interval_s
        await asyncio.sleep(self._next - self._interval_s - now)


class DriftChecks:
    """Compares environments with what their providers have."""

    def __init__(self, context: ServiceContext, drivers: Drivers) -> None:
        self._context = context
        self._drivers = drivers
        self._budgets = {cloud: CallBudget(context.settings.drift_calls_per_s) for cloud in drivers}
        self._last: int | None = None
        _CHECKED.add(0)  # a dashboard sees the counter before the first check

    def kind(self) -> Kind:
        """Returns the kind of its job."""
        return Kind(CHECK_DRIFT, self._run, RELAY, Priority.BULK, recurring=True)

    async def _run(self, job: ClaimedJob) -> float:
        """Checks the slots that began since the last run. The one of the start was checked by the process before."""
        every_s: float = self._context.settings.drift_every_s
        slots = max(min(MAX_SLOTS, int(every_s / MIN_SLOT_S)), 1)
        slot_s = every_s / slots
        now = int(self._context.now().timestamp() / slot_s)
        self._last = now if self._last is None else self._last
        first = max(self._last + 1, now - slots + 1)
        with span(f"job {CHECK_DRIFT}", None):
            for slot in range(first, now + 1):
                part = slot % slots
                await self.check(Scope(_bound(part, slots), _bound(part + 1, slots)), job.leases)
                self._last = slot
        return max((now + 1) * slot_s - self._context.now().timestamp(), 0.05)

    async def check_tenant(self, tenant_id: str) -> None:
        """Checks the environment of one tenant. Raises ProviderAwayError."""
        with _answers():
            await self.check(Scope.of(tenant_id), {})

    async def check_page(self, after: str) -> str | None:
        """Checks the environments of a page; returns where the next one begins, None after the last one.

        Raises ProviderAwayError.
        """
        before = await self._end_of_page(Scope(after, AFTER_ALL))
        with _answers():
            await self._check_page(Scope(after, before), {})
        return None if before == AFTER_ALL else before

    async def problems(self) -> dict[str, str | None]:
        """Returns why each driver cannot work, by its cloud; None when it can."""
        found: dict[str, str | None] = {}
        for cloud, driver in self._drivers.items():
            try:
                found[cloud] = await driver.check()
            except RetryAfter as error:
                found[cloud] = str(error)
        return found

    async def check(self, scope: Scope, leases: Mapping[str, int]) -> None:
        """Checks all environments in the scope, in pages."""
        while scope.after < scope.before:
            before = await self._end_of_page(scope)
            await self._check_page(Scope(scope.after, before), leases)
            scope = Scope(before, scope.before)

    async def _end_of_page(self, scope: Scope) -> str:
        rows = await self._ids(scope, PAGE + 1)
        return rows[PAGE].removeprefix("env_") if len(rows) > PAGE else scope.before

    async def _ids(self, scope: Scope, limit: int) -> list[str]:
        values = {"after": f"env_{scope.after}", "before": f"env_{scope.before}", "limit": limit}
        return [row.id for row in await self._context.rows(ENVIRONMENT_RANGE, values)]

    async def _check_page(self, scope: Scope, leases: Mapping[str, int]) -> None:
        ids = await self._ids(scope, PAGE)
        # Loaded before the observation: one that changes meanwhile is compared in the next period.
        loaded = {id_: await load_state(self._context, ENVIRONMENTS, id_) for id_ in ids}
        before = {id_: each for id_, each in loaded.items() if each is not None}
        observed = {cloud: await self._observe(cloud, scope) for cloud in self._drivers}
        for environment in before.values():
            cloud = environment.plan.cloud if environment.plan else ""
            if cloud in observed and drift.is_comparable(environment):
                await self._compare(environment, observed[cloud], leases)
        _CHECKED.add(len(before))
        await self._compare_orphans(scope, [each for page in observed.values() for each in page], leases)

    async def _observe(self, cloud: str, scope: Scope) -> list[Observed]:
        found: list[Observed] = []
        await self._budgets[cloud].take()
        async for page in self._drivers[cloud].observe(scope):
            found += page
            await self._budgets[cloud].take()
        return found

    async def _compare(self, before: Environment, observed: Sequence[Observed], leases: Mapping[str, int]) -> None:
        found = drift.differences(before, observed)
        if not found and not before.drift:
            return
        incident = INCIDENTS.key_of(drift.INCIDENT, drift.subject_of(before.id))

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            environment = unit.get(ENVIRONMENTS, before.id)
            if environment is None or environment.revision != before.revision:
                return
            record_drift(unit, before.id, drift.checked(environment, found, at.now), at.now)

        await self._decide(decide, [ENVIRONMENTS.key(before.id), *CELL_KEYS, incident], PLANNING_READS, leases)

    async def _compare_orphans(self, scope: Scope, observed: Sequence[Observed], leases: Mapping[str, int]) -> None:
        """Opens an incident for each resource whose environment is in no record, and closes those that are gone.

        One that a person closed is accepted and stays closed.
        """
        tagged = [each for each in observed if each.tenant_id is not None and scope.includes(each.tenant_id)]
        orphans = {
            finding.subject: (finding, id_of(each.tenant_id or ""))
            for each in tagged
            if await load_state(self._context, ENVIRONMENTS, id_of(each.tenant_id or "")) is None
            for finding in (drift.unknown_finding(each),)
        }
        values = {"kind": drift.UNKNOWN_RESOURCE, "status": IncidentStatus.OPEN.value}
        open_ = {row.subject for row in await self._context.rows(INCIDENT_SUBJECTS, values)}
        there = {drift.unknown_finding(each).subject for each in observed}
        gone = {each for each in open_ - there if scope.includes(drift.number_in(each))}
        if not orphans.keys() - open_ and not gone:
            return
        writes = [INCIDENTS.key_of(drift.UNKNOWN_RESOURCE, subject) for subject in sorted({*orphans, *gone})]
        reads = sorted({ENVIRONMENTS.key(id_) for _, id_ in orphans.values()})

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            for subject, (finding, id_) in orphans.items():
                known = unit.get(INCIDENTS, INCIDENTS.key_of(drift.UNKNOWN_RESOURCE, subject).id)
                if unit.get(ENVIRONMENTS, id_) is None and (known is None or known.closed_by == drift.CLOSED_BY):
                    INCIDENTS.open(unit, finding, at.now)
            for subject in gone:
                INCIDENTS.close(unit, drift.UNKNOWN_RESOURCE, subject, "it does not exist any more", at.now)

        await self._decide(decide, writes, reads, leases)

    async def _decide(
        self,
        decide: Decide[None],
        writes: Sequence[Key],
        reads: Sequence[Key],
        leases: Mapping[str, int],
    ) -> None:
        cause = f"job:{CHECK_DRIFT}"
        origin = Origin(cause, cause, "service:provisioner", "")
        await self._context.decide(origin, decide, writes=writes, reads=reads, leases=leases)


@contextmanager
def _answers() -> Iterator[None]:
    """Turns the wait for a provider into the answer to a request."""
    try:
        yield
    except RetryAfter as error:
        raise ProviderAwayError(str(error)) from error


def _bound(part: int, parts: int) -> str:
    """Returns the first number of a part of all numbers."""
    return AFTER_ALL if part == parts else f"{part * 256 // parts:02x}"
