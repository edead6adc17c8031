"""Jobs that wait for another attempt, and the environments that are not as they have to be."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from paybill_contracts.policy import Policy
from paybill_runtime.decisions.aggregates import column_time
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.listing import WaitingJob, waiting_jobs
from sqlalchemy import ColumnElement, and_, or_

from paybill_provisioner.domain.policy import POLICY_ID, SAFE
from paybill_provisioner.domain.unsettled import Wait
from paybill_provisioner.tables import ENVIRONMENTS, POLICY

MAX_WAITING = 500
"""Tenants with waiting jobs that are looked for; when a provider is away, all that are built wait."""


async def policy_in_force(context: ServiceContext) -> Policy:
    """Returns the policy in force."""
    state = await load_state(context, POLICY, POLICY_ID)
    return state.content if state else SAFE


async def waits(context: ServiceContext, tenants: Sequence[str] | None) -> Mapping[str, Wait]:
    """Returns by tenant the first job that could not be done yet. tenants: None for all."""
    found = await waiting_jobs(context.database, tenants, MAX_WAITING)
    return {tenant: _wait(job) for tenant, job in found.items()}


def may_be_unsettled(waiting: Mapping[str, Wait], policy: Policy, now: datetime) -> ColumnElement[bool]:
    """Returns the condition of the environments that are not as they have to be, or may not be."""
    planned_before = column_time(now - timedelta(seconds=policy.change_within_s))
    row = ENVIRONMENTS.table.c
    return or_(
        row.unsettled == "held",
        and_(row.unsettled == "planned", row.state["planned_at"].astext < planned_before),
        row.tenant_id.in_(waiting),
    )


def _wait(job: WaitingJob) -> Wait:
    reason = job.reason.removeprefix(f"{job.detail}: ")
    return Wait(str(job.id), job.kind, job.detail or None, reason, job.tries, job.due)
