"""Background jobs of recorded events: build the plan, set access, export the data, restore access to it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial

from paybill_contracts.credentials import CredentialsRequested
from paybill_contracts.environment_plans import EnvironmentChanged, EnvironmentPlanned
from paybill_contracts.plan_execution import CompensationStarted, PlanResumed
from paybill_contracts.provisioner import Access, AccessChangeStarted, RestorationStarted, RetentionStarted
from paybill_contracts.purges import Absence, DeletionEnded, RemovedExport
from paybill_contracts.table_rebuilds import TablesInspectionRequested
from paybill_runtime.decisions.job_rows import RESOURCE, Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import reason as text_of
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused
from paybill_runtime.jobs.kinds import AttemptFailedError, RetryAfter

from paybill_provisioner.agent_rights import ACCESS, AGENT_RIGHTS_JOBS
from paybill_provisioner.comparisons import COMPARISONS, plan_again
from paybill_provisioner.domain import (
    access,
    applying,
    building,
    credentials,
    drift,
    planning,
    plans,
    purging,
    rebuilding,
)
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, require_published
from paybill_provisioner.domain.drift import Observed
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import PlanMismatchError, existing, id_of
from paybill_provisioner.domain.estimates import PLAN_RUNS_ID
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.price_book import PRICE_BOOK_ID
from paybill_provisioner.drivers import Driver, Drivers, Scope, Site
from paybill_provisioner.execution import Execution, StepError
from paybill_provisioner.tables import (
    BLUEPRINTS,
    CELL_KEYS,
    ENVIRONMENTS,
    INCIDENTS,
    PLAN_RUNS,
    PLANNING_READS,
    PRICE_BOOK,
    plan_inputs,
    planning_states,
    record,
    record_drift,
)

JOBS = JobRegistry(COMPARISONS, AGENT_RIGHTS_JOBS)

BUILD_ATTEMPTS = 6
"""Covers a restart of the server. A plan that fails more often is reported, and an operator can retry it."""

UNLIMITED_ATTEMPTS = 1_000_000
"""Closing access and exporting data must not be abandoned, so these jobs are retried permanently."""


class NoDriverError(Exception):
    """This provisioner has no driver for the cloud; the job waits for one that has."""


def build_failed(job: Job[EnvironmentPlanned] | Job[PlanResumed] | Job[CompensationStarted], reason: str) -> Outcome:
    """Records a failure that no step caused; built resources stay, and an operator may retry."""
    return _failed(job.event, reason)


@JOBS.effect(EnvironmentPlanned, attempts=BUILD_ATTEMPTS, failed=build_failed, cancelled=build_failed)
async def build(job: Job[EnvironmentPlanned], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Applies the steps of the recorded plan; any other plan is refused."""
    environment = await _current(job, job.event.tenant_id)
    try:
        plans.require_plan(environment, job.event)
    except PlanMismatchError as error:
        raise Refused(str(error)) from error
    if environment.is_applied and job.attempt == 1 and (changed := await _changed(job, environment)):
        yield _superseded(job.event, changed)
        return
    async for outcome in _apply(job, environment, drivers):
        yield outcome


@JOBS.effect(PlanResumed, attempts=BUILD_ATTEMPTS, failed=build_failed, cancelled=build_failed)
async def resume(job: Job[PlanResumed], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Applies the steps that were left when the plan was paused."""
    async for outcome in _apply(job, await _current(job, job.event.tenant_id), drivers):
        yield outcome


@JOBS.effect(CompensationStarted, attempts=BUILD_ATTEMPTS, failed=build_failed, cancelled=build_failed)
async def compensate(job: Job[CompensationStarted], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Deletes what a failed plan had built."""
    async for outcome in _apply(job, await _current(job, job.event.tenant_id), drivers):
        yield outcome


async def _apply(
    job: Job[EnvironmentPlanned] | Job[PlanResumed] | Job[CompensationStarted],
    environment: Environment,
    drivers: Drivers,
) -> AsyncIterator[Outcome]:
    """Applies the remaining steps of the plan, until it is paused or the tenant leaves."""
    plan_hash = job.event.plan_hash
    if not environment.is_applied or environment.plan_hash != plan_hash:
        return

    async def may_begin() -> bool:
        current = await _current(job, job.event.tenant_id)
        return current.is_applied and current.plan_hash == plan_hash

    execution = Execution(_driver(drivers, environment), environment, job.id, may_begin, job.now)
    try:
        async with aclosing(execution.run()) as parts:
            async for progress in parts:
                decision = partial(building.progress_recorded, plan_hash=plan_hash, progress=progress)
                is_complete = execution.is_complete
                yield _outcome(environment.tenant_id, decision, last=is_complete, ends_plan=is_complete)
    except StepError as error:
        if not isinstance(error.cause, Refused) and job.attempt < BUILD_ATTEMPTS:
            raise AttemptFailedError(text_of(error.cause), detail=error.address) from error.cause
        job.log.exception("the step %s failed permanently", error.address, exc_info=error.cause)
        yield _failed(job.event, text_of(error.cause), error.address)
        return
    if execution.check_after_s is not None:
        raise RetryAfter(_spread(execution.check_after_s, job.id), "the provider works on the plan")


def _spread(after_s: float, id_: str) -> float:
    """Returns a time that is up to half longer, by the end of a random id.

    Operations that began together, such as those of 64 silos, would be checked together again and again, and a tenant
    that arrives meanwhile would wait for all of them.
    """
    return after_s * (1 + int(id_[-4:], 16) / 0x20000)


@JOBS.effect(EnvironmentChanged, attempts=UNLIMITED_ATTEMPTS, priority=Priority.BULK)
async def confirm_repairs(job: Job[EnvironmentChanged], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Compares an environment whose drift a plan has repaired with what exists now."""
    environment = await _current(job, job.event.tenant_id)
    if not any(each.repaired for each in environment.drift) or not drift.is_comparable(environment):
        return
    observed = list[Observed]()
    async for page in _driver(drivers, environment).observe(Scope.of(environment.tenant_id)):
        observed += page
    found = drift.differences(environment, observed)

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        now = existing(unit.get(ENVIRONMENTS, environment.id), environment.tenant_id)
        if now.revision == environment.revision:
            record_drift(unit, environment.id, drift.checked(now, found, at.now), at.now)

    incident = INCIDENTS.key_of(drift.INCIDENT, drift.subject_of(environment.id))
    yield Outcome(
        decide, writes=[ENVIRONMENTS.key(environment.id), *CELL_KEYS, incident], reads=PLANNING_READS, last=True
    )


def _failed(event: EnvironmentPlanned | PlanResumed | CompensationStarted, reason: str, address: str = "") -> Outcome:
    """Returns the outcome that ends the plan. What it had built is kept or deleted, as the policy requires."""
    environment_id = id_of(event.tenant_id)

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        before = existing(unit.get(ENVIRONMENTS, environment_id), event.tenant_id)
        record(unit, environment_id, building.build_failed(before, event.plan_hash, reason, address))
        failed = existing(unit.get(ENVIRONMENTS, environment_id), event.tenant_id)
        if failed.status is before.status:
            return
        record(unit, environment_id, building.compensated(before, failed, plan_inputs(unit).policy, at.now))
        plan_again(unit, at, environment_id)

    writes = [ENVIRONMENTS.key(environment_id), *CELL_KEYS]
    return Outcome(decide, writes=writes, reads=PLANNING_READS, last=True)


def access_cancelled(job: Job[AccessChangeStarted], reason: str) -> Outcome:
    """Ends a first build that waits for its access; that of a built environment stays as it is."""
    return _outcome(job.event.tenant_id, lambda state: building.access_cancelled(state, reason))


@JOBS.effect(
    AccessChangeStarted,
    attempts=UNLIMITED_ATTEMPTS,
    cancelled=access_cancelled,
    locks=(ACCESS,),
    priority=Priority.SECURITY,
)
async def change_access(job: Job[AccessChangeStarted], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Applies the target access. A superseded event is ignored: the later event has its own job.

    More access is given in the order of the log: a hold that precedes the event is in the state by then.
    """
    if job.event.access is Access.OPEN:
        await job.in_log_order()
    environment = await _current(job, job.event.tenant_id)
    target = environment.target_access
    if target is Access.READ_ONLY and access.opens(environment):
        await job.in_log_order()
        environment = await _current(job, job.event.tenant_id)
        target = environment.target_access
    if not access.may_be_set(environment) or target is not job.event.access:
        return
    await _driver(drivers, environment).set_access(environment, target)
    is_first = environment.status is Status.BUILDING
    decision = partial(access.access_changed, access=target)
    yield _outcome(environment.tenant_id, decision, last=True, ends_plan=is_first)


@JOBS.effect(CredentialsRequested, attempts=UNLIMITED_ATTEMPTS)
async def make_credentials(job: Job[CredentialsRequested], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Makes the passwords that are still requested; they are the same at every attempt."""
    environment = await _current(job, job.event.tenant_id)
    requested = environment.requested_credentials
    if not requested:
        return
    made = await _driver(drivers, environment).make_credentials(environment, requested)
    yield _outcome(environment.tenant_id, lambda state: credentials.made(state, made), last=True)


@JOBS.effect(RetentionStarted, attempts=UNLIMITED_ATTEMPTS, locks=(RESOURCE, ACCESS))
async def retain(job: Job[RetentionStarted], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Closes access, then exports, so that the export is final. Nothing is deleted."""
    environment = await _current(job, job.event.tenant_id)
    if environment.status is not Status.RETAINING:
        return
    driver = _driver(drivers, environment)
    await driver.set_access(environment, Access.CLOSED)
    export = await driver.export(environment)
    yield _outcome(environment.tenant_id, lambda state: access.retained(state, export), last=True)


@JOBS.effect(RestorationStarted, attempts=UNLIMITED_ATTEMPTS, locks=(RESOURCE, ACCESS))
async def restore(job: Job[RestorationStarted], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Gives access to the retained data, at the level that is requested now."""
    environment = await _current(job, job.event.tenant_id)
    if environment.status is Status.RESTORING and environment.target_access is not Access.CLOSED:
        await job.in_log_order()
        environment = await _current(job, job.event.tenant_id)
    if environment.status is not Status.RESTORING:
        return
    target = environment.target_access
    await _driver(drivers, environment).set_access(environment, target)
    yield _outcome(environment.tenant_id, lambda state: access.restored(state, target), last=True)


@JOBS.effect(TablesInspectionRequested, attempts=UNLIMITED_ATTEMPTS)
async def inspect_tables(job: Job[TablesInspectionRequested], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Inspects the tables that the next plan rebuilds, and plans the environment."""
    environment = await _current(job, job.event.tenant_id)
    earlier = rebuilding.earlier_schemas(environment)
    driver = _driver(drivers, environment)
    found = [await driver.inspect_tables(environment.resources[address]) for address in earlier]

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        state = existing(unit.get(ENVIRONMENTS, environment.id), environment.tenant_id)
        blueprints, cells, inputs = planning_states(unit)
        record(unit, environment.id, planning.inspected(state, found, blueprints, cells, at.now, inputs))

    yield Outcome(decide, writes=[ENVIRONMENTS.key(environment.id), *CELL_KEYS], reads=PLANNING_READS, last=True)


def verification_failed(job: Job[DeletionEnded], reason: str) -> Outcome:
    """Records that something still exists; an operator removes it and retries."""
    return _outcome(job.event.tenant_id, lambda state: purging.verification_failed(state, reason))


@JOBS.effect(DeletionEnded, attempts=BUILD_ATTEMPTS, failed=verification_failed, cancelled=verification_failed)
async def certify(job: Job[DeletionEnded], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Removes the export, reads back that each deleted resource is absent, and records the certificate."""
    environment = await _current(job, job.event.tenant_id)
    purge = environment.purge
    if not environment.is_applied or purge is None:
        return
    absences: list[Absence] = []
    removed: RemovedExport | None = None
    if environment.plan is not None:
        driver, export = _driver(drivers, environment), environment.export
        site = Site(environment, environment.known_resources, environment.outputs)
        for resource in purge.removed:
            how = await driver.absence(resource, site)
            if how is None:
                raise Refused(
                    f"{resource.address} {resource.identity} exists after its deletion; remove it, then retry"
                )
            absences.append(purging.absence(resource, how, job.now()))
        if export is not None and export.location != access.NOTHING_EXPORTED.location:
            how = await driver.delete_export(export)
            removed = RemovedExport(export=export, how=how, verified_at=job.now())
    certificate = partial(purging.purged, resources=absences, export=removed, now=job.now())
    yield _outcome(environment.tenant_id, certificate, last=True)


async def _changed(job: Job[EnvironmentPlanned], environment: Environment) -> tuple[str, ...]:
    """Returns the names of what has changed since the plan was made, for its first attempt."""
    blueprints = await job.state(BLUEPRINTS, BLUEPRINT_ID)
    price_book = await job.state(PRICE_BOOK, PRICE_BOOK_ID)
    return applying.superseded_before_begin(environment, require_published(blueprints), PlanInputs(price_book))


def _superseded(fact: EnvironmentPlanned, changed: tuple[str, ...]) -> Outcome:
    """Returns the outcome that ends the plan before it begins, and plans what is desired now."""

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        environment = existing(unit.get(ENVIRONMENTS, fact.environment_id), fact.tenant_id)
        blueprints, cells, inputs = planning_states(unit)
        events = applying.plan_anew(environment, fact.plan_hash, changed, blueprints, cells, inputs, at.now)
        record(unit, fact.environment_id, events)

    writes = [ENVIRONMENTS.key(fact.environment_id), *CELL_KEYS]
    return Outcome(decide, writes=writes, reads=PLANNING_READS, last=True)


async def _current(
    job: Job[EnvironmentPlanned]
    | Job[EnvironmentChanged]
    | Job[PlanResumed]
    | Job[CompensationStarted]
    | Job[AccessChangeStarted]
    | Job[CredentialsRequested]
    | Job[TablesInspectionRequested]
    | Job[RetentionStarted]
    | Job[RestorationStarted]
    | Job[DeletionEnded],
    tenant_id: str,
) -> Environment:
    environment = await job.state(ENVIRONMENTS, id_of(tenant_id))
    return existing(environment, tenant_id)


def _driver(drivers: Drivers, environment: Environment) -> Driver:
    cloud = environment.plan.cloud if environment.plan else ""
    if cloud not in drivers:
        raise NoDriverError(f"this provisioner has no driver for the cloud {cloud!r}; start one that has")
    return drivers[cloud]


def _outcome(
    tenant_id: str,
    decision: Callable[[Environment], Sequence[EnvironmentEvent]],
    *,
    last: bool = False,
    ends_plan: bool = False,
) -> Outcome:
    """Returns the outcome that records the events of `decision` on the current state.

    last: it ends the effect; ends_plan: no step of the plan remains.
    """
    environment_id = id_of(tenant_id)

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        state = existing(unit.get(ENVIRONMENTS, environment_id), tenant_id)
        record(unit, environment_id, decision(state))
        after = existing(unit.get(ENVIRONMENTS, environment_id), tenant_id)
        if ends_plan:
            unit.record(PLAN_RUNS, PLAN_RUNS_ID, building.run_measured(state, after, at.now))
        if after.status is not state.status:
            plan_again(unit, at, environment_id)

    writes = [ENVIRONMENTS.key(environment_id), *CELL_KEYS]
    if ends_plan:
        writes.append(PLAN_RUNS.key(PLAN_RUNS_ID))
    return Outcome(decide, writes=writes, reads=PLANNING_READS, last=last)
