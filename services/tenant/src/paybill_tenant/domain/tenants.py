"""A tenant: its state, and how each event changes it. The verbs are in the modules beside this one."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from paybill_contracts.billing import AccountRegistered
from paybill_contracts.errors import ConflictError, NotFoundError
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.tenant import (
    ContactForgotten,
    DebtNoted,
    EntitlementNoted,
    Hold,
    HoldOrigin,
    HoldsChanged,
    IncidentsNoted,
    LegalHoldPlaced,
    LegalHoldReleased,
    OffboardingScheduled,
    OffboardingStarted,
    OffboardingWithdrawn,
    OpenIncident,
    ProvisioningFailed,
    ProvisioningStarted,
    RemainderNoted,
    RetentionNoted,
    ReturnRuledOut,
    ReturnStarted,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantRetained,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import (
    ApprovalAwaited,
    ApprovalSettled,
    ChangeEnded,
    ChangeStarted,
    PurgeStarted,
    PurgeStopped,
    QuarantineEnded,
    TenantPurged,
    TenantQuarantined,
)
from paybill_contracts.values import Count, Digest, EnvironmentId, Key, ProviderId, Slug, TenantId, Text, Timestamp

TenantEvent = (
    TenantRequested
    | ProvisioningStarted
    | ProvisioningFailed
    | TenantActivated
    | TenantSuspended
    | TenantReactivated
    | HoldsChanged
    | LegalHoldPlaced
    | LegalHoldReleased
    | RetentionNoted
    | EntitlementNoted
    | RemainderNoted
    | ContactForgotten
    | DebtNoted
    | IncidentsNoted
    | OffboardingScheduled
    | OffboardingWithdrawn
    | OffboardingStarted
    | TenantRetained
    | ReturnStarted
    | ReturnRuledOut
    | TenantCancelled
    | PurgeStarted
    | PurgeStopped
    | TenantPurged
    | ApprovalAwaited
    | ApprovalSettled
    | ChangeStarted
    | ChangeEnded
    | TenantQuarantined
    | QuarantineEnded
)


class Status(StrEnum):
    """Lifecycle status of a tenant, independent of its subscription (billing) and its placement (provisioner).

    awaiting_approval: of the plan by which its environment is built or purged. changing: active, while a plan changes
    its environment. quarantined: without access for its security, whatever its holds are.
    """

    REQUESTED = "requested"
    AWAITING_APPROVAL = "awaiting_approval"
    PROVISIONING = "provisioning"
    PROVISION_FAILED = "provision_failed"
    ACTIVE = "active"
    CHANGING = "changing"
    SUSPENDED = "suspended"
    QUARANTINED = "quarantined"
    OFFBOARDING = "offboarding"
    RETAINED = "retained"
    RETURNING = "returning"
    CANCELLED = "cancelled"
    PURGING = "purging"
    PURGED = "purged"


BUILD_TIME = timedelta(hours=1)
"""An environment that takes longer to build is overdue."""
LEFT = frozenset({Status.OFFBOARDING, Status.RETAINED, Status.CANCELLED, Status.PURGING, Status.PURGED})
"""Statuses of tenants that are leaving or have left."""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """Access that billing gives a tenant, with the tier and placement of its environment."""

    allows_access: bool
    plan: Key
    tier: Key
    placement: Preset
    entitlements_hash: Digest


@dataclass(frozen=True, slots=True)
class ScheduledOffboarding:
    """Offboarding by billing that begins at `at`, unless a subscription gives access before."""

    reason: Text
    retention_s: Count
    at: Timestamp


@dataclass(frozen=True, slots=True)
class AwaitedApproval:
    """An approval of a plan that the tenant waits for. before: its status until then, and after a rejection."""

    id: ApprovalId
    plan_hash: Digest
    before: Status


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer organisation and its lifecycle status.

    plan, region: as requested at sign-up. holds: at most one of billing and several of operators, kept in every
    status. failure: reason why the environment could not be built. retention_s: None until billing has registered the
    account. entitlement: None until billing has set one. left_by: origin of the offboarding. legal_holds: references
    of the cases. remaining: objects at the provider that can still charge, and were not cancelled. valid_until:
    end of a sign-up without a subscription. expected_by: end of what the tenant waits for, later is overdue. due: the
    next change by time alone. contact_digest: equal for tenants of one customer until contact_until. requested_at:
    None when an earlier version recorded the request. incidents: the open ones about the tenant, of all services.
    awaits: an approval; changed_by: hash of the plan that changes the environment; quarantine: its hold.
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
    entitlement: Entitlement | None = None
    scheduled: ScheduledOffboarding | None = None
    left_by: HoldOrigin | None = None
    legal_holds: tuple[Text, ...] = ()
    remaining: tuple[ProviderId, ...] = ()
    valid_until: Timestamp | None = None
    expected_by: Timestamp | None = None
    slug_is_free: bool = False
    contact_digest: Digest | None = None
    contact_until: Timestamp | None = None
    debt: tuple[Money, ...] = ()
    incidents: tuple[OpenIncident, ...] = ()
    requested_at: Timestamp | None = None
    due: Timestamp | None = None
    awaits: AwaitedApproval | None = None
    changed_by: Digest | None = None
    quarantine: Hold | None = None

    @property
    def has_left(self) -> bool:
        """True for a tenant that is leaving or has left, also while its purge waits for an approval."""
        return (self.awaits.before if self.awaits is not None else self.status) in LEFT

    @property
    def all_holds(self) -> tuple[Hold, ...]:
        """All holds in force, with that of a quarantine."""
        return self.holds if self.quarantine is None else (*self.holds, self.quarantine)


class TenantNotFoundError(NotFoundError):
    """No tenant has this id or slug."""

    code = "tenant_not_found"


class SlugTakenError(ConflictError):
    """Another tenant has this slug. It stays taken after its tenant left, unless nobody paid the sign-up."""

    code = "slug_taken"


class TenantLeftError(ConflictError):
    """The tenant is offboarding or has left; it can no longer be suspended or resumed."""

    code = "tenant_left"


class LegalHoldError(ConflictError):
    """The tenant's data must be kept for a legal case, so nothing that leads to its deletion may begin."""

    code = "legal_hold"


class RetentionUnknownError(ConflictError):
    """Offboarding needs the retention period, and billing has not published it."""

    code = "retention_unknown"


def existing(tenant: Tenant | None, tenant_id: str) -> Tenant:
    """Returns the tenant. Raises TenantNotFoundError for None."""
    if tenant is None:
        raise TenantNotFoundError(f"there is no tenant {tenant_id}")
    return tenant


def on_account_registered(tenant: Tenant, fact: AccountRegistered) -> list[TenantEvent]:
    """Records the retention period of the plan."""
    if tenant.has_left or tenant.retention_s == fact.retention_s:
        return []
    return [RetentionNoted(tenant_id=tenant.id, retention_s=fact.retention_s)]


def evolve(tenant: Tenant | None, event: TenantEvent) -> Tenant:
    """Returns the tenant after `event`; only `TenantRequested` may come first."""
    after = _evolved(tenant, event)
    due = min((at for at in (next_change(after), after.contact_until) if at is not None), default=None)
    return after if due == after.due else replace(after, due=due)


def next_change(tenant: Tenant) -> datetime | None:
    """Returns the time at which the tenant leaves or is purged without another event; a legal hold prevents it."""
    if tenant.status is Status.RETAINED and not tenant.legal_holds:
        return tenant.retain_until
    if tenant.legal_holds or tenant.has_left:
        return None
    if tenant.scheduled is not None:
        return tenant.scheduled.at
    is_unpaid = tenant.status is Status.REQUESTED and tenant.entitlement is None
    return tenant.valid_until if is_unpaid else None


def _evolved(tenant: Tenant | None, event: TenantEvent) -> Tenant:
    if isinstance(event, TenantRequested):
        return Tenant(
            id=event.tenant_id,
            slug=event.slug,
            name=event.name,
            plan=event.plan,
            region=event.region,
            status=Status.REQUESTED,
            valid_until=event.valid_until,
            contact_digest=event.contact_digest,
            contact_until=event.contact_until,
            requested_at=event.requested_at,
        )
    tenant = existing(tenant, event.tenant_id)
    match event:
        case ProvisioningStarted():
            return replace(
                tenant,
                status=Status.PROVISIONING,
                awaits=None,
                environment_id=event.environment_id,
                failure=None,
                expected_by=event.expected_by,
            )
        case ProvisioningFailed():
            return replace(
                tenant,
                status=Status.PROVISION_FAILED,
                environment_id=event.environment_id,
                failure=event.reason,
                expected_by=None,
            )
        case TenantActivated():
            return replace(
                tenant,
                status=Status.ACTIVE,
                environment_id=event.environment_id,
                epoch=event.epoch,
                failure=None,
                expected_by=None,
            )
        case TenantSuspended():
            return replace(tenant, status=Status.SUSPENDED, holds=event.holds, changed_by=None)
        case TenantReactivated():
            return replace(tenant, status=Status.ACTIVE, holds=())
        case HoldsChanged():
            return replace(tenant, holds=tuple(each for each in event.holds if each != tenant.quarantine))
        case RetentionNoted():
            return replace(tenant, retention_s=event.retention_s)
        case LegalHoldPlaced():
            return replace(tenant, legal_holds=(*tenant.legal_holds, event.case))
        case LegalHoldReleased():
            return replace(tenant, legal_holds=tuple(case for case in tenant.legal_holds if case != event.case))
        case DebtNoted():
            return replace(tenant, debt=event.debt)
        case IncidentsNoted():
            return replace(tenant, incidents=event.incidents)
        case ContactForgotten():
            return replace(tenant, contact_digest=None, contact_until=None)
        case EntitlementNoted():
            entitlement = Entitlement(
                allows_access=event.allows_access,
                plan=event.plan,
                tier=event.tier,
                placement=event.placement,
                entitlements_hash=event.entitlements_hash,
            )
            return replace(tenant, entitlement=entitlement, expected_by=event.expected_by or tenant.expected_by)
        case RemainderNoted():
            return replace(tenant, remaining=event.remaining)
        case OffboardingScheduled():
            scheduled = ScheduledOffboarding(reason=event.reason, retention_s=event.retention_s, at=event.at)
            return replace(tenant, scheduled=scheduled, remaining=event.remaining)
        case OffboardingWithdrawn():
            return replace(tenant, scheduled=None)
        case OffboardingStarted():
            return replace(
                tenant,
                status=Status.OFFBOARDING,
                retain_until=event.retain_until,
                scheduled=None,
                left_by=event.origin,
                expected_by=event.expected_by,
                awaits=None,
                changed_by=None,
                quarantine=None,
            )
        case TenantRetained():
            return replace(tenant, status=Status.RETAINED, retain_until=event.retain_until, expected_by=None)
        case ReturnStarted():
            return replace(
                tenant,
                status=Status.RETURNING,
                holds=event.holds,
                retain_until=None,
                left_by=None,
                expected_by=event.expected_by,
            )
        case ReturnRuledOut():
            return replace(tenant, left_by=HoldOrigin.OPERATOR)
        case TenantCancelled():
            return replace(
                tenant,
                status=Status.CANCELLED,
                scheduled=None,
                left_by=event.origin,
                expected_by=None,
                slug_is_free=event.is_abandoned,
                awaits=None,
            )
        case PurgeStarted():
            return replace(tenant, status=Status.PURGING, expected_by=event.expected_by)
        case PurgeStopped():
            return replace(tenant, status=Status.RETAINED, awaits=None, expected_by=None)
        case TenantPurged():
            return replace(tenant, status=Status.PURGED, awaits=None, expected_by=None, slug_is_free=True)
        case ApprovalAwaited():
            before = tenant.awaits.before if tenant.awaits is not None else tenant.status
            awaits = AwaitedApproval(event.approval_id, event.plan_hash, before)
            return replace(tenant, status=Status.AWAITING_APPROVAL, awaits=awaits)
        case ApprovalSettled():
            before = tenant.awaits.before if tenant.awaits is not None else tenant.status
            return replace(tenant, status=before, awaits=None)
        case ChangeStarted():
            return replace(tenant, status=Status.CHANGING, changed_by=event.plan_hash)
        case ChangeEnded():
            return replace(tenant, status=Status.ACTIVE, changed_by=None)
        case TenantQuarantined():
            return replace(tenant, status=Status.QUARANTINED, quarantine=event.holds[-1], changed_by=None)
        case QuarantineEnded():
            return replace(tenant, status=Status.SUSPENDED if tenant.holds else Status.ACTIVE, quarantine=None)
        case _:
            assert_never(event)
