"""Routes about agents: registered, listed, shown and ended."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from secrets import token_hex
from typing import Annotated, Self

from fastapi import APIRouter, Path, Query, Response
from paybill_contracts.agents import AgentId, AgentRegistered, EndReason
from paybill_contracts.values import Key, TenantId, Timestamp
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import AGENT, Role, make_key
from paybill_runtime.http.listing import Limit, load_page, load_state, state_column
from paybill_runtime.http.router import Router
from paybill_runtime.messaging.api_key_copies import accept, add_copy, revoke_copy
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from paybill_agent_gateway.api.callers import Operator, Viewer
from paybill_agent_gateway.api.in_force import bundles_in_force
from paybill_agent_gateway.domain import agents, tenants
from paybill_agent_gateway.domain.agents import Agent
from paybill_agent_gateway.domain.bundles import PublishedBundle
from paybill_agent_gateway.tables import AGENTS, TENANTS

MAX_LIFETIME_S = 366 * 86_400

Id = Annotated[AgentId, Path(description="Id of the agent.")]


class AgentStatus(StrEnum):
    """Acceptance of an agent's key."""

    ACTIVE = "active"
    EXPIRED = "expired"
    ENDED = "ended"


class AgentBody(BaseModel):
    """Request for a new agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[TenantId, Field(description="The tenant on whose rows it acts.")]
    name: Annotated[Key, Field(description="Names the purpose; kept in the log permanently: no personal data.")]
    role: Annotated[Key, Field(description="The role of the bundle that it has: its workflows and grants.")]
    lifetime_s: Annotated[
        int, Field(ge=1, le=MAX_LIFETIME_S, description="Seconds until its key is refused; at most 366 days.")
    ]


class AgentView(BaseModel):
    """An agent without its key."""

    id: AgentId
    tenant_id: TenantId
    name: str
    role: str
    status: AgentStatus
    key_id: str
    registered_by: str
    registered_at: Timestamp
    expires_at: Timestamp
    ended_at: Timestamp | None
    end_reason: EndReason | None

    @classmethod
    def of(cls, agent: Agent, now: Timestamp) -> Self:
        """Builds the view of `agent`."""
        has_expired = agent.end_reason is EndReason.EXPIRED or (agent.ended_at is None and now >= agent.expires_at)
        status = AgentStatus.ACTIVE if agent.ended_at is None else AgentStatus.ENDED
        return cls(
            id=agent.id,
            tenant_id=agent.tenant_id,
            name=agent.name,
            role=agent.role,
            status=AgentStatus.EXPIRED if has_expired else status,
            key_id=agent.key_id,
            registered_by=agent.registered_by,
            registered_at=agent.registered_at,
            expires_at=agent.expires_at,
            ended_at=agent.ended_at,
            end_reason=agent.end_reason,
        )


class NewAgentView(AgentView):
    """A new agent. key: the key itself, in this response alone; null when an Idempotency-Key was used again."""

    key: str | None


class AgentPage(BaseModel):
    """Agents, in the order of their ids."""

    agents: list[AgentView]
    next: Annotated[AgentId | None, Field(description="Send it as `after` for the next page; null on the last.")]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of agents."""
    routes = Router(prefix="/v1/agents", tags=["agents"])

    @routes.post("", status_code=HTTPStatus.CREATED)
    async def register(body: AgentBody, principal: Operator, response: Response) -> NewAgentView:
        """Registers an agent of one tenant in one role. The response alone has its key; only this service accepts it.

        With an `Idempotency-Key` a repeated request registers no second agent, and its response has no `key`: end the
        agent if the first response was lost. Refused with `tenant_unknown`, with `tenant_left` for a tenant that
        has left, with `role_unknown` for a role of no workflow in force, and with `agent_name_taken`.
        """
        now, id_, key_id = context.now(), f"agt_{token_hex(16)}", f"agent-{token_hex(8)}"
        expires_at = now + timedelta(seconds=body.lifetime_s)
        made = make_key(key_id, body.name, Role.VIEWER, (), expires_at, f"{AGENT}{id_}")
        fact = AgentRegistered(
            tenant_id=body.tenant,
            agent_id=id_,
            name=body.name,
            role=body.role,
            key_id=key_id,
            sha256=made.stored["sha256"],
            registered_by=principal.subject,
            registered_at=now,
            expires_at=expires_at,
            claims_name=True,
        )

        in_force = await bundles_in_force(context)
        named = await _active(context, body.tenant, body.name)

        def decide(unit: UnitOfWork, at: DecisionContext) -> AgentView:
            access = tenants.require_present(unit.get(TENANTS, body.tenant), body.tenant)
            roles = _roles(in_force, access.agents.blueprint if access.agents is not None else None)
            if in_force:
                agents.require_role(body.role, roles)
            agents.require_free_name(body.name, named, at.now)
            unit.record(AGENTS, id_, agents.register(unit.get(AGENTS, id_), fact))
            return AgentView.of(agents.existing(unit.get(AGENTS, id_), id_), at.now)

        view = await context.decide(
            principal.origin,
            decide,
            writes=[AGENTS.key(id_)],
            reads=[TENANTS.key(body.tenant)],
            extra_statements=partial(add_copy, fact=fact),
            verb="register_agent",
            target=body.name,
            tenant_id=body.tenant,
            idempotency=principal.idempotency,
            response_type=AgentView,
        )
        is_new = view.id == id_
        if is_new:
            accept(context.key_ring, fact)
        response.headers["Location"] = f"/v1/agents/{view.id}"
        return NewAgentView(**view.model_dump(), key=made.raw if is_new else None)

    @routes.get("")
    async def show_all(
        _: Viewer,
        tenant: Annotated[TenantId | None, Query(description="Only agents of this tenant.")] = None,
        after: Annotated[
            AgentId | None, Query(description="Only ids after this one: `next` of the previous page.")
        ] = None,
        name: Annotated[Key | None, Query(description="Only agents with this name.")] = None,
        limit: Limit = 50,
    ) -> AgentPage:
        """Lists agents, also expired and ended ones."""
        now = context.now()
        page, next_ = await load_page(context, AGENTS, after, limit, tenant_id=tenant, name=name)
        return AgentPage(agents=[AgentView.of(each, now) for each in page], next=next_)

    @routes.get("/{agent}")
    async def show(agent: Id, _: Viewer) -> AgentView:
        """Shows an agent. Refused with `agent_unknown`."""
        return AgentView.of(agents.existing(await load_state(context, AGENTS, agent), agent), context.now())

    @routes.post("/{agent}/end")
    async def end(agent: Id, principal: Operator) -> AgentView:
        """Ends an agent: its key is refused within a second. It cannot be undone. Idempotent.

        Refused with `agent_unknown`.
        """

        def decide(unit: UnitOfWork, at: DecisionContext) -> AgentView:
            state = agents.existing(unit.get(AGENTS, agent), agent)
            unit.record(AGENTS, agent, agents.end(state, principal.subject, at.now))
            return AgentView.of(agents.existing(unit.get(AGENTS, agent), agent), at.now)

        known = agents.existing(await load_state(context, AGENTS, agent), agent)
        view = await context.decide(
            principal.origin,
            decide,
            writes=[AGENTS.key(agent)],
            extra_statements=lambda statement: revoke_copy(statement, known.key_id),
            verb="end_agent",
            target=agent,
            tenant_id=known.tenant_id,
            idempotency=principal.idempotency,
            response_type=AgentView,
        )
        context.key_ring.revoke(known.key_id)
        return view

    return routes


def _roles(in_force: Mapping[str, PublishedBundle], blueprint: str | None) -> set[str]:
    """Returns the roles of the workflows in force for a blueprint; for all while the tenant has no login of agents."""
    found = [bundle for name, bundle in in_force.items() if blueprint in {None, name}]
    return {workflow.role for bundle in found for workflow in bundle.content.workflows}


async def _active(context: ServiceContext, tenant_id: str, name: str) -> list[Agent]:
    """Returns the agents of a tenant with this name that have not ended; their keys may have expired."""
    columns = AGENTS.table.c
    conditions = (columns.tenant_id == tenant_id, columns.name == name, columns.status == "active")
    return [AGENTS.load(row.state) for row in await context.rows(select(state_column(AGENTS)).where(*conditions))]
