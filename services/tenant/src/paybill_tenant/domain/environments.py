"""Progress of a tenant's environment, as the provisioner reports it."""

from datetime import datetime
from typing import assert_never

from paybill_contracts.environment_plans import EnvironmentPlanned, EnvironmentReady
from paybill_contracts.plan_approvals import ApprovalRejected, ApprovalRequested, ApprovalUsed, ApprovalVoid
from paybill_contracts.provisioner import EnvironmentFailed
from paybill_contracts.tenant import ProvisioningFailed, ProvisioningStarted, TenantActivated
from paybill_contracts.tenant_lifecycle import ApprovalAwaited, ApprovalSettled, ChangeEnded, ChangeStarted

from paybill_tenant.domain import holds
from paybill_tenant.domain.tenants import BUILD_TIME, Status, Tenant, TenantEvent


def on_environment_planned(tenant: Tenant, fact: EnvironmentPlanned, now: datetime) -> list[TenantEvent]:
    """Records that the environment is being built, or changed."""
    if tenant.has_left:
        return []
    match tenant.status:
        case Status.REQUESTED | Status.AWAITING_APPROVAL | Status.PROVISION_FAILED | Status.RETURNING:
            return [
                ProvisioningStarted(
                    tenant_id=tenant.id,
                    environment_id=fact.environment_id,
                    plan_hash=fact.plan_hash,
                    expected_by=now + BUILD_TIME,
                )
            ]
        case Status.ACTIVE | Status.CHANGING if fact.plan.steps:
            return [ChangeStarted(tenant_id=tenant.id, plan_hash=fact.plan_hash)]
        case Status.PROVISIONING | Status.ACTIVE | Status.CHANGING | Status.SUSPENDED | Status.QUARANTINED:
            return []
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_failed(tenant: Tenant, fact: EnvironmentFailed) -> list[TenantEvent]:
    """Fails only a tenant without a working environment; a change of another one has ended."""
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.RETURNING:
            return [ProvisioningFailed(tenant_id=tenant.id, environment_id=fact.environment_id, reason=fact.reason)]
        case Status.CHANGING:
            return on_change_ended(tenant, fact.plan_hash)
        case Status.AWAITING_APPROVAL | Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED | Status.QUARANTINED:
            return []
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_ready(tenant: Tenant, fact: EnvironmentReady) -> list[TenantEvent]:
    """Activates the tenant, unless a hold is in force."""
    is_known = tenant.epoch is not None and fact.epoch <= tenant.epoch
    match tenant.status:
        case Status.REQUESTED | Status.AWAITING_APPROVAL | Status.PROVISIONING | Status.PROVISION_FAILED:
            return [] if tenant.has_left else _activate(tenant, fact)
        case Status.ACTIVE | Status.CHANGING | Status.SUSPENDED | Status.RETURNING:
            return [] if is_known else _activate(tenant, fact)
        case Status.QUARANTINED:
            return []
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED | Status.PURGING | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def on_change_ended(tenant: Tenant, plan_hash: str) -> list[TenantEvent]:
    """Ends the change by this plan: it is applied, failed or superseded."""
    if tenant.status is not Status.CHANGING or tenant.changed_by != plan_hash:
        return []
    return [ChangeEnded(tenant_id=tenant.id, plan_hash=plan_hash)]


def on_approval_requested(tenant: Tenant, fact: ApprovalRequested) -> list[TenantEvent]:
    """Records that the tenant waits for an approval; a running one does not, its change is pending."""
    awaited = ApprovalAwaited(tenant_id=tenant.id, approval_id=fact.approval_id, plan_hash=fact.plan_hash)
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED | Status.RETURNING | Status.PURGING:
            return [awaited]
        case Status.AWAITING_APPROVAL:
            is_known = tenant.awaits is not None and tenant.awaits.id == fact.approval_id
            return [] if is_known else [awaited]
        case Status.ACTIVE | Status.CHANGING | Status.SUSPENDED | Status.QUARANTINED:
            return []
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED | Status.PURGED:
            return []
        case _:
            assert_never(tenant.status)


def on_approval_settled(tenant: Tenant, fact: ApprovalUsed | ApprovalRejected | ApprovalVoid) -> list[TenantEvent]:
    """Records that the tenant waits for this approval no longer."""
    if tenant.awaits is None or tenant.awaits.id != fact.approval_id:
        return []
    return [ApprovalSettled(tenant_id=tenant.id, approval_id=fact.approval_id)]


def _activate(tenant: Tenant, fact: EnvironmentReady) -> list[TenantEvent]:
    activated = TenantActivated(
        tenant_id=tenant.id, slug=tenant.slug, environment_id=fact.environment_id, epoch=fact.epoch
    )
    return [activated, holds.suspended(tenant, tenant.holds)] if tenant.holds else [activated]
