"""Builds the service from its parts."""

from secrets import token_hex

from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import TenantActivated
from paybill_runtime.app import Service
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.diagnosis.invariants import Invariants, TenantState
from paybill_runtime.diagnosis.measurements import StateCount
from paybill_runtime.http.listing import load_state
from paybill_runtime.jobs.effects import Timer
from paybill_runtime.messaging.publication_spans import FactDuration

from paybill_tenant.api import read_state, router
from paybill_tenant.consumer import HANDLERS
from paybill_tenant.domain import invariants, offboarding, policies
from paybill_tenant.domain.policies import POLICY
from paybill_tenant.domain.tenants import Status
from paybill_tenant.settings import Settings
from paybill_tenant.tables import INCIDENTS, POLICIES, STATES, TENANT_COUNTS, TENANTS, VIOLATIONS

TIMERS = (Timer(TENANTS, "due", offboarding.on_time),)
INVARIANTS = Invariants(
    VIOLATIONS,
    (TenantState(TENANTS, id_of=str, tenant_of=lambda tenant: tenant.id),),
    rules=invariants.RULES,
)
"""Invariants of the service (docs/invariants.md)."""
CONTACT_KEY = "contact-key"
"""The name of the secret. Destroying it ends every contact digest."""
COUNTS = (
    StateCount("paybill.tenants", "{tenant}", "Tenants, by status.", "paybill.tenant.status", TENANT_COUNTS, Status),
)
DURATIONS = (
    FactDuration(
        "paybill.tenant.time_to_active",
        "Time from the sign-up of a tenant to its first activation.",
        TenantActivated.TYPE,
        (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400),
    ),
)
_START = Origin("start", "start", "service:tenant", "")


async def _contact_key(context: ServiceContext, known: str | None) -> str:
    """Returns the reference of the key of contact digests; of a new one when it was destroyed."""
    if known is not None and await context.secrets.latest(CONTACT_KEY) == known:
        return known
    return await context.secrets.put(CONTACT_KEY, token_hex(32))


async def record_policy(context: ServiceContext) -> None:
    """Records the lifecycle policy of the settings. Of several processes that start at once, the first sets the key."""
    settings = context.settings
    before = await load_state(context, POLICIES, POLICY)
    known = before.contact_key if before is not None else None
    key = await _contact_key(context, known)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        current = unit.get(POLICIES, POLICY)
        other = current.contact_key if current is not None else None
        events = policies.configure(
            current,
            offboarding_delay_s=settings.offboarding_delay_s,
            signup_valid_s=settings.signup_valid_s,
            contact_key=key if other == known else other,
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
        counts=COUNTS,
        durations=DURATIONS,
    )
