"""Facts of other services about a tenant, for tests of the agent gateway."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from paybill_contracts.billing import EntitlementsSet, PlanRef
from paybill_contracts.catalogue import BooleanFeature, Feature, MeteredFeature
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    OffboardingStarted,
    ReturnStarted,
    Source,
    SuspensionMode,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import PurgeStarted, TenantPurged, TenantQuarantined

TENANT = f"ten_{'a' * 32}"
OTHER = f"ten_{'b' * 32}"
LATER = datetime(2027, 1, 1, tzinfo=UTC)
HOLDS = (Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="audit"),)
ENABLED = BooleanFeature(key="agent-actions", kind="boolean", enabled=True)
"""Any number of actions."""
METERED = MeteredFeature(key="agent-actions", kind="metered", meter="agent_actions", included=0, quota=2)


def entitlements(tenant: str, *features: Feature, allows_access: bool = True) -> EntitlementsSet:
    """Returns a set of entitlements, with another feature in front."""
    return EntitlementsSet(
        tenant_id=tenant,
        subscription_id=f"sub_{'0' * 32}",
        plan=PlanRef(catalogue_hash="0" * 64, plan="team", version=1),
        tier="standard",
        placement=Preset.POOLED,
        features=(BooleanFeature(key="sso", kind="boolean", enabled=True), *features),
        allows_access=allows_access,
        entitlements_hash="0" * 64,
    )


def facts_about(tenant: str, slug: str = "acme") -> Any:
    """Returns the facts of the tenant service about a tenant."""
    environment = f"env_{tenant.removeprefix('ten_')}"
    return SimpleNamespace(
        requested=TenantRequested(
            tenant_id=tenant,
            slug=slug,
            name="Acme",
            plan="team",
            region="eu-1",
            contact_email=Personal[str](key=f"tenant/{tenant}", sealed="A" * 60),
            source=Source.API,
        ),
        activated=TenantActivated(tenant_id=tenant, slug=slug, environment_id=environment, epoch=1),
        suspended=TenantSuspended(tenant_id=tenant, mode=SuspensionMode.READ_ONLY, holds=HOLDS),
        reactivated=TenantReactivated(tenant_id=tenant, lifted=HoldOrigin.OPERATOR),
        quarantined=TenantQuarantined(tenant_id=tenant, reason="a leaked key", holds=HOLDS),
        offboarded=OffboardingStarted(
            tenant_id=tenant, origin=HoldOrigin.OPERATOR, reason="contract ended", retain_until=LATER
        ),
        cancelled=TenantCancelled(tenant_id=tenant, origin=HoldOrigin.OPERATOR, reason="never paid"),
        returned=ReturnStarted(
            tenant_id=tenant,
            holds=(),
            plan="team",
            tier="standard",
            placement=Preset.POOLED,
            entitlements_hash="0" * 64,
            expected_by=LATER,
        ),
        purging=PurgeStarted(tenant_id=tenant, expected_by=LATER),
        purged=TenantPurged(tenant_id=tenant, environment_id=environment),
    )
