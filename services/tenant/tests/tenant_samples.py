"""Tenants in every status, and events of other services about them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from paybill_contracts.billing import (
    AccessState,
    AccountRegistered,
    EntitlementsSet,
    Subscription,
    SubscriptionActivated,
    SubscriptionEnded,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.environment_plans import BlueprintRef, Connection, EnvironmentPlanned, EnvironmentReady, Plan
from paybill_contracts.money import Money
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset, placement_of
from paybill_contracts.provisioner import EnvironmentFailed, EnvironmentRetained, Export
from paybill_contracts.tenant import Hold, HoldOrigin, SuspensionMode, TenantSuspended
from paybill_tenant.domain.policies import LifecyclePolicy
from paybill_tenant.domain.tenants import Entitlement, Status, Tenant, evolve

ID = "ten_" + "a" * 32
HASH = "c" * 64
NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
DAY_S = 86_400
SIGN_UP = {
    "slug": "acme",
    "name": "Acme",
    "plan": "pro",
    "region": "eu-1",
    "contact_email": "somebody.unlikely@acme.example",
}
EMAIL = Personal[str](key=f"tenant/{ID}", sealed="A" * 60)
EXPORT = Export(location="acme.jsonl", sha256=HASH, size_bytes=1, rows=1)
CONNECTION = Connection(
    address="role.main",
    host="127.0.0.1",
    port=5432,
    database="pool",
    schema_name="main",
    username="t_acme",
    secret="secret://provisioner/acme?v=1",
)


def subscription_fields(tenant_id: str, access: AccessState) -> dict[str, object]:
    """Returns the common fields of a subscription's events."""
    subscription = Subscription(
        subscription_id=f"sub_{tenant_id[4:]}",
        tenant_id=tenant_id,
        provider="stripe",
        provider_subscription="sub_1",
        provider_status="unpaid",
        access=access,
        plan=PlanRef(plan="pro", version=1, catalogue_hash=HASH),
        quantity=1,
        price=Money(minor=2500, currency="EUR"),
        period_start=None,
        period_end=None,
        cancel_at=None,
        grace_until=None,
    )
    return {
        "tenant_id": tenant_id,
        "subscription_id": subscription.subscription_id,
        "subscription": subscription,
    }


def entitlements(tenant_id: str, *, allows: bool, tier: str = "standard", set_revision: int = 1) -> EntitlementsSet:
    """Returns the entitlements of the tenant."""
    return EntitlementsSet(
        tenant_id=tenant_id,
        subscription_id=f"sub_{tenant_id[4:]}",
        plan=PlanRef(plan="pro", version=1, catalogue_hash=HASH),
        tier=tier,
        placement=Preset.POOLED,
        features=(),
        allows_access=allows,
        entitlements_hash=HASH,
        set_revision=set_revision,
    )


def events_about(tenant_id: str) -> SimpleNamespace:
    """Returns the events of other services about one tenant."""
    environment = {"tenant_id": tenant_id, "environment_id": f"env_{tenant_id[4:]}"}
    unpaid = subscription_fields(tenant_id, AccessState.SUSPENDED)
    plan = Plan(
        environment_id=environment["environment_id"],
        epoch=0,
        based_on=0,
        blueprint=BlueprintRef(name="standard", version=1, content_hash=HASH),
        entitlements_hash=HASH,
        tier="standard",
        preset=Preset.POOLED,
        placement=placement_of(Preset.POOLED),
        cloud="local",
        region="eu-1",
        limits={},
        steps=(),
    )
    return SimpleNamespace(
        registered=AccountRegistered(
            tenant_id=tenant_id,
            plan="pro",
            plan_version=1,
            provider="stripe",
            retention_s=DAY_S,
            name="Acme",
            contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
        ),
        planned=EnvironmentPlanned(**environment, plan=plan, plan_hash=HASH),
        failed=EnvironmentFailed(**environment, plan_hash=HASH, address="postgres.main", reason="disk full"),
        ready=EnvironmentReady(**environment, plan_hash=HASH, epoch=1, connections=(CONNECTION,)),
        retained=EnvironmentRetained(**environment, export=EXPORT),
        suspended=SubscriptionSuspended(**unpaid),
        paused=SubscriptionPaused(**subscription_fields(tenant_id, AccessState.PAUSED)),
        recovered=SubscriptionRecovered(**unpaid),
        ended=SubscriptionEnded(**unpaid, retention_s=2 * DAY_S),
        activated=SubscriptionActivated(**subscription_fields(tenant_id, AccessState.ACTIVE)),
        grace=SubscriptionGraceStarted(**subscription_fields(tenant_id, AccessState.GRACE)),
        allowed=entitlements(tenant_id, allows=True),
        not_allowed=entitlements(tenant_id, allows=False),
    )


EVENTS = events_about(ID)
BILLING = Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="the subscription is suspended")

REQUESTED = Tenant(id=ID, slug="acme", name="Acme", plan="pro", region="eu-1", status=Status.REQUESTED)
PROVISIONING = replace(
    REQUESTED, status=Status.PROVISIONING, environment_id=EVENTS.ready.environment_id, retention_s=DAY_S
)
FAILED = replace(PROVISIONING, status=Status.PROVISION_FAILED, failure="disk full")
ACTIVE = replace(PROVISIONING, status=Status.ACTIVE, epoch=1)
SUSPENDED = replace(ACTIVE, status=Status.SUSPENDED, holds=(BILLING,))
OFFBOARDING = replace(
    ACTIVE, status=Status.OFFBOARDING, retain_until=NOW + timedelta(days=1), left_by=HoldOrigin.BILLING
)
RETAINED = replace(OFFBOARDING, status=Status.RETAINED, due=OFFBOARDING.retain_until)
RETURNING = replace(ACTIVE, status=Status.RETURNING)
CANCELLED = replace(REQUESTED, status=Status.CANCELLED, left_by=HoldOrigin.BILLING)
ENTITLED = Entitlement(allows_access=True, plan="pro", tier="standard", placement=Preset.POOLED, entitlements_hash=HASH)
DELAY = timedelta(minutes=15)
POLICY = LifecyclePolicy(id="lifecycle", offboarding_delay_s=15 * 60, signup_valid_s=30 * DAY_S)


def after(tenant: Tenant, events) -> Tenant:
    for event in events:
        tenant = evolve(tenant, event)
    return tenant


def suspended(*holds: Hold, mode: SuspensionMode = SuspensionMode.BLOCKED) -> list[TenantSuspended]:
    return [TenantSuspended(tenant_id=ID, mode=mode, holds=holds)]
