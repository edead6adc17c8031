"""HTTP routes of approvals: listed, shown, approved and rejected."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from paybill_contracts.inputs import PlainText
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.values import Digest, EnvironmentId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import Limit, load_page
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field
from sqlmodel import col

from paybill_provisioner.api.callers import Approver, Viewer
from paybill_provisioner.api.plan_views import ApprovalView, ProposedPlanView
from paybill_provisioner.domain import approvals, moves
from paybill_provisioner.domain.approvals import ApprovalUnknownError
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, require_published
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.plan_approvals import ApprovalStatus
from paybill_provisioner.domain.planning import decided
from paybill_provisioner.domain.policy import transfers_data
from paybill_provisioner.tables import BLUEPRINTS, ENVIRONMENTS, PLANNING_READS, EnvironmentRow, plan_inputs, record

Id = Annotated[ApprovalId, Path(description="Id of the approval.")]
Decision = Callable[[UnitOfWork, Environment | None, datetime], Sequence[EnvironmentEvent]]


class ApprovalPage(BaseModel):
    """The last approval of each environment, in the order of the environments' ids."""

    approvals: list[ApprovalView]
    next: Annotated[EnvironmentId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class ApprovalDetails(BaseModel):
    """An approval with its plan; null for an earlier approval, whose plan the log has."""

    approval: ApprovalView
    plan: ProposedPlanView | None


class ApproveBody(BaseModel):
    """The plan that is approved."""

    plan_hash: Annotated[Digest, Field(description="Hash of the plan that the approver has seen.")]


class RejectBody(BaseModel):
    """A rejection."""

    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of approvals."""
    routes = Router(prefix="/v1/approvals", tags=["approvals"])

    @routes.get("")
    async def show_all(
        _: Viewer,
        status: Annotated[ApprovalStatus | None, Query(description="Only approvals with this status.")] = None,
        after: Annotated[
            EnvironmentId | None, Query(description="Only environments after this id: `next` of the previous page.")
        ] = None,
        limit: Limit = 50,
    ) -> ApprovalPage:
        """Lists the last approval of each environment, in pages."""
        page, next_ = await load_page(
            context,
            ENVIRONMENTS,
            after,
            limit,
            col(EnvironmentRow.approval_id).is_not(None),
            approval_status=status,
        )
        now = context.now()
        views = [ApprovalView.of(each, each.approval, now) for each in page if each.approval is not None]
        return ApprovalPage(approvals=views, next=next_)

    @routes.get("/{approval}")
    async def show(approval: Id, _: Viewer) -> ApprovalDetails:
        """Shows an approval and its plan."""
        environment, found = approvals.find(await _environment(context, approval), approval)
        now, plan = context.now(), found.plan
        view = None
        if plan is not None:
            view = ProposedPlanView.of(
                environment,
                plan,
                found.plan_hash,
                now,
                handling=found.handling,
                reasons=found.reasons,
                transfers_data=environment.epoch > 0 and transfers_data(plan),
            )
        return ApprovalDetails(approval=ApprovalView.of(environment, found, now), plan=view)

    @routes.post("/{approval}/approve")
    async def approve(approval: Id, body: ApproveBody, principal: Approver) -> ApprovalView:
        """Approves the plan with this hash; it can be applied once, until the approval expires. Idempotent.

        Refused with `approval_mismatch` (another hash, expired, or the requester although policy requires another
        person), `approval_ended` and `plan_superseded`.
        """

        def decision(unit: UnitOfWork, environment: Environment | None, now: datetime) -> Sequence[EnvironmentEvent]:
            blueprints = require_published(unit.get(BLUEPRINTS, BLUEPRINT_ID))
            granted = approvals.approve(
                environment, approval, body.plan_hash, principal.subject, blueprints, plan_inputs(unit), now
            )
            return decided(environment, granted, now)

        return await _decide(context, principal, approval, "approve", decision)

    @routes.post("/{approval}/reject")
    async def reject(approval: Id, body: RejectBody, principal: Approver) -> ApprovalView:
        """Rejects the plan; it is requested again when a person makes it again, or when it changes. Idempotent.

        A move that the plan is for ends.
        """

        def decision(_unit: UnitOfWork, environment: Environment | None, now: datetime) -> Sequence[EnvironmentEvent]:
            return moves.reject(environment, approval, principal.subject, body.reason, now)

        return await _decide(context, principal, approval, "reject", decision)

    return routes


async def _environment(context: ServiceContext, approval: str) -> Environment:
    """Returns the environment with this approval, also an earlier one. Raises ApprovalUnknownError."""
    earlier = col(EnvironmentRow.state)["earlier_approvals"].contains([{"id": approval}])
    for condition in (col(EnvironmentRow.approval_id) == approval, earlier):
        page, _ = await load_page(context, ENVIRONMENTS, None, 1, condition)
        if page:
            return page[0]
    raise ApprovalUnknownError(f"there is no approval {approval}")


async def _decide(
    context: ServiceContext, principal: Caller, approval: str, verb: str, decision: Decision
) -> ApprovalView:
    id_ = (await _environment(context, approval)).id

    def decide(unit: UnitOfWork, at: DecisionContext) -> ApprovalView:
        record(unit, id_, decision(unit, unit.get(ENVIRONMENTS, id_), at.now))
        environment, found = approvals.find(unit.get(ENVIRONMENTS, id_), approval)
        return ApprovalView.of(environment, found, at.now)

    return await context.decide(
        principal.origin,
        decide,
        writes=[ENVIRONMENTS.key(id_)],
        reads=PLANNING_READS,
        verb=verb,
        target=approval,
        idempotency=principal.idempotency,
        response_type=ApprovalView,
    )
