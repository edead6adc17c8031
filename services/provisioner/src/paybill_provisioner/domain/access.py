"""Access of tenants: closed by suspension and offboarding, opened by reactivation and return."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import assert_never

from paybill_contracts.plan_execution import PlanPaused, PlanResumed
from paybill_contracts.provisioner import (
    Access,
    AccessClosed,
    AccessOpened,
    EnvironmentRetained,
    Export,
    RestorationStarted,
    RetentionStarted,
)
from paybill_contracts.tenant import (
    Hold,
    HoldsChanged,
    OffboardingStarted,
    ReturnStarted,
    SuspensionMode,
    TenantCancelled,
    TenantReactivated,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import TenantQuarantined

from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.building import access_change, ready
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Desired, Environment, Status
from paybill_provisioner.domain.environments import evolve, existing
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.planning import towards
from paybill_provisioner.domain.plans import CellsInForce
from paybill_provisioner.domain.sizes import Size

NOTHING_EXPORTED = Export(location="nothing", sha256=sha256(b"").hexdigest(), size_bytes=0, rows=0)
"""Export of an environment that was never planned: there is no file."""


_STRICTEST = (Access.CLOSED, Access.READ_ONLY, Access.OPEN)
_ACCESS = {SuspensionMode.READ_ONLY: Access.READ_ONLY, SuspensionMode.BLOCKED: Access.CLOSED}


def on_tenant_suspended(environment: Environment | None, fact: TenantSuspended) -> list[EnvironmentEvent]:
    """Starts to reduce the tenant's access to that of the suspension mode, and pauses a plan that is applied."""
    environment = existing(environment, fact.tenant_id)
    events = _start_change(environment, _ACCESS[fact.mode])
    if events and environment.is_applied and environment.remaining:
        paused = PlanPaused(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            plan_hash=environment.plan_hash or "",
            reason="the tenant is suspended",
        )
        events.append(paused)
    return events


def on_tenant_quarantined(environment: Environment | None, fact: TenantQuarantined) -> list[EnvironmentEvent]:
    """Closes the tenant's access, as a suspension does that blocks."""
    suspended = TenantSuspended(tenant_id=fact.tenant_id, mode=SuspensionMode.BLOCKED, holds=fact.holds)
    return on_tenant_suspended(environment, suspended)


def on_holds_changed(environment: Environment | None, fact: HoldsChanged) -> list[EnvironmentEvent]:
    """Sets the access that the environment gets after its build: a held tenant never has more, not for a moment."""
    return _start_change(existing(environment, fact.tenant_id), _access_under(fact.holds))


def on_tenant_reactivated(environment: Environment | None, fact: TenantReactivated) -> list[EnvironmentEvent]:
    """Starts to open the tenant's access."""
    return _start_change(existing(environment, fact.tenant_id), Access.OPEN)


def _start_change(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    match environment.status:
        case (
            Status.REGISTERED
            | Status.BUILDING
            | Status.FAILED
            | Status.COMPENSATING
            | Status.READY
            | Status.CHANGING
            | Status.RESTORING
        ):
            if environment.target_access is access:
                return []
            events: list[EnvironmentEvent] = [access_change(environment, access)]
            if environment.paused and access is Access.OPEN:
                resumed = PlanResumed(
                    tenant_id=environment.tenant_id,
                    environment_id=environment.id,
                    plan_hash=environment.plan_hash or "",
                )
                events.append(resumed)
            return events
        case Status.RETAINING | Status.RETAINED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(environment.status)


def may_be_set(environment: Environment) -> bool:
    """Returns True when the logins are complete, so that the access that is requested can be set."""
    is_built = environment.status is Status.BUILDING and not environment.remaining
    return is_built or environment.status in {Status.READY, Status.CHANGING}


def opens(environment: Environment) -> bool:
    """Returns True unless access is reduced: setting the access in effect again can open a login that is new."""
    target = environment.target_access
    return target is not Access.CLOSED and _STRICTEST.index(target) >= _STRICTEST.index(environment.access)


def access_changed(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    """Records that `access` is in effect; an environment whose first build waited for it is ready."""
    if environment.status is Status.BUILDING:
        return ready(environment) if environment.target_access is access and may_be_set(environment) else []
    if environment.status not in {Status.READY, Status.CHANGING} or environment.access is access:
        return []
    if access is Access.OPEN:
        return [AccessOpened(tenant_id=environment.tenant_id, environment_id=environment.id)]
    return [AccessClosed(tenant_id=environment.tenant_id, environment_id=environment.id, access=access)]


def on_tenant_left(
    environment: Environment | None, fact: OffboardingStarted | TenantCancelled
) -> list[EnvironmentEvent]:
    """Starts to close and export. An environment that was never planned is retained at once without an export."""
    environment = existing(environment, fact.tenant_id)
    started = RetentionStarted(tenant_id=environment.tenant_id, environment_id=environment.id)
    match environment.status:
        case Status.REGISTERED:
            return [started, *retained(evolve(environment, started), NOTHING_EXPORTED)]
        case Status.BUILDING | Status.FAILED | Status.COMPENSATING | Status.READY | Status.CHANGING | Status.RESTORING:
            return [started]
        case Status.RETAINING | Status.RETAINED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(environment.status)


def retained(environment: Environment, export: Export) -> list[EnvironmentEvent]:
    """Records that the data is exported and access is closed."""
    if environment.status is not Status.RETAINING:
        return []
    return [EnvironmentRetained(tenant_id=environment.tenant_id, environment_id=environment.id, export=export)]


def on_return_started(
    environment: Environment | None,
    fact: ReturnStarted,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Starts to restore the retained environment, with its data. One that was never complete is planned again.

    A tenant that was cancelled may return before its environment is retained: the export that runs has no outcome then.
    The size that it is entitled to is planned once the data is accessible. Raises EnvironmentUnknownError.
    """
    environment = existing(environment, fact.tenant_id)
    if environment.status not in {Status.RETAINING, Status.RETAINED}:
        return []
    started = RestorationStarted(
        tenant_id=environment.tenant_id, environment_id=environment.id, access=_access_under(fact.holds)
    )
    limits = environment.desired.limits if environment.desired else {}
    desired = environment.moved(Desired(Size(fact.tier, fact.placement), fact.entitlements_hash, limits))
    after = evolve(environment, started)
    reason = f"the plan {fact.plan} needs {desired.size.text}"
    return [started, *towards(after, desired, blueprints, cells, now, reason, inputs)]


def restored(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    """Records that the retained environment has `access` again. Another one that is requested now follows."""
    if environment.status is not Status.RESTORING or environment.plan_hash is None:
        return []
    target = environment.target_access
    return ready(environment) if target is access else [*ready(environment), access_change(environment, target)]


def _access_under(holds: Sequence[Hold]) -> Access:
    """Returns the access that the strictest of the holds leaves."""
    return min((_ACCESS[hold.mode] for hold in holds), key=_STRICTEST.index, default=Access.OPEN)
