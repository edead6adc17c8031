"""Events of the agent gateway about tenants: whether their agents may act."""

from enum import StrEnum

from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.catalogue import Feature
from paybill_contracts.event import Event
from paybill_contracts.values import Count, Key, Slug, TenantId

AGENT_ACTIONS: Key = "agent-actions"
"""The feature that decides whether, and how many, actions a tenant's agents may take."""


class AgentTenantStatus(StrEnum):
    """Lifecycle of a tenant as far as it concerns agents; only those of a running tenant may act.

    pending: its environment is not ready, at its sign-up or after its return. suspended: by a hold or a quarantine.
    leaving: offboarded or cancelled, and not purged yet.
    """

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    LEAVING = "leaving"
    PURGED = "purged"


class AgentTenantChanged(
    Event, type="agent-gateway.tenant_changed", version=1, aggregate="agent-tenant", key="tenant_id"
):
    """The gateway's complete state of a tenant from now on.

    allows_access: of its entitlements; False before the first. feature: the entitlement to `agent-actions`, None when
    its plan does not include it. agents: their login in the tenant's database; epoch: of the newest placement, an older
    login is never used again; is_open: the login is not closed.
    """

    tenant_id: TenantId
    slug: Slug
    status: AgentTenantStatus
    allows_access: bool
    feature: Feature | None
    agents: AgentConnection | None = None
    epoch: Count = 0
    is_open: bool = False
