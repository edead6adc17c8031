"""Background jobs of agents' rights: logins get exactly those of the bundle in force."""

from collections.abc import AsyncIterator
from functools import partial

from paybill_contracts.agent_access import AgentRightsChanged, AgentRightsRequested
from paybill_runtime.decisions.job_rows import RESOURCE, Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused
from paybill_runtime.jobs.kinds import RetryAfter

from paybill_provisioner.domain import agent_rights
from paybill_provisioner.domain.agent_rights import AgentRights
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.drivers import Drivers
from paybill_provisioner.tables import AGENT_RIGHTS, ENVIRONMENTS, record

AGENT_RIGHTS_JOBS = JobRegistry()

ACCESS = "access"
"""Lock of a tenant's access: a change of access does not wait for a running build. Rights are granted after it."""

UNLIMITED_ATTEMPTS = 1_000_000
"""Rights that are revoked must not stay, so these jobs are retried permanently."""

PAGE = 50
"""Environments whose rights are recorded in one transaction."""


@AGENT_RIGHTS_JOBS.effect(AgentRightsRequested, attempts=UNLIMITED_ATTEMPTS, locks=(RESOURCE, ACCESS))
async def grant_rights(job: Job[AgentRightsRequested], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Gives a login that is new or was set again the rights of the bundle in force; none before the first bundle."""
    environment = await job.state(ENVIRONMENTS, job.event.environment_id)
    plan = environment.plan if environment is not None else None
    if environment is None or plan is None:
        return
    rights = await job.state(AGENT_RIGHTS, plan.blueprint.name)
    while rights is not None and agent_rights.apply_to(rights, environment):
        if reason := await _grant(environment, rights, drivers, set()):
            raise RetryAfter(None, reason)
        current = await job.state(AGENT_RIGHTS, rights.id)
        if current is not None and current.bundle_hash == rights.bundle_hash:
            yield _granted(rights, [environment.id])
            return
        rights = current


@AGENT_RIGHTS_JOBS.effect(
    AgentRightsChanged, attempts=UNLIMITED_ATTEMPTS, locks=("agent_rights",), priority=Priority.SECURITY
)
async def change_rights(job: Job[AgentRightsChanged], drivers: Drivers) -> AsyncIterator[Outcome]:
    """Gives every login of the blueprint the rights of the bundle in force, one pool and one login after another.

    A later activation has its own job. What cannot be changed now is repeated after all others.
    """
    rights = await job.state(AGENT_RIGHTS, job.event.blueprint)
    if rights is None or rights.bundle_hash != job.event.bundle_hash:
        return
    after, shared, failed = "", set[str](), list[str]()
    while ids := await job.ids(ENVIRONMENTS, after, PAGE, agents=rights.id):
        granted: list[str] = []
        for id_ in ids:
            environment = await job.state(ENVIRONMENTS, id_)
            if environment is None or not agent_rights.apply_to(rights, environment):
                continue
            # Also one with these rights on record: an earlier bundle's job may have changed it since.
            reason = await _grant(environment, rights, drivers, shared)
            granted += [] if reason else [id_]
            failed += [f"{environment.slug}: {reason}"] if reason else []
        if granted:
            yield _granted(rights, granted)
        after = ids[-1]
    if failed:
        raise RetryAfter(None, f"the rights of {len(failed)} environments are not changed yet, such as {failed[0]}")
    settled = partial(_settle, rights=rights)
    yield Outcome(settled, writes=[AGENT_RIGHTS.key(rights.id)], last=True)


async def _grant(environment: Environment, rights: AgentRights, drivers: Drivers, shared: set[str]) -> str:
    """Changes the rights of one login, unless those of its pool are changed; returns why it was not possible."""
    cloud = environment.plan.cloud if environment.plan else ""
    pool = agent_rights.pool_of(environment)
    if pool in shared:
        return ""
    if cloud not in drivers:
        return f"there is no driver for {cloud}"
    try:
        await drivers[cloud].grant_agent_rights(environment, rights.rights)
    except (RetryAfter, Refused) as error:
        # One environment must not keep the others from losing a right.
        return str(error)
    shared |= {pool} if pool else set()
    return ""


def _granted(rights: AgentRights, ids: list[str]) -> Outcome:
    """Returns the outcome that records the rights, unless another bundle is in force by now."""

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        current = unit.get(AGENT_RIGHTS, rights.id)
        for id_ in ids:
            environment = unit.get(ENVIRONMENTS, id_)
            if environment is not None and current is not None and current.bundle_hash == rights.bundle_hash:
                record(unit, id_, agent_rights.granted(environment, rights, at.now))

    return Outcome(decide, writes=[ENVIRONMENTS.key(id_) for id_ in ids], reads=[AGENT_RIGHTS.key(rights.id)])


def _settle(unit: UnitOfWork, _: DecisionContext, rights: AgentRights) -> None:
    events = agent_rights.settled(unit.get(AGENT_RIGHTS, rights.id), rights.bundle_hash)
    unit.record(AGENT_RIGHTS, rights.id, events)
