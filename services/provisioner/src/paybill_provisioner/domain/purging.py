"""Purge of an environment: a plan of deletions under the policy, and a certificate of what was read back."""

from collections.abc import Sequence
from datetime import datetime

from paybill_contracts.environment_plans import EnvironmentPlanned, Plan, Resource
from paybill_contracts.errors import ConflictError
from paybill_contracts.policy import Handling
from paybill_contracts.purges import (
    Absence,
    Certificate,
    DeletionEnded,
    DeletionStarted,
    DeletionStopped,
    EnvironmentPurged,
    RemovedExport,
)
from paybill_contracts.tenant import LegalHoldPlaced, LegalHoldReleased
from paybill_contracts.tenant_lifecycle import PurgeStarted

from paybill_provisioner.domain import approvals
from paybill_provisioner.domain.building import failure
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import evolve, evolved, existing
from paybill_provisioner.domain.estimates import estimates
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plans import hash_of
from paybill_provisioner.domain.policy import verdict
from paybill_provisioner.domain.steps import diff


class NotPurgedError(ConflictError):
    """There is no certificate yet: the environment is not purged."""

    code = "not_purged"


def on_purge_started(
    environment: Environment | None, fact: PurgeStarted, inputs: PlanInputs, now: datetime
) -> list[EnvironmentEvent]:
    """Starts to delete everything of a retained environment, or requests the approval that policy requires."""
    environment = existing(environment, fact.tenant_id)
    return _start(environment, inputs, now) if environment.status is Status.RETAINED else []


def on_legal_hold_placed(environment: Environment | None, fact: LegalHoldPlaced) -> list[EnvironmentEvent]:
    """Stops the deletion before its next step. When none has begun the data is retained again."""
    if environment is None or environment.status is not Status.PURGING or environment.purge is None:
        return []
    has_plan = environment.plan is not None and environment.plan.purge
    is_intact = not (has_plan or environment.purge.removed or environment.purge.is_deleted)
    cases = (*environment.purge.held_by, fact.case)
    return [*approvals.void(environment, "a legal hold stops the purge"), _stopped(environment, cases, is_intact)]


def on_legal_hold_released(
    environment: Environment | None, fact: LegalHoldReleased, inputs: PlanInputs, now: datetime
) -> list[EnvironmentEvent]:
    """Continues a deletion that the hold stopped, when it was the last one."""
    if environment is None or environment.purge is None or fact.case not in environment.purge.held_by:
        return []
    cases = tuple(each for each in environment.purge.held_by if each != fact.case)
    if cases:
        return [_stopped(environment, cases, is_intact=False)]
    return _start(environment, inputs, now)


def retry(environment: Environment, inputs: PlanInputs, now: datetime) -> list[EnvironmentEvent]:
    """Plans what a failed deletion left, or verifies the absence again."""
    return _start(environment, inputs, now)


def delete_all(
    environment: Environment, inputs: PlanInputs, now: datetime, requester: str = approvals.SERVICE
) -> list[EnvironmentEvent]:
    """Returns the plan that deletes what still exists, or the request for its approval; the end when nothing does.

    Nothing while a legal hold stops the deletion, while its steps run, or while a rejected plan is still the same.
    """
    if environment.status is not Status.PURGING or objection(environment) is not None:
        return []
    plan = plan_of_purge(environment, inputs)
    if plan is None:
        ended = DeletionEnded(
            tenant_id=environment.tenant_id, environment_id=environment.id, plan_hash=_last_hash(environment)
        )
        return [*approvals.void(environment, "nothing is left to delete"), ended]
    plan_hash = hash_of(plan)
    judged = verdict(inputs.policy, plan, was_ready=environment.epoch > 0)
    if judged.handling is Handling.UNATTENDED:
        voided = approvals.void(environment, "policy requires no approval any more")
        return [*voided, planned(environment, plan, plan_hash, now)]
    if approvals.still_covers(environment, plan, judged, now, requester):
        return []
    voided = approvals.void(environment, "requested again")
    environment = evolved(environment, voided)
    return [*voided, approvals.request(environment, plan, plan_hash, judged, inputs, now, requester)]


def objection(environment: Environment) -> str | None:
    """Returns why no plan of a purge may begin; None when one may."""
    if environment.purge is None:
        return "no purge has begun"
    if environment.purge.held_by:
        return f"legal holds stop the purge: {', '.join(environment.purge.held_by)}; nothing is deleted while one lasts"
    if _runs(environment):
        return "a plan is being applied; wait until it has ended"
    return None


def planned(environment: Environment, plan: Plan, plan_hash: str, now: datetime) -> EnvironmentPlanned:
    """Returns the event with which the plan begins."""
    return EnvironmentPlanned(
        tenant_id=environment.tenant_id, environment_id=environment.id, plan=plan, plan_hash=plan_hash, planned_at=now
    )


def plan_of_purge(environment: Environment, inputs: PlanInputs) -> Plan | None:
    """Returns the plan that deletes everything that still exists and is the tenant's own; None when nothing is."""
    last, book = environment.plan, inputs.price_book
    built = [each.resource for each in environment.built]
    steps = diff((), built, environment.replaced)
    if last is None or not steps:
        return None
    return last.model_copy(
        update={
            "epoch": environment.epoch,
            "based_on": environment.base_revision,
            "observed_hash": environment.observed_hash,
            "price_book": book.ref if book else None,
            "steps": steps,
            "estimates": estimates(
                steps,
                (*built, *environment.replaced),
                (last.cloud, last.region),
                ({}, {}),
                book.content if book else None,
                inputs.runs,
            ),
            "purge": True,
            "hashed": True,
        }
    )


def absence(resource: Resource, how: str, now: datetime) -> Absence:
    """Returns the entry of a certificate. how: what was read."""
    return Absence(
        address=resource.address,
        kind=resource.kind,
        isolation=resource.isolation,
        name=resource.identity,
        how=how,
        verified_at=now,
    )


def verification_failed(environment: Environment, reason: str) -> list[EnvironmentEvent]:
    """Records that a deleted resource exists, or could not be read."""
    if not environment.is_applied or environment.purge is None or environment.plan_hash is None:
        return []
    return [failure(environment, environment.plan_hash, reason)]


def purged(
    environment: Environment, resources: Sequence[Absence], export: RemovedExport | None, now: datetime
) -> list[EnvironmentEvent]:
    """Records the certificate, after the last step; not while a legal hold is in force."""
    purge = environment.purge
    if environment.status is not Status.PURGING or purge is None or not purge.is_deleted or purge.held_by:
        return []
    certificate = Certificate(
        plan_hash=_last_hash(environment), resources=tuple(resources), export=export, purged_at=now
    )
    return [EnvironmentPurged(tenant_id=environment.tenant_id, environment_id=environment.id, certificate=certificate)]


def certificate_of(environment: Environment | None, id_: str) -> Certificate:
    """Returns the certificate of a purge. Raises EnvironmentUnknownError, NotPurgedError."""
    environment = existing(environment, id_)
    certificate = environment.purge.certificate if environment.purge else None
    if certificate is None:
        raise NotPurgedError(f"the environment is {environment.status}; a certificate exists after its purge")
    return certificate


def _start(environment: Environment, inputs: PlanInputs, now: datetime) -> list[EnvironmentEvent]:
    started = DeletionStarted(tenant_id=environment.tenant_id, environment_id=environment.id, since=now)
    return [started, *delete_all(evolve(environment, started), inputs, now)]


def _stopped(environment: Environment, cases: tuple[str, ...], is_intact: bool) -> DeletionStopped:  # noqa: FBT001
    return DeletionStopped(
        tenant_id=environment.tenant_id, environment_id=environment.id, cases=cases, is_intact=is_intact
    )


def _runs(environment: Environment) -> bool:
    """Returns True while steps of a purge remain that have not failed, or their end is being verified."""
    purge = environment.purge
    if environment.failure is not None or purge is None:
        return False
    return purge.is_deleted or (purge.plan_hash is not None and bool(environment.remaining))


def _last_hash(environment: Environment) -> str | None:
    return environment.plan_hash if environment.plan is not None and environment.plan.purge else None
