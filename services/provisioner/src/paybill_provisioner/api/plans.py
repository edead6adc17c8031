"""HTTP routes of the plans of an environment: made, shown and applied, and made for a move."""

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Preset
from paybill_contracts.values import Digest
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.api.environment_ids import EnvironmentOrTenantId, id_from
from paybill_provisioner.api.environment_views import EnvironmentView
from paybill_provisioner.api.plan_decisions import PlanningStates, decide_plan, view_of_environment
from paybill_provisioner.api.plan_views import ApprovalView, EnvironmentPlans, ProposedPlanView
from paybill_provisioner.domain import applying, moves
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, require_published
from paybill_provisioner.domain.cells import SHARED
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import EnvironmentUnknownError
from paybill_provisioner.domain.estimates import PLAN_RUNS_ID
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.policy import POLICY_ID
from paybill_provisioner.domain.price_book import PRICE_BOOK_ID
from paybill_provisioner.tables import (
    BLUEPRINTS,
    CELLS,
    ENVIRONMENTS,
    PLAN_RUNS,
    POLICY,
    PRICE_BOOK,
)

PlanHash = Annotated[Digest, Path(description="Hash of the plan.")]


class MoveBody(BaseModel):
    """A move."""

    to: Annotated[Preset, Field(description="Placement after it; the tier stays.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of plans."""
    routes = Router(prefix="/v1/environments/{environment}", tags=["plans"])

    @routes.get("/plans")
    async def show_all(environment: EnvironmentOrTenantId, _: Viewer) -> EnvironmentPlans:
        """Shows the plan that would be applied now, null when there is none, and the approvals; records nothing."""
        state = await load_state(context, ENVIRONMENTS, id_from(environment))
        if state is None:
            raise EnvironmentUnknownError(f"there is no environment {environment}")
        now = context.now()
        known = [each for each in (state.approval, *reversed(state.earlier_approvals)) if each is not None]
        approvals = [ApprovalView.of(state, each, now) for each in known]
        return EnvironmentPlans(plan=await _shown(context, state, now), approvals=approvals)

    @routes.post("/plans")
    async def make(environment: EnvironmentOrTenantId, principal: Operator) -> ProposedPlanView:
        """Plans what is desired now, and requests an approval when policy requires one; nothing is applied. Idempotent.

        The caller is the requester. An open approval of a plan that is still right stays. Refused with
        `environment_not_plannable` and the codes of a refused plan.
        """

        def decision(known: PlanningStates) -> Sequence[EnvironmentEvent]:
            return applying.make_plan(
                known.environment,
                environment,
                principal.subject,
                known.blueprints,
                known.cells,
                known.inputs,
                known.now,
            )

        return await decide_plan(context, principal, environment, "plan", decision, _view, ProposedPlanView)

    @routes.post("/plans/{plan_hash}/apply", status_code=HTTPStatus.ACCEPTED)
    async def apply(environment: EnvironmentOrTenantId, plan_hash: PlanHash, principal: Operator) -> EnvironmentView:
        """Applies the plan with this hash: one without an approval if policy allows it, or an approved one, once.

        Refused with `approval_required`, `approval_ended` (a second use), `approval_mismatch` (expired),
        `plan_superseded`, `transfer_unavailable`, `region_full` and `environment_not_plannable`.
        """

        def decision(known: PlanningStates) -> Sequence[EnvironmentEvent]:
            return applying.apply(
                known.environment, environment, plan_hash, known.blueprints, known.cells, known.inputs, known.now
            )

        return await decide_plan(
            context, principal, environment, "apply", decision, view_of_environment, EnvironmentView
        )

    @routes.post("/move")
    async def move(environment: EnvironmentOrTenantId, body: MoveBody, principal: Operator) -> ProposedPlanView:
        """Plans a move to another placement, and requests its approval; nothing is applied. Idempotent.

        One to the built placement withdraws a move that is pending. Refused with `same_placement`, `change_pending`,
        `tenant_suspended`, `environment_not_plannable`, `region_full` and `tier_unknown`.
        """

        def decision(known: PlanningStates) -> Sequence[EnvironmentEvent]:
            return moves.move(
                known.environment,
                environment,
                body.to,
                principal.subject,
                known.blueprints,
                known.cells,
                known.inputs,
                known.now,
            )

        return await decide_plan(context, principal, environment, "move", decision, _view, ProposedPlanView)

    return routes


async def _shown(context: ServiceContext, environment: Environment, now: datetime) -> ProposedPlanView | None:
    """Returns the plan that would be applied now; None when there is none."""
    blueprints = await load_state(context, BLUEPRINTS, BLUEPRINT_ID)
    cells = {level: await load_state(context, CELLS, level) for level in SHARED}
    inputs = PlanInputs(
        await load_state(context, PRICE_BOOK, PRICE_BOOK_ID),
        await load_state(context, PLAN_RUNS, PLAN_RUNS_ID),
        await load_state(context, POLICY, POLICY_ID),
    )
    try:
        return _view(environment, PlanningStates(environment, require_published(blueprints), cells, inputs, now))
    except DomainError:
        # The environment's own view has the reason of a refused plan.
        return None


def _view(environment: Environment, known: PlanningStates) -> ProposedPlanView:
    """Returns the view of the plan of the open approval, or of the one that would be applied now."""
    found = applying.current(environment, known.blueprints, known.cells, known.inputs)
    return ProposedPlanView.of(
        environment,
        found.plan,
        found.plan_hash,
        known.now,
        handling=found.judged.handling,
        reasons=found.judged.reasons,
        transfers_data=found.transfers_data,
    )
