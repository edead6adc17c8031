"""HTTP routes of the plans of an environment: made, shown and applied, and made for a move."""

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Preset
from paybill_contracts.values import Digest
from paybill_runtime import clock
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.api.environment_views import EnvironmentView
from paybill_provisioner.api.environments import EnvironmentOrTenantId, id_from
from paybill_provisioner.api.plan_views import ApprovalView, EnvironmentPlans, ProposedPlanView
from paybill_provisioner.domain import applying, moves
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, Blueprints, require_published
from paybill_provisioner.domain.cells import SHARED
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import EnvironmentUnknownError, existing
from paybill_provisioner.domain.estimates import PLAN_RUNS_ID
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plans import CellsInForce
from paybill_provisioner.domain.policy import POLICY_ID
from paybill_provisioner.domain.price_book import PRICE_BOOK_ID
from paybill_provisioner.domain.unsettled import unsettled
from paybill_provisioner.tables import (
    BLUEPRINTS,
    CELL_KEYS,
    CELLS,
    ENVIRONMENTS,
    PLAN_RUNS,
    PLANNING_READS,
    POLICY,
    PRICE_BOOK,
    cells_in_force,
    plan_inputs,
    record,
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
        now = clock.now()
        known = [each for each in (state.approval, *reversed(state.earlier_approvals)) if each is not None]
        approvals = [ApprovalView.of(state, each, now) for each in known]
        return EnvironmentPlans(plan=await _shown(context, state, now), approvals=approvals)

    @routes.post("/plans")
    async def make(environment: EnvironmentOrTenantId, principal: Operator) -> ProposedPlanView:
        """Plans what is desired now, and requests an approval when policy requires one; nothing is applied. Idempotent.

        The caller is the requester. An open approval of a plan that is still right stays. Refused with
        `environment_not_plannable` and the codes of a refused plan.
        """
        id_ = id_from(environment)

        def decide(unit: UnitOfWork, at: DecisionContext) -> ProposedPlanView:
            blueprints, cells, inputs = _loaded(unit)
            state = unit.get(ENVIRONMENTS, id_)
            events = applying.make_plan(state, environment, principal.subject, blueprints, cells, inputs, at.now)
            record(unit, id_, events)
            return _view(existing(unit.get(ENVIRONMENTS, id_), environment), blueprints, cells, inputs, at.now)

        return await context.decide(
            principal.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_), *CELL_KEYS],
            reads=PLANNING_READS,
            verb="plan",
            target=environment,
            idempotency=principal.idempotency,
            response_type=ProposedPlanView,
        )

    @routes.post("/plans/{plan_hash}/apply", status_code=HTTPStatus.ACCEPTED)
    async def apply(environment: EnvironmentOrTenantId, plan_hash: PlanHash, principal: Operator) -> EnvironmentView:
        """Applies the plan with this hash: one without an approval if policy allows it, or an approved one, once.

        Refused with `approval_required`, `approval_ended` (a second use), `approval_mismatch` (expired),
        `plan_superseded`, `transfer_unavailable`, `region_full` and `environment_not_plannable`.
        """
        id_ = id_from(environment)

        def decide(unit: UnitOfWork, at: DecisionContext) -> EnvironmentView:
            blueprints, cells, inputs = _loaded(unit)
            events: Sequence[EnvironmentEvent] = applying.apply(
                unit.get(ENVIRONMENTS, id_), environment, plan_hash, blueprints, cells, inputs, at.now
            )
            record(unit, id_, events)
            after, in_force = existing(unit.get(ENVIRONMENTS, id_), environment), plan_inputs(unit).policy
            return EnvironmentView.full(after, None, unsettled(after, None, in_force, at.now))

        return await context.decide(
            principal.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_), *CELL_KEYS],
            reads=PLANNING_READS,
            verb="apply",
            target=environment,
            idempotency=principal.idempotency,
            response_type=EnvironmentView,
        )

    @routes.post("/move")
    async def move(environment: EnvironmentOrTenantId, body: MoveBody, principal: Operator) -> ProposedPlanView:
        """Plans a move to another placement, and requests its approval; nothing is applied. Idempotent.

        One to the built placement withdraws a move that is pending. Refused with `same_placement`, `change_pending`,
        `tenant_suspended`, `environment_not_plannable`, `region_full` and `tier_unknown`.
        """
        id_ = id_from(environment)

        def decide(unit: UnitOfWork, at: DecisionContext) -> ProposedPlanView:
            blueprints, cells, inputs = _loaded(unit)
            state = unit.get(ENVIRONMENTS, id_)
            events = moves.move(state, environment, body.to, principal.subject, blueprints, cells, inputs, at.now)
            record(unit, id_, events)
            return _view(existing(unit.get(ENVIRONMENTS, id_), environment), blueprints, cells, inputs, at.now)

        return await context.decide(
            principal.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_), *CELL_KEYS],
            reads=PLANNING_READS,
            verb="move",
            target=environment,
            idempotency=principal.idempotency,
            response_type=ProposedPlanView,
        )

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
        return _view(environment, require_published(blueprints), cells, inputs, now)
    except DomainError:
        # The environment's own view has the reason of a refused plan.
        return None


def _loaded(unit: UnitOfWork) -> tuple[Blueprints, CellsInForce, PlanInputs]:
    return require_published(unit.get(BLUEPRINTS, BLUEPRINT_ID)), cells_in_force(unit), plan_inputs(unit)


def _view(
    environment: Environment, blueprints: Blueprints, cells: CellsInForce, inputs: PlanInputs, now: datetime
) -> ProposedPlanView:
    """Returns the view of the plan of the open approval, or of the one that would be applied now."""
    found = applying.current(environment, blueprints, cells, inputs)
    return ProposedPlanView.of(
        environment,
        found.plan,
        found.plan_hash,
        now,
        handling=found.judged.handling,
        reasons=found.judged.reasons,
        transfers_data=found.transfers_data,
    )
