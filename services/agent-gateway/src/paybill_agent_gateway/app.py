"""Builds the service from its parts."""

from paybill_runtime.app import Service
from paybill_runtime.diagnosis.invariants import Invariants, TenantState

from paybill_agent_gateway.api import read_state, router
from paybill_agent_gateway.consumer import HANDLERS
from paybill_agent_gateway.settings import Settings
from paybill_agent_gateway.tables import INCIDENTS, STATES, TENANTS, VIOLATIONS

INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(TENANTS, id_of=str, tenant_of=lambda access: access.tenant_id),),
    rules=(),
)
"""Invariants of the service (docs/invariants.md)."""


def service() -> Service:
    """Returns the agent gateway."""
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
    )
