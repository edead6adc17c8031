"""Builds the service from its parts."""

from paybill_runtime.app import Service
from paybill_runtime.diagnosis.invariants import Invariants, TenantState

from paybill_tenant.api import router
from paybill_tenant.consumer import HANDLERS
from paybill_tenant.settings import Settings
from paybill_tenant.tables import INCIDENTS, STATES, TENANTS, VIOLATIONS

INVARIANTS = Invariants(VIOLATIONS, (TenantState(TENANTS, id_of=str, tenant_of=lambda tenant: tenant.id),), rules=())
"""Invariants of the service (docs/invariants.md)."""


def service() -> Service:
    """Returns the tenant service. It calls no other system, so it has no jobs."""
    return Service(
        name="tenant",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        router=router,
        incidents=INCIDENTS,
        invariants=INVARIANTS,
    )
