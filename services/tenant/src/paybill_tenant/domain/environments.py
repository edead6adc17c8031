"""Progress of a tenant's environment, as the provisioner reports it."""

from datetime import datetime
from typing import assert_never

from paybill_contracts.environment_plans import EnvironmentPlanned, EnvironmentReady
from paybill_contracts.provisioner import EnvironmentFailed
from paybill_contracts.tenant import ProvisioningFailed, ProvisioningStarted, TenantActivated

from paybill_tenant.domain import holds
from paybill_tenant.domain.tenants import BUILD_TIME, Status, Tenant, TenantEvent


def on_environment_planned(tenant: Tenant, fact: EnvironmentPlanned, now: datetime) -> list[TenantEvent]:
    match tenant.status:
        case Status.REQUESTED | Status.PROVISION_FAILED | Status.RETURNING:
            return [
                ProvisioningStarted(
                    tenant_id=tenant.id,
                    environment_id=fact.environment_id,
                    plan_hash=fact.plan_hash,
                    expected_by=now + BUILD_TIME,
                )
            ]
        case Status.PROVISIONING | Status.ACTIVE | Status.SUSPENDED:
            return []  # the first environment, or another placement of a running tenant, is being built
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_failed(tenant: Tenant, fact: EnvironmentFailed) -> list[TenantEvent]:
    """Fails only a tenant without a working environment."""
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.RETURNING:
            return [ProvisioningFailed(tenant_id=tenant.id, environment_id=fact.environment_id, reason=fact.reason)]
        case Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED:
            return []
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_ready(tenant: Tenant, fact: EnvironmentReady) -> list[TenantEvent]:
    """Activates the tenant, unless a hold is in force."""
    is_known = tenant.epoch is not None and fact.epoch <= tenant.epoch
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED:
            return _activate(tenant, fact)
        case Status.ACTIVE | Status.SUSPENDED | Status.RETURNING:
            return [] if is_known else _activate(tenant, fact)
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def _activate(tenant: Tenant, fact: EnvironmentReady) -> list[TenantEvent]:
    activated = TenantActivated(
        tenant_id=tenant.id, slug=tenant.slug, environment_id=fact.environment_id, epoch=fact.epoch
    )
    return [activated, holds.suspended(tenant, tenant.holds)] if tenant.holds else [activated]
