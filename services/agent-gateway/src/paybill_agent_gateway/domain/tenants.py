"""Tenants as far as they concern agents: their lifecycle, and the entitlement to agents' actions.

A tenant that is unknown, or is not running, has no agents that may act.
"""

from dataclasses import dataclass, replace

from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.agent_tenants import AGENT_ACTIONS, AgentTenantChanged, AgentTenantStatus
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import Feature, MeteredFeature
from paybill_contracts.entitlements import check
from paybill_contracts.environment_plans import EnvironmentChanged, EnvironmentReady
from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError, RetryLaterError
from paybill_contracts.provisioner import Access, AccessChangeStarted, AccessClosed, AccessOpened
from paybill_contracts.tenant import (
    OffboardingStarted,
    ReturnStarted,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import PurgeStarted, TenantPurged, TenantQuarantined
from paybill_contracts.values import Slug, TenantId

LifecycleFact = (
    TenantActivated
    | TenantSuspended
    | TenantReactivated
    | TenantQuarantined
    | OffboardingStarted
    | TenantCancelled
    | ReturnStarted
    | PurgeStarted
    | TenantPurged
)
"""Facts of the tenant service that change a known tenant. The end of a quarantine is followed by one of them."""

AccessFact = AccessOpened | AccessClosed | AccessChangeStarted

_STATUS: dict[type[LifecycleFact], AgentTenantStatus] = {
    TenantActivated: AgentTenantStatus.RUNNING,
    TenantSuspended: AgentTenantStatus.SUSPENDED,
    TenantReactivated: AgentTenantStatus.RUNNING,
    TenantQuarantined: AgentTenantStatus.SUSPENDED,
    OffboardingStarted: AgentTenantStatus.LEAVING,
    TenantCancelled: AgentTenantStatus.LEAVING,
    ReturnStarted: AgentTenantStatus.PENDING,
    PurgeStarted: AgentTenantStatus.LEAVING,
    TenantPurged: AgentTenantStatus.PURGED,
}


class AgentTenantUnknownError(NotFoundError):
    """The gateway knows no tenant with this id, so none of its agents may act."""

    code = "tenant_unknown"


class TenantNotRunningError(ConflictError):
    """The tenant is pending, suspended, leaving or purged: its agents may not act."""

    code = "tenant_not_running"


class TenantLeftError(ConflictError):
    """The tenant is leaving or purged."""

    code = "tenant_left"


class NoEndpointError(RetryLaterError):
    """The tenant's database has no open login for agents."""

    code = "database_unavailable"


class ActionsNotEntitledError(ForbiddenError):
    """The tenant's entitlements allow no more actions of agents."""

    code = "actions_not_entitled"


@dataclass(frozen=True, slots=True)
class TenantAccess:
    """A tenant, and the entitlement that its agents have. feature: None when `agent-actions` is not included.

    agents: their login in the tenant's database, None while there is none; epoch: of the newest placement, an older
    login is never used again; is_open: the login is not closed.
    """

    tenant_id: TenantId
    slug: Slug
    status: AgentTenantStatus
    allows_access: bool = False
    feature: Feature | None = None
    agents: AgentConnection | None = None
    epoch: int = 0
    is_open: bool = False

    @property
    def features(self) -> tuple[Feature, ...]:
        """The entitlements that concern agents."""
        return () if self.feature is None else (self.feature,)


def existing(access: TenantAccess | None, tenant_id: str) -> TenantAccess:
    """Returns the tenant. Raises AgentTenantUnknownError for None."""
    if access is None:
        raise AgentTenantUnknownError(
            f"the agent gateway knows no tenant {tenant_id}; `paybill tenant list` lists all tenants"
        )
    return access


def require_present(access: TenantAccess | None, tenant_id: str) -> TenantAccess:
    """Returns a tenant that may have agents. Raises AgentTenantUnknownError, TenantLeftError."""
    known = existing(access, tenant_id)
    if known.status in {AgentTenantStatus.LEAVING, AgentTenantStatus.PURGED}:
        raise TenantLeftError(f"{known.slug} is {known.status}: it gets no new agents")
    return known


def require_active(access: TenantAccess | None, tenant_id: str, *, used: int = 0, requested: int = 1) -> TenantAccess:
    """Returns a tenant whose agents may take `requested` more actions after `used` in the open window.

    Raises AgentTenantUnknownError, TenantNotRunningError and ActionsNotEntitledError.
    """
    known = existing(access, tenant_id)
    if known.status is not AgentTenantStatus.RUNNING:
        raise TenantNotRunningError(
            f"{known.slug} is {known.status}: its agents may not act; run: paybill tenant show {known.slug}"
        )
    found = check(known, AGENT_ACTIONS, used=used, requested=requested)
    if not found.allowed:
        raise ActionsNotEntitledError(
            f"the entitlements of {known.slug} allow no more actions of agents: {AGENT_ACTIONS} is {found.reason}; "
            f"run: paybill entitlement show {known.slug}"
        )
    return known


def is_metered(access: TenantAccess | None) -> bool:
    """Returns whether the entitlement counts the actions of a month (UTC), and not those of a day."""
    return access is not None and isinstance(access.feature, MeteredFeature)


def require_endpoint(access: TenantAccess | None) -> AgentConnection:
    """Returns the agents' login of a tenant. Raises NoEndpointError while there is none, or it is closed."""
    if access is None or access.agents is None or not access.is_open:
        raise NoEndpointError("the tenant's database has no open login for agents now; send the call again later")
    return access.agents


def refusal(access: TenantAccess) -> DomainError | None:
    """Returns the reason why no agent of the tenant may act; None when they may."""
    try:
        require_active(access, access.tenant_id)
    except DomainError as error:
        return error
    return None


def on_tenant_requested(access: TenantAccess | None, fact: TenantRequested) -> list[AgentTenantChanged]:
    """Records a new tenant: nothing is allowed until its environment is ready."""
    if access is not None:
        return []
    return [_changed(TenantAccess(fact.tenant_id, fact.slug, AgentTenantStatus.PENDING))]


def on_lifecycle(access: TenantAccess | None, fact: LifecycleFact) -> list[AgentTenantChanged]:
    """Records the tenant's status. Raises AgentTenantUnknownError."""
    known = existing(access, fact.tenant_id)
    after = replace(known, status=_STATUS[type(fact)])
    return [] if after == known or known.status is AgentTenantStatus.PURGED else [_changed(after)]


def on_entitlements_set(access: TenantAccess | None, fact: EntitlementsSet) -> list[AgentTenantChanged]:
    """Records the entitlement to agents' actions. Raises AgentTenantUnknownError."""
    known = existing(access, fact.tenant_id)
    feature = next((each for each in fact.features if each.key == AGENT_ACTIONS), None)
    after = replace(known, allows_access=fact.allows_access, feature=feature)
    return [] if after == known else [_changed(after)]


def on_environment_ready(access: TenantAccess | None, fact: EnvironmentReady) -> list[AgentTenantChanged]:
    """Records the agents' login of a placement, unless a newer placement is known. Raises AgentTenantUnknownError."""
    known = existing(access, fact.tenant_id)
    if fact.epoch < known.epoch:
        return []
    after = replace(known, agents=fact.agents, epoch=fact.epoch, is_open=True)
    return [] if after == known else [_changed(after)]


def on_environment_changed(access: TenantAccess | None, fact: EnvironmentChanged) -> list[AgentTenantChanged]:
    """Records the agents' login that a plan made or changed. Raises AgentTenantUnknownError."""
    known = existing(access, fact.tenant_id)
    if fact.agents is not None and fact.agents.epoch < known.epoch:
        return []
    after = replace(known, agents=fact.agents)
    return [] if after == known else [_changed(after)]


def on_access(access: TenantAccess | None, fact: AccessFact) -> list[AgentTenantChanged]:
    """Records that the agents' login is open or closed: it is open only while the tenant has all of its access.

    Raises AgentTenantUnknownError.
    """
    known = existing(access, fact.tenant_id)
    after = replace(known, is_open=isinstance(fact, AccessOpened))
    if isinstance(fact, AccessChangeStarted) and fact.access is Access.OPEN:
        after = known  # it is closed until the change is done
    return [] if after == known else [_changed(after)]


def evolve(_: TenantAccess | None, event: AgentTenantChanged) -> TenantAccess:
    """Returns the tenant after `event`, which has its complete state."""
    return TenantAccess(
        tenant_id=event.tenant_id,
        slug=event.slug,
        status=event.status,
        allows_access=event.allows_access,
        feature=event.feature,
        agents=event.agents,
        epoch=event.epoch,
        is_open=event.is_open,
    )


def _changed(access: TenantAccess) -> AgentTenantChanged:
    return AgentTenantChanged(
        tenant_id=access.tenant_id,
        slug=access.slug,
        status=access.status,
        allows_access=access.allows_access,
        feature=access.feature,
        agents=access.agents,
        epoch=access.epoch,
        is_open=access.is_open,
    )
