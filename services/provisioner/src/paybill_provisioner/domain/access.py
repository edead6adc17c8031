"""Who gets in: shut out while the tenant is suspended, let in again after, and for good when it leaves."""

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
"""The export of an environment that was never planned: there is no file."""


def on_tenant_suspended(environment: Environment | None, fact: TenantSuspended) -> list[EnvironmentEvent]:
    """Start to shut the tenant out, as far as the suspension says."""
    wanted = {SuspensionMode.READ_ONLY: Access.READ_ONLY, SuspensionMode.BLOCKED: Access.CLOSED}[fact.mode]
    return _want(existing(environment, fact.tenant_id), wanted)


def on_tenant_reactivated(environment: Environment | None, fact: TenantReactivated) -> list[EnvironmentEvent]:
    """Start to let the tenant in again."""
    return _want(existing(environment, fact.tenant_id), Access.OPEN)


def _want(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    match environment.status:
        case Status.REGISTERED | Status.BUILDING | Status.FAILED | Status.READY:
            return [] if environment.wanted is access else [access_change(environment, access)]
        case Status.RETAINING | Status.RETAINED:
            return []
        case _:
            assert_never(environment.status)


def access_changed(environment: Environment, access: Access) -> list[EnvironmentEvent]:
    """Record that `access` is in force."""
    if environment.status is not Status.READY or environment.access is access:
        return []
    if access is Access.OPEN:
        return [AccessOpened(tenant_id=environment.tenant_id, environment_id=environment.id)]
    return [AccessClosed(tenant_id=environment.tenant_id, environment_id=environment.id, access=access)]


def on_tenant_left(
    environment: Environment | None, fact: OffboardingStarted | TenantCancelled
) -> list[EnvironmentEvent]:
    """Start to close and export. Where nothing was ever planned, there is nothing to export and it ends at once."""
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
    """Record that the data is exported and nobody gets in."""
    if environment.status is not Status.RETAINING:
        return []
    return [EnvironmentRetained(tenant_id=environment.tenant_id, environment_id=environment.id, export=export)]
