"""Routes about freezes: agents are stopped at once, and continue."""

from typing import Annotated, Self

from fastapi import APIRouter
from paybill_contracts.agents import FREEZES, FreezeId
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import TenantId, Timestamp
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from paybill_agent_gateway.api.callers import Operator, Viewer
from paybill_agent_gateway.api.in_force import bundles_in_force
from paybill_agent_gateway.domain import agents, freezes, tenants
from paybill_agent_gateway.domain.freezes import Freezes
from paybill_agent_gateway.tables import AGENTS, FREEZE_STATES, RUNS, TENANTS


class FreezeBody(BaseModel):
    """Request for a freeze."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    freeze: FreezeId
    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


class ThawBody(BaseModel):
    """The freeze that ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    freeze: FreezeId


class FreezeView(BaseModel):
    """A freeze; without a reason and a time when it does not hold any more."""

    freeze: FreezeId
    frozen: bool
    tenant_id: Annotated[TenantId | None, Field(description="Of a frozen tenant or agent.")]
    reason: str | None
    frozen_by: str | None
    frozen_at: Timestamp | None

    @classmethod
    def of(cls, state: Freezes | None, freeze: str) -> Self:
        """Builds the view of a freeze, which may have ended."""
        found = None if state is None else state.freezes.get(freeze)
        return cls(
            freeze=freeze,
            frozen=found is not None,
            tenant_id=None if found is None else found.tenant_id,
            reason=None if found is None else found.reason,
            frozen_by=None if found is None else found.frozen_by,
            frozen_at=None if found is None else found.frozen_at,
        )


class FreezeList(BaseModel):
    """Everything that is frozen now."""

    freezes: list[FreezeView]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of freezes."""
    routes = Router(prefix="/v1/freezes", tags=["freezes"])

    @routes.get("")
    async def show_all(_: Viewer) -> FreezeList:
        """Lists what is frozen now."""
        state = await load_state(context, FREEZE_STATES, FREEZES)
        return FreezeList(freezes=[FreezeView.of(state, name) for name in (state.freezes if state else {})])

    @routes.post("")
    async def freeze(body: FreezeBody, principal: Operator) -> FreezeView:
        """Freezes everything, or one tenant, agent or workflow: no intent is recorded from now on. Idempotent.

        What was intended before is settled. Refused with `tenant_unknown`, `agent_unknown`, and `workflow_not_found`
        for a workflow that no bundle in force has, unless one of its runs is open.
        """
        kind, _, name = body.freeze.partition("/")
        exists = kind != "workflow" or await _has_workflow(context, name)
        reads: list[Key] = []
        if kind == "tenant":
            reads = [TENANTS.key(name)]
        if kind == "agent":
            reads = [AGENTS.key(name)]

        def decide(unit: UnitOfWork, at: DecisionContext) -> FreezeView:
            tenant_id = None
            if kind == "tenant":
                tenant_id = tenants.existing(unit.get(TENANTS, name), name).tenant_id
            if kind == "agent":
                tenant_id = agents.existing(unit.get(AGENTS, name), name).tenant_id
            state = unit.get(FREEZE_STATES, FREEZES)
            freezes.require_workflow(state, body.freeze, exists=exists)
            unit.record(
                FREEZE_STATES,
                FREEZES,
                freezes.freeze(state, body.freeze, tenant_id, body.reason, principal.subject, at.now),
            )
            return FreezeView.of(unit.get(FREEZE_STATES, FREEZES), body.freeze)

        return await context.decide(
            principal.origin,
            decide,
            writes=[FREEZE_STATES.key(FREEZES)],
            reads=reads,
            verb="freeze",
            target=body.freeze,
            idempotency=principal.idempotency,
            response_type=FreezeView,
        )

    @routes.post("/thaw")
    async def thaw(body: ThawBody, principal: Operator) -> FreezeView:
        """Ends a freeze: runs whose time is not over continue. Refused with `not_frozen`."""

        def decide(unit: UnitOfWork, at: DecisionContext) -> FreezeView:
            state = unit.get(FREEZE_STATES, FREEZES)
            unit.record(FREEZE_STATES, FREEZES, freezes.thaw(state, body.freeze, principal.subject, at.now))
            return FreezeView.of(unit.get(FREEZE_STATES, FREEZES), body.freeze)

        return await context.decide(
            principal.origin,
            decide,
            writes=[FREEZE_STATES.key(FREEZES)],
            verb="thaw",
            target=body.freeze,
            idempotency=principal.idempotency,
            response_type=FreezeView,
        )

    return routes


async def _has_workflow(context: ServiceContext, name: str) -> bool:
    """Returns whether a bundle in force has a workflow, or a run of one is open."""
    columns = RUNS.table.c
    is_open = select(columns.id).where(columns.workflow == name, columns.status != "ended").limit(1)
    if await context.rows(is_open):
        return True
    found = (await bundles_in_force(context)).values()
    return any(each.name == name for bundle in found for each in bundle.content.workflows)
