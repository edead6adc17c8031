"""Events of other services about a tenant of the provisioner."""

from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    OffboardingStarted,
    ReturnStarted,
    Source,
    SuspensionMode,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)


def events_about_new_tenant(
    region: str, preset: Preset = Preset.POOLED, tier: str = "", prefix: str = ""
) -> SimpleNamespace:
    """Returns the events of other services about a new tenant in `region`. prefix: of the number in its ids."""
    number = prefix + uuid4().hex[len(prefix) :]
    tenant = f"ten_{number}"
    hold = Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="unpaid")
    return SimpleNamespace(
        tenant=tenant,
        environment=f"env_{number}",
        requested=TenantRequested(
            tenant_id=tenant,
            slug=f"acme-{number[:8]}",
            name="Acme",
            plan="starter",
            region=region,
            contact_email=Personal[str](key=f"tenant/{tenant}", sealed="A" * 60),
            source=Source.API,
        ),
        entitled=EntitlementsSet(
            tenant_id=tenant,
            subscription_id=f"sub_{number}",
            plan=PlanRef(plan="starter", version=1, catalogue_hash="ab" * 32),
            tier=tier or {Preset.POOLED: "starter", Preset.BRIDGE: "team", Preset.SILO: "business"}[preset],
            placement=preset,
            features=(),
            allows_access=True,
            entitlements_hash="ab" * 32,
        ),
        blocked=TenantSuspended(tenant_id=tenant, mode=SuspensionMode.BLOCKED, holds=(hold,)),
        reactivated=TenantReactivated(tenant_id=tenant, lifted=HoldOrigin.BILLING),
        leaves=OffboardingStarted(
            tenant_id=tenant, origin=HoldOrigin.BILLING, reason="cancelled", retain_until=datetime.now(UTC)
        ),
        returns=ReturnStarted(
            tenant_id=tenant,
            holds=(),
            plan="starter",
            tier=tier or {Preset.POOLED: "starter", Preset.BRIDGE: "team", Preset.SILO: "business"}[preset],
            placement=preset,
            entitlements_hash="ab" * 32,
            expected_by=datetime.now(UTC),
        ),
        cancelled=TenantCancelled(tenant_id=tenant, origin=HoldOrigin.OPERATOR, reason="a mistake"),
    )
