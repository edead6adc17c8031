"""A tenant's lifecycle, from the request to become a customer until its data is only kept: rules without I/O."""

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

from paybill_tenant.domain.offerings import Offering, check_offered, check_payment

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
"""Names that would pass for ours, or for a part of PostgreSQL, in a host name or a database role."""

RESERVED_PREFIXES = ("pg-", "xn--")
"""PostgreSQL keeps `pg_` for itself, and IDNA keeps `xn--` (RFC 5890, 2.3.1)."""


class Status(StrEnum):
    """Where a tenant stands. Apart from its subscription (billing) and its placement (provisioner)."""

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
    """A customer organisation and its standing.

    plan, region: as asked for when signing up. holds: at most one of each origin, remembered in every status.
    failure: why the environment could not be built. retention_s: None until billing has registered the account.
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
    """Nobody has this id or slug."""

    code = "tenant_not_found"


class SlugTakenError(ConflictError):
    """A slug belongs to one tenant for ever, also after it left."""

    code = "slug_taken"


class SlugReservedError(DomainError):
    """A name that would pass for one of ours."""

    code = "slug_reserved"


class TenantLeftError(ConflictError):
    """Who leaves or has left can be neither shut out nor let in again."""

    code = "tenant_left"


class RetentionUnknownError(ConflictError):
    """Offboarding promises how long the data stays, and billing has not said it."""

    code = "retention_unknown"


def existing(tenant: Tenant | None, tenant_id: str) -> Tenant:
    """The tenant itself. Raises TenantNotFoundError."""
    if tenant is None:
        raise TenantNotFoundError(f"there is no tenant {tenant_id}")
    return tenant


def request(
    plans: Offering | None,
    regions: Offering | None,
    *,
    tenant_id: str,
    slug: str,
    name: str,
    plan: str,
    region: str,
    contact_email: Personal[str],
    source: Source,
    payments: Offering | None = None,
    payment: str | None = None,
    customer: str | None = None,
) -> list[TenantEvent]:
    """Ask to become a customer. That the slug is free is checked where it is stored, by a unique column."""
    if slug in RESERVED_SLUGS or slug.startswith(RESERVED_PREFIXES):
        raise SlugReservedError(f"the slug {slug} is reserved; choose another")
    check_offered(plans, regions, plan=plan, region=region)
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
    """Shut the tenant out by an operator's hold, keeping everything it owns."""
    _still_here(tenant)
    return _hold(tenant, Hold(origin=HoldOrigin.OPERATOR, mode=mode, reason=reason))


def resume(tenant: Tenant) -> list[TenantEvent]:
    """Lift the operator's hold; one of billing stays until it is paid."""
    _still_here(tenant)
    return _lift(tenant, HoldOrigin.OPERATOR)


def offboard(tenant: Tenant, reason: str, now: datetime) -> list[TenantEvent]:
    """Let the tenant go. Its data stays as long as its plan promised."""
    return _leave(tenant, HoldOrigin.OPERATOR, reason, tenant.retention_s, now)


def on_account_registered(tenant: Tenant, fact: AccountRegistered) -> list[TenantEvent]:
    """Remember how long the plan promises to keep the data."""
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
            return []  # it is being built, or built anew beside what works
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            return []
        case _:
            assert_never(tenant.status)


def on_environment_failed(tenant: Tenant, fact: EnvironmentFailed) -> list[TenantEvent]:
    """A tenant that already works keeps what it has; only the first environment can fail it."""
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
    """The tenant can work, unless a hold was put on it meanwhile."""
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
    """Nobody is shut out whom another subscription gives access."""
    if fact.instead is not None:
        return []
    reason = f"the subscription is {fact.subscription.access}"
    return _hold(tenant, Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason=reason))


def on_subscription_recovered(tenant: Tenant) -> list[TenantEvent]:
    """Paid again, active or resumed: all the same to a hold of billing."""
    return _lift(tenant, HoldOrigin.BILLING)


def on_subscription_ended(tenant: Tenant, fact: SubscriptionEnded, now: datetime) -> list[TenantEvent]:
    """Nobody leaves, or stays shut out, whom another subscription gives access."""
    if fact.others:
        return _lift(tenant, HoldOrigin.BILLING)
    return _leave(tenant, HoldOrigin.BILLING, "the subscription ended", fact.retention_s, now)


def on_environment_retained(tenant: Tenant, fact: EnvironmentRetained) -> list[TenantEvent]:
    """The tenant is gone. Only who was let go can be retained, so `retain_until` is known."""
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
    """The tenant after `event`; only `TenantRequested` may come first."""
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


def _still_here(tenant: Tenant) -> None:
    match tenant.status:
        case Status.REQUESTED | Status.PROVISIONING | Status.PROVISION_FAILED | Status.ACTIVE | Status.SUSPENDED:
            return
        case Status.OFFBOARDING | Status.RETAINED | Status.CANCELLED:
            raise TenantLeftError(f"tenant {tenant.slug} is {tenant.status}; nobody is there to be shut out or let in")
        case _:
            assert_never(tenant.status)


def _hold(tenant: Tenant, hold: Hold) -> list[TenantEvent]:
    """Put `hold` in the place of an earlier one of its origin. The same mode again is not news."""
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
    """Remove the hold of `origin`; the tenant is let in again when no other is in force."""
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


def _leave(
    tenant: Tenant, origin: HoldOrigin, reason: str, retention_s: int | None, now: datetime
) -> list[TenantEvent]:
    """Offboarding, or cancellation while there is no environment with data in it."""
    match tenant.status:
        case Status.REQUESTED | Status.PROVISION_FAILED:
            return [TenantCancelled(tenant_id=tenant.id, origin=origin, reason=reason)]
        case Status.PROVISIONING | Status.ACTIVE | Status.SUSPENDED:
            if retention_s is None:
                raise RetentionUnknownError(
                    f"billing has not said how long the data of tenant {tenant.slug} is kept; try again when it runs"
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
