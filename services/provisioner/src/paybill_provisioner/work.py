"""The effects that recorded facts intend: build by the plan, set access, export and keep."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial

from paybill_contracts.provisioner import (
    Access,
    AccessChangeStarted,
    EnvironmentPlanned,
    RetentionStarted,
)
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused

from paybill_provisioner.domain import access, environments
from paybill_provisioner.domain.environments import (
    Environment,
    EnvironmentEvent,
    PlanMismatchError,
    Status,
    existing,
    id_of,
)
from paybill_provisioner.drivers import Driver, Drivers
from paybill_provisioner.tables import ENVIRONMENTS

JOBS = JobRegistry()

BUILD_ATTEMPTS = 6
"""Enough for a server that starts again; an operator sees a plan that fails more often, and has it tried again."""

UNTIL_DONE = 1_000_000
"""Who must not get in, and whose data must be kept: there is no giving up, only waiting longer."""


class NoDriverError(Exception):
    """The work waits for a provisioner that can do it."""


def build_failed(job: Job[EnvironmentPlanned], reason: str) -> Outcome:
    """What stands stays, and an operator may have it tried again."""
    why = "".join(each if each.isprintable() else " " for each in reason)[:400] or "no reason was given"
    return _recorded(job.event.tenant_id, lambda found: environments.build_failed(found, job.event.plan_hash, why))


@JOBS.effect(EnvironmentPlanned, attempts=BUILD_ATTEMPTS, failed=build_failed)
async def build(job: Job[EnvironmentPlanned], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Do the steps of the recorded plan that are not done yet; no other plan is done."""
    environment = await _current(job, job.event.tenant_id)
    try:
        environments.require_plan(environment, job.event)
    except PlanMismatchError as error:
        raise Refused(str(error)) from error
    if environment.status is not Status.BUILDING:
        return
    left = {step.resource.address for step in environment.remaining}
    async with aclosing(_driver(drivers, environment).build(environment, environment.remaining)) as parts:
        async for done in parts:
            left.difference_update(address for address, _ in done)
            said = partial(environments.resources_built, plan_hash=job.event.plan_hash, done=done)
            yield _recorded(environment.tenant_id, said, last=not left)


@JOBS.effect(AccessChangeStarted, attempts=UNTIL_DONE)
async def change_access(job: Job[AccessChangeStarted], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Bring about what is wanted now. A wish that a later one took the place of is left to the later one."""
    environment = await _current(job, job.event.tenant_id)
    wanted = environment.wanted
    if environment.status is not Status.READY or wanted is not job.event.access:
        return
    await _driver(drivers, environment).set_access(environment, wanted)
    yield _recorded(environment.tenant_id, lambda found: access.access_changed(found, wanted), last=True)


@JOBS.effect(RetentionStarted, attempts=UNTIL_DONE)
async def retain(job: Job[RetentionStarted], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Close first, so that the export is the last word; then export. Nothing is removed."""
    environment = await _current(job, job.event.tenant_id)
    if environment.status is not Status.RETAINING:
        return
    driver = _driver(drivers, environment)
    await driver.set_access(environment, Access.CLOSED)
    export = await driver.export(environment)
    yield _recorded(environment.tenant_id, lambda found: access.retained(found, export), last=True)


async def _current(
    job: Job[EnvironmentPlanned] | Job[AccessChangeStarted] | Job[RetentionStarted], tenant_id: str
) -> Environment:
    found = await job.state(ENVIRONMENTS, id_of(tenant_id))
    return existing(found, tenant_id)


def _driver(drivers: Drivers, environment: Environment) -> Driver:
    cloud = environment.plan.cloud if environment.plan else ""
    if cloud not in drivers:
        raise NoDriverError(f"this provisioner has no driver for the cloud {cloud!r}; start one that has")
    return drivers[cloud]


def _recorded(
    tenant_id: str, decision: Callable[[Environment], list[EnvironmentEvent]], *, last: bool = False
) -> Outcome:
    """Let `decision` look at the environment as it is now, and record what it says; `last` ends the effect with it."""
    environment_id = id_of(tenant_id)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.record(ENVIRONMENTS, environment_id, decision(existing(unit.get(ENVIRONMENTS, environment_id), tenant_id)))

    return Outcome(decide, writes=[ENVIRONMENTS.key(environment_id)], last=last)
