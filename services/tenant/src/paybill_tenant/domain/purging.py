"""Purge of a tenant whose retention period is over: everything that exists for it is deleted."""

from datetime import datetime, timedelta

from paybill_contracts.errors import ConflictError
from paybill_contracts.purges import DeletionStopped, EnvironmentPurged
from paybill_contracts.tenant import HoldOrigin, ReturnRuledOut
from paybill_contracts.tenant_lifecycle import PurgeStarted, PurgeStopped, TenantPurged

from paybill_tenant.domain import holds
from paybill_tenant.domain.tenants import Status, Tenant, TenantEvent

PURGE_TIME = timedelta(days=1)
"""A purge that takes longer is overdue, unless it waits for an approval or a legal hold."""
IS_OVER = "the retention period is over"


class NotRetainedError(ConflictError):
    """Only a tenant whose data is exported and retained is purged."""

    code = "tenant_not_retained"


class RetentionNotOverError(ConflictError):
    """The data is kept until a later date."""

    code = "retention_not_over"


def purge(tenant: Tenant, now: datetime) -> list[TenantEvent]:
    """Starts the purge; its customer can no longer return. One that has begun changes nothing.

    Raises NotRetainedError, RetentionNotOverError, LegalHoldError.
    """
    if is_purging(tenant) or tenant.status is Status.PURGED:
        return []
    if tenant.status is not Status.RETAINED:
        raise NotRetainedError(f"tenant {tenant.slug} is {tenant.status}; offboard it first")
    holds.require_no_legal_hold(tenant)
    if tenant.retain_until is None or now < tenant.retain_until:
        until = f"{tenant.retain_until:%Y-%m-%d %H:%M:%S} UTC" if tenant.retain_until else "a time that is not known"
        raise RetentionNotOverError(f"the data of {tenant.slug} is kept until {until}; it is purged then by itself")
    may_return = tenant.left_by is HoldOrigin.BILLING
    ruled_out = [ReturnRuledOut(tenant_id=tenant.id, reason=IS_OVER)] if may_return else []
    return [*ruled_out, PurgeStarted(tenant_id=tenant.id, expected_by=now + PURGE_TIME)]


def on_deletion_stopped(tenant: Tenant, fact: DeletionStopped) -> list[TenantEvent]:
    """Returns the tenant to its retention, when a legal hold stopped the purge before anything was deleted."""
    return [PurgeStopped(tenant_id=tenant.id)] if fact.is_intact and is_purging(tenant) else []


def on_environment_purged(tenant: Tenant, fact: EnvironmentPurged) -> list[TenantEvent]:
    """Ends the purge: nothing exists any more, and the slug is free."""
    return [TenantPurged(tenant_id=tenant.id, environment_id=fact.environment_id)] if is_purging(tenant) else []


def is_purging(tenant: Tenant) -> bool:
    """Returns True while a purge runs, or waits for an approval or a legal hold."""
    before = tenant.awaits.before if tenant.awaits is not None else tenant.status
    return before is Status.PURGING
