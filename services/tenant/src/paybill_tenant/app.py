"""Builds the service from its parts."""

from paybill_contracts.envelope import Origin
from paybill_runtime.app import Service
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.invariants import Invariants, TenantState
from paybill_runtime.jobs.effects import Timer

from paybill_tenant.api import read_state, router
from paybill_tenant.consumer import HANDLERS
from paybill_tenant.domain import invariants, offboarding, policies
from paybill_tenant.domain.policies import POLICY
from paybill_tenant.settings import Settings
from paybill_tenant.tables import INCIDENTS, POLICIES, STATES, TENANTS, VIOLATIONS

TIMERS = (Timer(TENANTS, "due", offboarding.on_time),)
INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(TENANTS, id_of=str, tenant_of=lambda tenant: tenant.id),),
    rules=invariants.RULES,
)
"""Invariants of the service (docs/invariants.md)."""
_START = Origin("start", "start", "service:tenant", "")


async def record_policy(context: ServiceContext) -> None:
    """Records the lifecycle policy of the settings."""
    settings = context.settings

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        events = policies.configure(
            unit.get(POLICIES, POLICY),
            offboarding_delay_s=settings.offboarding_delay_s,
            signup_valid_s=settings.signup_valid_s,
        )
        unit.record(POLICIES, POLICY, events)

    await context.decide(_START, decide, writes=[POLICIES.key(POLICY)])


def service() -> Service:
    """Returns the tenant service. It calls no other system: its only jobs are timers."""
    return Service(
        name="tenant",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        router=router,
        incidents=INCIDENTS,
        invariants=INVARIANTS,
        timers=TIMERS,
        on_start=(record_policy,),
        read_state=read_state,
    )
