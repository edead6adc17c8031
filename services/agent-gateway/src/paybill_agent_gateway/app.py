"""Builds the service from its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from fastapi import APIRouter
from paybill_contracts.agents import FREEZES
from paybill_contracts.envelope import Origin
from paybill_runtime.app import Service
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.invariants import Invariants, TenantState

from paybill_agent_gateway import api
from paybill_agent_gateway.act import Gate
from paybill_agent_gateway.api import read_state
from paybill_agent_gateway.consumer import HANDLERS
from paybill_agent_gateway.domain import freezes
from paybill_agent_gateway.jobs import JOBS, TIMERS, kinds
from paybill_agent_gateway.mcp import endpoint
from paybill_agent_gateway.settings import Settings
from paybill_agent_gateway.tables import FREEZE_STATES, INCIDENTS, STATES, TENANTS, VIOLATIONS

INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(TENANTS, id_of=str, tenant_of=lambda access: access.tenant_id),),
    rules=(),
)
"""Invariants of the service (docs/invariants.md)."""


GATHER_FACTS_S = 0.02
"""Each call records a fact that nobody waits for; a round of the relay for each would cost as much as the call."""
_START = Origin("start", "start", "service:agent-gateway", "")


async def begin_freezes(context: ServiceContext) -> None:
    """Creates the aggregate of freezes, so that a call which is decided beside the first freeze conflicts with it."""

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        events = freezes.begin(unit.get(FREEZE_STATES, FREEZES), _START.actor, at.now)
        unit.record(FREEZE_STATES, FREEZES, events)

    await context.decide(_START, decide, writes=[FREEZE_STATES.key(FREEZES)])


def service() -> Service:
    """Returns the agent gateway."""
    gates: dict[int, Gate] = {}

    def gate_of(context: ServiceContext) -> Gate:
        if id(context) not in gates:
            gates[id(context)] = Gate.of(context, monotonic)
        return gates[id(context)]

    def routes(context: ServiceContext) -> APIRouter:
        """Returns the routes of both endpoints, which execute calls through one gate."""
        gate = gate_of(context)
        return APIRouter(routes=[*api.router(context, gate).routes, *endpoint.router(context, gate).routes])

    @asynccontextmanager
    async def databases(context: ServiceContext) -> AsyncIterator[None]:
        try:
            yield
        finally:
            gate_of(context).databases.close()

    return Service(
        name="agent-gateway",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        router=routes,
        incidents=INCIDENTS,
        invariants=INVARIANTS,
        read_state=read_state,
        accepts_agents=True,
        gather_facts_s=GATHER_FACTS_S,
        jobs=JOBS,
        timers=TIMERS,
        job_kinds=lambda context: kinds(gate_of(context)),
        lifespan=databases,
        on_start=(begin_freezes,),
    )
