"""Lifecycle of a tenant, from the request until its data is only retained."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from paybill_contracts.billing import AccountRegistered, SubscriptionEnded, SubscriptionPaused, SubscriptionSuspended
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.personal import Personal
from paybill_contracts.provisioner import (
    EnvironmentFailed,
    EnvironmentPlanned,
    EnvironmentReady,
    EnvironmentRetained,
)
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    OffboardingStarted,
    ProvisioningFailed,
    ProvisioningStarted,
    RetentionNoted,
    Source,
    SuspensionMode,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantRetained,
    TenantSuspended,
)
from paybill_contracts.values import Count, EnvironmentId, Key, Slug, TenantId, Text, Timestamp

from paybill_tenant.domain.signup_options import SignupOptions, check_payment, check_plan_and_region

TenantEvent = (
    TenantRequested
    | ProvisioningStarted
    | ProvisioningFailed
    | TenantActivated
    | TenantSuspended
    | TenantReactivated
    | HoldsChanged
    | RetentionNoted
    | OffboardingStarted
    | TenantRetained
    | TenantCancelled
)

# fmt: off
RESERVED_SLUGS = frozenset({
    "admin", "administrator", "api", "app", "assets", "auth", "billing", "cdn", "console", "default", "docs", "help",
    "localhost", "login", "mail", "metrics", "nats", "null", "operator", "paybill", "postgres", "provisioner", "public",
    "root", "smtp", "static", "status", "support", "system", "template0", "template1", "tenant", "www",
})
# fmt: on
"""Names that could be mistaken for ours or PostgreSQL's in a host name or a database role."""

RESERVED_PREFIXES = ("pg-", "xn--")
"""PostgreSQL reserves `pg_`, and IDNA reserves `xn--` (RFC 5890, 2.3.1)."""


class Status(StrEnum):
    """Lifecycle status of a tenant, independent of its subscription (billing) and its placement (provisioner)."""

    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    PROVISION_FAILED = "provision_failed"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    OFFBOARDING = "offboarding"
    RETAINED = "retained"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer organisation and its lifecycle status.

    plan, region: as requested at sign-up. holds: at most one of each origin, kept in every status. failure: reason
    why the environment could not be built. retention_s: None until billing has registered the account.
    """

    id: TenantId
    slug: Slug
    name: Text
    plan: Key
    region: Key
    status: Status
    holds: tuple[Hold, ...] = ()
    environment_id: EnvironmentId | None = None
    epoch: Count | None = None
    failure: Text | None = None
    retention_s: Count | None = None
    retain_until: Timestamp | None = None


class TenantNotFoundError(NotFoundError):
    """No tenant has this id or slug."""

    code = "tenant_not_found"


class SlugTakenError(ConflictError):
    """Another tenant has this slug; a slug stays taken after its tenant left."""

    code = "slug_taken"


class SlugReservedError(DomainError):
    """The slug could be mistaken for a name of ours."""

    code = "slug_reserved"


class TenantLeftError(ConflictError):
    """The tenant is offboarding or has left; it can no longer be suspended or resumed."""

    code = "tenant_left"


class RetentionUnknownError(ConflictError):
    """Offboarding needs the retention period, and billing has not published it."""

    code = "retention_unknown"


def existing(tenant: Tenant | None, tenant_id: str) -> Tenant:
    """Returns the tenant. Raises TenantNotFoundError for None."""
    if tenant is None:
        raise TenantNotFoundError(f"there is no tenant {tenant_id}")
    return tenant


def request(
    plans: SignupOptions | None,
    regions: SignupOptions | None,
    *,
    tenant_id: str,
    slug: str,
    name: str,
    plan: str,
    region: str,
    contact_email: Personal[str],
    source: Source,
    payments: SignupOptions | None = None,
    payment: str | None = None,
    customer: str | None = None,
) -> list[TenantEvent]:
    """Requests a new tenant. A unique column, not this rule, ensures that the slug is free."""
    if slug in RESERVED_SLUGS or slug.startswith(RESERVED_PREFIXES):
        raise SlugReservedError(f"the slug {slug} is reserved; choose another")
    check_plan_and_region(plans, regions, plan=plan, region=region)
    check_payment(payments, payment)
    return [
        TenantRequested(
            tenant_id=tenant_id,
            slug=slug,
            name=name,
            plan=plan,
            region=region,
            contact_email=contact_email,
            source=source,
            payment=payment,
            customer=customer,
        )
    ]


def suspend(tenant: Tenant, mode: SuspensionMode, reason: str) -> list[TenantEvent]:
    """Suspends the tenant by an operator's hold and keeps its data."""
    _require_customer(tenant)
    return _hold(tenant, Hold(origin=HoldOrigin.OPERATOR, mode=mode, reason=reason))


def resume(tenant: Tenant) -> list[TenantEvent]:
    """Lifts the operator's hold; billing's hold stays until payment."""
    _require_customer(tenant)
    return _lift(tenant, HoldOrigin.OPERATOR)


def offboard(tenant: Tenant, reason: str, now: datetime) -> list[TenantEvent]:
    """Offboards the tenant. Its data is kept for the retention period of its plan."""
    return _offboard(tenant, HoldOrigin.OPERATOR, reason, tenant.retention_s, now)


def on_account_registered(tenant: Tenant, fact: AccountRegistered) -> list[TenantEvent]:
    """Records the retention period of the plan."""
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED:
            if tenant.retention_s == fact.retention_s:
                return []
            return [RetentionNoted(tenant_id=tenant.id, retention_s=fact.retention_s)]
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_planned(tenant: Tenant, fact: EnvironmentPlanned) -> list[TenantEvent]:
    match tenant.status:
        case Status.REQUESTED | Status.PROVISION_FAILED:
            return [
                ProvisioningStarted(tenant_id=tenant.id, environment_id=fact.environment_id, plan_hash=fact.plan_hash)
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
        case Status.REQUESTED | Status.PROVISIONING:
            return [ProvisioningFailed(tenant_id=tenant.id, environment_id=fact.environment_id, reason=fact.reason)]
        case Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED:
            return []
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_ready(tenant: Tenant, fact: EnvironmentReady) -> list[TenantEvent]:
    """Activates the tenant, unless a hold is in force."""
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED:
            return _activate(tenant, fact)
        case Status.ACTIVE | Status.SUSPENDED:
            return [] if tenant.epoch is not None and fact.epoch <= tenant.epoch else _activate(tenant, fact)
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def on_subscription_suspended(tenant: Tenant, fact: SubscriptionSuspended | SubscriptionPaused) -> list[TenantEvent]:
    """Suspends the tenant, unless another subscription gives access."""
    if fact.instead is not None:
        return []
    reason = f"the subscription is {fact.subscription.access}"
    return _hold(tenant, Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason=reason))


def on_subscription_recovered(tenant: Tenant) -> list[TenantEvent]:
    """Lifts billing's hold: the subscription recovered or became active."""
    return _lift(tenant, HoldOrigin.BILLING)


def on_subscription_ended(tenant: Tenant, fact: SubscriptionEnded, now: datetime) -> list[TenantEvent]:
    """Offboards the tenant; with another entitling subscription it only lifts billing's hold."""
    if fact.others:
        return _lift(tenant, HoldOrigin.BILLING)
    return _offboard(tenant, HoldOrigin.BILLING, "the subscription ended", fact.retention_s, now)


def on_environment_retained(tenant: Tenant, fact: EnvironmentRetained) -> list[TenantEvent]:
    """Ends offboarding: the data is exported and retained. `retain_until` is known since offboarding began."""
    match tenant.status:
        case Status.OFFBOARDING:
            if tenant.retain_until is None:
                raise RetentionUnknownError(f"tenant {tenant.id} is offboarding without a date")
            return [TenantRetained(tenant_id=tenant.id, retain_until=tenant.retain_until, export=fact.export)]
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED:
            return []
        case Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def evolve(tenant: Tenant | None, event: TenantEvent) -> Tenant:
    """Returns the tenant after `event`; only `TenantRequested` may come first."""
    if isinstance(event, TenantRequested):
        return Tenant(
            id=event.tenant_id,
            slug=event.slug,
            name=event.name,
            plan=event.plan,
            region=event.region,
            status=Status.REQUESTED,
        )
    tenant = existing(tenant, event.tenant_id)
    match event:
        case ProvisioningStarted():
            return replace(tenant, status=Status.PROVISIONING, environment_id=event.environment_id, failure=None)
        case ProvisioningFailed():
            return replace(
                tenant,
                status=Status.PROVISION_FAILED,
                environment_id=event.environment_id,
                failure=event.reason,
            )
        case TenantActivated():
            return replace(
                tenant,
                status=Status.ACTIVE,
                environment_id=event.environment_id,
                epoch=event.epoch,
                failure=None,
            )
        case TenantSuspended():
            return replace(tenant, status=Status.SUSPENDED, holds=event.holds)
        case TenantReactivated():
            return replace(tenant, status=Status.ACTIVE, holds=())
        case HoldsChanged():
            return replace(tenant, holds=event.holds)
        case RetentionNoted():
            return replace(tenant, retention_s=event.retention_s)
        case OffboardingStarted():
            return replace(tenant, status=Status.OFFBOARDING, retain_until=event.retain_until)
        case TenantRetained():
            return replace(tenant, status=Status.RETAINED, retain_until=event.retain_until)
        case TenantCancelled():
            return replace(tenant, status=Status.CANCELLED)
        case _:
            assert_never(event)


def _require_customer(tenant: Tenant) -> None:
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED:
            return
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            raise TenantLeftError(f"tenant {tenant.slug} is {tenant.status}; it can no longer be suspended or resumed")
        case _:
            assert_never(tenant.status)


def _hold(tenant: Tenant, hold: Hold) -> list[TenantEvent]:
    """Replaces an earlier hold of the same origin. A hold with the same mode changes nothing."""
    if any(held.origin is hold.origin and held.mode is hold.mode for held in tenant.holds):
        return []
    others = [held for held in tenant.holds if held.origin is not hold.origin]
    holds = tuple(sorted([*others, hold], key=lambda held: held.origin))
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED:
            return [HoldsChanged(tenant_id=tenant.id, holds=holds)]
        case Status.ACTIVE | Status.SUSPENDED:
            return [_suspended(tenant, holds)]
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def _lift(tenant: Tenant, origin: HoldOrigin) -> list[TenantEvent]:
    """Removes the hold of `origin`; the tenant is reactivated when no other hold is in force."""
    holds = tuple(held for held in tenant.holds if held.origin is not origin)
    if holds == tenant.holds:
        return []
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED:
            return [HoldsChanged(tenant_id=tenant.id, holds=holds)]
        case Status.ACTIVE | Status.SUSPENDED:
            return [_suspended(tenant, holds) if holds else TenantReactivated(tenant_id=tenant.id, lifted=origin)]
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def _offboard(
    tenant: Tenant, origin: HoldOrigin, reason: str, retention_s: int | None, now: datetime
) -> list[TenantEvent]:
    """Starts offboarding, or cancels a tenant that has no environment with data."""
    match tenant.status:
        case Status.REQUESTED | Status.PROVISION_FAILED:
            return [TenantCancelled(tenant_id=tenant.id, origin=origin, reason=reason)]
        case Status.PROVISIONING | Status.ACTIVE | Status.SUSPENDED:
            if retention_s is None:
                raise RetentionUnknownError(
                    f"billing has not published the retention period of tenant {tenant.slug}; try again when it runs"
                )
            until = now + timedelta(seconds=retention_s)
            return [OffboardingStarted(tenant_id=tenant.id, origin=origin, reason=reason, retain_until=until)]
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def _activate(tenant: Tenant, fact: EnvironmentReady) -> list[TenantEvent]:
    activated = TenantActivated(
        tenant_id=tenant.id, slug=tenant.slug, environment_id=fact.environment_id, epoch=fact.epoch
    )
    return [activated, _suspended(tenant, tenant.holds)] if tenant.holds else [activated]


def _suspended(tenant: Tenant, holds: tuple[Hold, ...]) -> TenantSuspended:
    blocked = any(hold.mode is SuspensionMode.BLOCKED for hold in holds)
    mode = SuspensionMode.BLOCKED if blocked else SuspensionMode.READ_ONLY
    return TenantSuspended(tenant_id=tenant.id, mode=mode, holds=holds)
