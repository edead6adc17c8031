"""Background jobs that compare desired and planned states, after what they depend on has changed."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.cells import CellPlaceFreed, CellReopened, IsolationRestored
from paybill_contracts.plan_approvals import ApprovalVoid
from paybill_contracts.policy import PolicyPublished
from paybill_contracts.price_book import PriceBookPublished
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome

from paybill_provisioner.domain import approvals, planning
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, require_published
from paybill_provisioner.domain.cells import RegionFullError
from paybill_provisioner.drivers import Drivers
from paybill_provisioner.tables import (
    BLUEPRINTS,
    CELL_KEYS,
    ENVIRONMENTS,
    PLANNING_READS,
    cells_in_force,
    plan_inputs,
    record,
)

COMPARISONS = JobRegistry()

UNLIMITED_ATTEMPTS = 1_000_000
"""A comparison must not be abandoned, so these jobs are retried permanently."""

PAGE = 50
"""Environments that are compared in one transaction."""

ChangedJob = (
    Job[BlueprintPublished]
    | Job[PriceBookPublished]
    | Job[PolicyPublished]
    | Job[IsolationRestored]
    | Job[CellReopened]
    | Job[CellPlaceFreed]
)
"""Job of a fact after which many environments are compared."""


@COMPARISONS.effect(BlueprintPublished, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_environments(job: Job[BlueprintPublished], _: Drivers) -> AsyncIterator[Outcome]:
    """Plans every environment whose desired state the new blueprint changes, or makes possible."""
    async for outcome in _compare_all(job):
        yield outcome


@COMPARISONS.effect(PriceBookPublished, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_by_prices(job: Job[PriceBookPublished], _: Drivers) -> AsyncIterator[Outcome]:
    """Plans anew what waits for an approval with other prices."""
    async for outcome in _compare_all(job):
        yield outcome


@COMPARISONS.effect(PolicyPublished, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_by_policy(job: Job[PolicyPublished], _: Drivers) -> AsyncIterator[Outcome]:
    """Applies or holds what waits for an approval as the new policy requires."""
    async for outcome in _compare_all(job):
        yield outcome


@COMPARISONS.effect(IsolationRestored, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_by_isolation(job: Job[IsolationRestored], _: Drivers) -> AsyncIterator[Outcome]:
    """Plans the tenants that were refused while the cell was closed."""
    async for outcome in _compare_all(job, **_refused(job.event.region)):
        yield outcome


@COMPARISONS.effect(CellReopened, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_by_room(job: Job[CellReopened], _: Drivers) -> AsyncIterator[Outcome]:
    """Plans the tenants that were refused while every cell of the region was full or drained."""
    async for outcome in _compare_all(job, **_refused(job.event.region)):
        yield outcome


@COMPARISONS.effect(CellPlaceFreed, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_by_place(job: Job[CellPlaceFreed], _: Drivers) -> AsyncIterator[Outcome]:
    """Plans the tenants that were refused while the region was full: a purge or another placement freed a place."""
    async for outcome in _compare_all(job, **_refused(job.event.region)):
        yield outcome


@COMPARISONS.effect(ApprovalVoid, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def plan_expired(job: Job[ApprovalVoid], _: Drivers) -> AsyncIterator[Outcome]:
    """Plans what waited for an approval that expired, and requests it again unless a person did."""
    void, id_ = job.event, job.event.environment_id
    if void.reason != approvals.EXPIRED:
        return

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        environment = unit.get(ENVIRONMENTS, id_)
        if environment is not None and environment.approval is not None and environment.approval.id == void.approval_id:
            _compare(unit, at, [id_])

    yield Outcome(decide, writes=[*CELL_KEYS, ENVIRONMENTS.key(id_)], reads=PLANNING_READS, last=True)


def plan_again(unit: UnitOfWork, at: DecisionContext, environment_id: str) -> None:
    """Plans what the tenant became entitled to while the plan was open."""
    _compare(unit, at, [environment_id])


def _refused(region: str) -> dict[str, str]:
    """Returns the columns of the environments for which a region had no place."""
    return {"region": region, "refusal_code": RegionFullError.code}


async def _compare_all(job: ChangedJob, **columns: str) -> AsyncIterator[Outcome]:
    """Compares the environments with these values of their columns, in pages."""
    after = ""
    while ids := await job.ids(ENVIRONMENTS, after, PAGE, **columns):
        yield Outcome(
            partial(_compare, ids=ids),
            writes=[*CELL_KEYS, *(ENVIRONMENTS.key(id_) for id_ in ids)],
            reads=PLANNING_READS,
        )
        after = ids[-1]


def _compare(unit: UnitOfWork, at: DecisionContext, ids: Sequence[str]) -> None:
    blueprints = require_published(unit.get(BLUEPRINTS, BLUEPRINT_ID))
    for id_ in ids:
        environment = unit.get(ENVIRONMENTS, id_)
        if environment is not None:
            compared = planning.compare(environment, blueprints, cells_in_force(unit), at.now, plan_inputs(unit))
            record(unit, id_, compared)
