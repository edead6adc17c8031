"""Builds the service from its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from time import monotonic

from paybill_contracts.agents import FREEZES
from paybill_contracts.envelope import Origin
from paybill_runtime.app import Service
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.invariants import Invariants, TenantState

from paybill_agent_gateway.act import Gate
from paybill_agent_gateway.api import read_state, router
from paybill_agent_gateway.consumer import HANDLERS
from paybill_agent_gateway.domain import freezes
from paybill_agent_gateway.jobs import JOBS, TIMERS, kinds
from paybill_agent_gateway.settings import Settings
from paybill_agent_gateway.tables import FREEZE_STATES, INCIDENTS, STATES, TENANTS, VIOLATIONS

INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(TENANTS, id_of=str, tenant_of=lambda access: access.tenant_id),),
    rules=(),
)
"""Invariants of the service (docs/invariants.md)."""


_START = Origin("start", "start", "service:agent-gateway", "")


async def begin_freezes(context: ServiceContext) -> None:
    """Creates the aggregate of freezes, so that a call which is decided beside the first freeze conflicts with it."""

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        events = freezes.begin(unit.get(FREEZE_STATES, FREEZES), _START.actor, at.now)
        unit.record(FREEZE_STATES, FREEZES, events)

    await context.decide(_START, decide, writes=[FREEZE_STATES.key(FREEZES)])


def service() -> Service:
    """Returns the agent gateway."""

    @cache
    def gate_of(context: ServiceContext) -> Gate:
        return Gate.of(context, monotonic)

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
        router=router,
        incidents=INCIDENTS,
        invariants=INVARIANTS,
        read_state=read_state,
        accepts_agents=True,
        jobs=JOBS,
        timers=TIMERS,
        job_kinds=lambda context: kinds(gate_of(context)),
        lifespan=databases,
        on_start=(begin_freezes,),
    )
