"""Events of the tenant service: purges, approvals that a tenant waits for, changes and quarantines."""

from paybill_contracts.event import Event
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.tenant import Hold
from paybill_contracts.values import Digest, EnvironmentId, TenantId, Text, Timestamp


class PurgeStarted(Event, type="tenant.purge_started", version=1, aggregate="tenant", key="tenant_id"):
    """The retention period is over, and no legal hold is in force: everything of the tenant is to be deleted.

    expected_by: a purge that ends later is overdue.
    """

    tenant_id: TenantId
    expected_by: Timestamp


class PurgeStopped(Event, type="tenant.purge_stopped", version=1, aggregate="tenant", key="tenant_id"):
    """A legal hold stopped the purge before anything was deleted: the tenant is retained again."""

    tenant_id: TenantId


class TenantPurged(Event, type="tenant.tenant_purged", version=1, aggregate="tenant", key="tenant_id"):
    """Nothing of the tenant exists any more, and its slug is free. The provisioner has the certificate."""

    tenant_id: TenantId
    environment_id: EnvironmentId


class ApprovalAwaited(Event, type="tenant.approval_awaited", version=1, aggregate="tenant", key="tenant_id"):
    """The plan by which the tenant's environment is built or purged waits for an approval by a person."""

    tenant_id: TenantId
    approval_id: ApprovalId
    plan_hash: Digest


class ApprovalSettled(Event, type="tenant.approval_settled", version=1, aggregate="tenant", key="tenant_id"):
    """The approval is used, rejected or void; the tenant has the status from before it was requested."""

    tenant_id: TenantId
    approval_id: ApprovalId


class ChangeStarted(Event, type="tenant.change_started", version=1, aggregate="tenant", key="tenant_id"):
    """The environment of an active tenant is being changed by the plan with this hash; access stays."""

    tenant_id: TenantId
    plan_hash: Digest


class ChangeEnded(Event, type="tenant.change_ended", version=1, aggregate="tenant", key="tenant_id"):
    """The plan that changed the environment is applied, failed or superseded. Its environment says which."""

    tenant_id: TenantId
    plan_hash: Digest


class TenantQuarantined(Event, type="tenant.tenant_quarantined", version=1, aggregate="tenant", key="tenant_id"):
    """An operator isolates the tenant for its security: no access, whatever its holds are, until the quarantine ends.

    holds: those in force, with one that blocks for this reason.
    """

    tenant_id: TenantId
    reason: Text
    holds: tuple[Hold, ...]


class QuarantineEnded(Event, type="tenant.quarantine_ended", version=1, aggregate="tenant", key="tenant_id"):
    """The tenant is active or suspended as it would be without the quarantine; that fact follows."""

    tenant_id: TenantId
