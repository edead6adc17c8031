"""Access of tenants: closed by suspension and offboarding, opened by reactivation."""

from hashlib import sha256
from typing import assert_never

from paybill_contracts.provisioner import (
    Access,
    AccessClosed,
    AccessOpened,
    EnvironmentRetained,
    Export,
    RetentionStarted,
)
from paybill_contracts.tenant import (
    OffboardingStarted,
    SuspensionMode,
    TenantCancelled,
    TenantReactivated,
    TenantSuspended,
)

from paybill_provisioner.domain.environments import (
    Environment,
    EnvironmentEvent,
    Status,
    access_change,
    evolve,
    existing,
)

NOTHING_EXPORTED = Export(location="nothing", sha256=sha256(b"").hexdigest(), size_bytes=0, rows=0)
"""Export of an environment that was never planned: there is no file."""


def on_tenant_suspended(environment: Environment | None, fact: TenantSuspended) -> list[EnvironmentEvent]:
    """Starts to reduce the tenant's access to that of the suspension mode."""
    target = {SuspensionMode.READ_ONLY: Access.READ_ONLY, SuspensionMode.BLOCKED: Access.CLOSED}[fact.mode]
    return _start_change(existing(environment, fact.tenant_id), target)


def on_tenant_reactivated(environment: Environment | None, fact: TenantReactivated) -> list[EnvironmentEvent]:
    """Starts to open the tenant's access."""
    return _start_change(existing(environment, fact.tenant_id), Access.OPEN)


def _start_change(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    match environment.status:
        case Status.REGISTERED | Status.BUILDING | Status.FAILED | Status.READY:
            return [] if environment.target_access is access else [access_change(environment, access)]
        case Status.RETAINING | Status.RETAINED:
            return []
        case _:
            assert_never(environment.status)


def access_changed(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    """Records that `access` is in effect."""
    if environment.status is not Status.READY or environment.access is access:
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
        case Status.BUILDING | Status.FAILED | Status.READY:
            return [started]
        case Status.RETAINING | Status.RETAINED:
            return []
        case _:
            assert_never(environment.status)


def retained(environment: Environment, export: Export) -> list[EnvironmentEvent]:
    """Records that the data is exported and access is closed."""
    if environment.status is not Status.RETAINING:
        return []
    return [EnvironmentRetained(tenant_id=environment.tenant_id, environment_id=environment.id, export=export)]
