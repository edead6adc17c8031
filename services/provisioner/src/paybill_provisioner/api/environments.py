"""HTTP routes of environments: shown with their plans, and retried."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from paybill_contracts.placement import Preset
from paybill_contracts.purges import Certificate
from paybill_contracts.values import EnvironmentId, Key
from paybill_contracts.why import EnvironmentState, UnsettledState
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.diagnosis.tenant_part import OwnState
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement
from sqlmodel import col

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.api.environment_ids import EnvironmentOrTenantId, id_from
from paybill_provisioner.api.environment_views import EnvironmentSummary, EnvironmentView
from paybill_provisioner.api.plan_decisions import PlanningStates, decide_plan, view_of_environment
from paybill_provisioner.api.waits import may_be_unsettled, policy_in_force, waits
from paybill_provisioner.domain import applying, purging
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import EnvironmentUnknownError, id_of
from paybill_provisioner.domain.isolation import described
from paybill_provisioner.domain.unsettled import Unsettled, unsettled
from paybill_provisioner.tables import (
    CELLS,
    ENVIRONMENTS,
    EnvironmentRow,
)


class EnvironmentPage(BaseModel):
    """Environments in the order of their ids."""

    environments: list[EnvironmentSummary]
    next: Annotated[EnvironmentId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of environments."""
    routes = Router(prefix="/v1", tags=["environments"])

    @routes.get("/environments")
    async def show_all(
        _: Viewer,
        status: Annotated[Status | None, Query(description="Only environments with this status.")] = None,
        region: Annotated[Key | None, Query(description="Only environments in this region.")] = None,
        preset: Annotated[Preset | None, Query(description="Only environments on this placement.")] = None,
        after: Annotated[
            EnvironmentId | None, Query(description="Only ids after this one: `next` of the previous page.")
        ] = None,
        limit: Limit = 50,
        *,
        pending: Annotated[bool, Query(description="Only environments whose size is to change.")] = False,
        not_settled: Annotated[
            bool, Query(alias="unsettled", description="Only environments that are not as they have to be.")
        ] = False,
    ) -> EnvironmentPage:
        """Lists environments in the order of their ids, in pages. New ones between two requests shift no page."""
        conditions: list[ColumnElement[bool]] = [col(EnvironmentRow.pending_since).is_not(None)] if pending else []
        now, in_force = context.now(), await policy_in_force(context)
        waiting = await waits(context, None) if not_settled else {}
        if not_settled:
            conditions.append(may_be_unsettled(waiting, in_force, now))
        page, next_ = await load_page(
            context, ENVIRONMENTS, after, limit, *conditions, status=status, region=region, preset=preset
        )
        if not not_settled:
            waiting = await waits(context, [each.tenant_id for each in page])
        rows = [(each, waiting.get(each.tenant_id)) for each in page]
        shown = [EnvironmentSummary.of(each, wait, unsettled(each, wait, in_force, now)) for each, wait in rows]
        return EnvironmentPage(environments=[each for each in shown if each.unsettled or not not_settled], next=next_)

    @routes.get("/environments/{environment}")
    async def show(environment: EnvironmentOrTenantId, _: Viewer) -> EnvironmentView:
        """Shows one environment, by its id or its tenant's: placement, access, plan and built resources."""
        state = await load_state(context, ENVIRONMENTS, id_from(environment))
        if state is None:
            raise EnvironmentUnknownError(f"there is no environment {environment}")
        waiting = (await waits(context, [state.tenant_id])).get(state.tenant_id)
        found = unsettled(state, waiting, await policy_in_force(context), context.now())
        return EnvironmentView.full(state, waiting, found)

    @routes.get("/environments/{environment}/certificate")
    async def certificate(environment: EnvironmentOrTenantId, _: Viewer) -> Certificate:
        """Shows the certificate of a purge: every resource, and how and when its absence was verified.

        Refused with `not_purged` before that.
        """
        return purging.certificate_of(await load_state(context, ENVIRONMENTS, id_from(environment)), environment)

    @routes.post("/environments/{environment}/retry", status_code=HTTPStatus.ACCEPTED)
    async def retry(environment: EnvironmentOrTenantId, principal: Operator) -> EnvironmentView:
        """Plans again after a failure or a refusal, by the blueprint in force; built resources stay.

        A plan that waits ends when another tier, placement or limit is entitled by now, and that is planned instead.
        """
        tenant_id = f"ten_{environment.rpartition('_')[2]}"
        is_waiting = tenant_id in await waits(context, [tenant_id])

        def decision(known: PlanningStates) -> Sequence[EnvironmentEvent]:
            return applying.retry(
                known.environment,
                environment,
                known.blueprints,
                known.cells,
                known.now,
                known.inputs,
                is_waiting=is_waiting,
            )

        return await decide_plan(
            context, principal, environment, "retry", decision, view_of_environment, EnvironmentView
        )

    return routes


async def read_state(context: ServiceContext, tenant_id: str) -> OwnState:
    """Returns the environment for the diagnosis of its tenant."""
    environment = await load_state(context, ENVIRONMENTS, id_of(tenant_id))
    if environment is None:
        return OwnState()
    in_force, waiting_job = await policy_in_force(context), (await waits(context, [tenant_id])).get(tenant_id)
    found = unsettled(environment, waiting_job, in_force, context.now())
    planned, desired, pending = environment.planned_size, environment.desired_size, environment.pending
    waiting, refusal, failure = None, environment.refusal, environment.failure
    if pending is not None and planned is not None and desired is not None and planned != desired:
        what = "requested" if environment.is_moving else "entitled"
        waiting = f"{planned.text} is built and {desired.text} is {what} since {pending.since:%Y-%m-%d %H:%M} UTC"
    if environment.approval is not None and environment.approval.is_open:
        held = f"a plan waits for the approval {environment.approval.id}"
        waiting = f"{waiting}; {held}" if waiting else held
    return OwnState(
        aggregates=(f"{ENVIRONMENTS.kind}/{environment.id}",),
        environment=EnvironmentState(
            status=environment.status,
            region=environment.region,
            tier=planned.tier if planned else None,
            placement=planned.preset if planned else None,
            access=environment.access,
            target_access=environment.target_access,
            failed_resource=failure.address if failure else None,
            failure=failure.reason if failure else None,
            refusal=refusal.reason if refusal else None,
            refusal_code=refusal.code if refusal else None,
            refusal_ends=refusal.next_step if refusal else None,
            pending=waiting,
            requested_by_person=environment.is_moving,
            breach=await _breach(context, environment),
            unsettled=_unsettled(found) if found else None,
        ),
    )


def _unsettled(found: Unsettled) -> UnsettledState:
    return UnsettledState(reason=found.reason, text=found.text[:1000], command=found.command, since=found.since)


async def _breach(context: ServiceContext, environment: Environment) -> str | None:
    """Returns what a check of isolation found in the cells of a tenant; None when all guarantees hold."""
    found: list[str] = []
    for level, number in sorted(environment.cells):
        cells = await load_state(context, CELLS, level)
        for cell in cells.of(environment.region) if cells else ():
            if cell.number == number:
                found += [described(each) for each in cell.breaches]
    return "; ".join(found)[:1000] or None
