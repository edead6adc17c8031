"""Rules of tenants as far as they concern agents: only those of a running, entitled tenant may act."""

from dataclasses import replace

import pytest
from gateway_samples import ENABLED, METERED, OTHER, TENANT, entitlements, facts_about
from paybill_agent_gateway.domain.tenants import (
    ActionsNotEntitledError,
    AgentTenantUnknownError,
    TenantAccess,
    TenantNotRunningError,
    evolve,
    on_entitlements_set,
    on_lifecycle,
    on_tenant_requested,
    refusal,
    require_active,
)
from paybill_contracts.agent_tenants import AgentTenantStatus

FACTS = facts_about(TENANT)
RUNNING = TenantAccess(TENANT, "acme", AgentTenantStatus.RUNNING, allows_access=True, feature=ENABLED)


def after(access, events):
    for event in events:
        access = evolve(access, event)
    return access


def test_agents_of_an_unknown_tenant_may_do_nothing() -> None:
    with pytest.raises(AgentTenantUnknownError, match=OTHER):
        require_active(None, OTHER)


def test_a_new_tenant_is_pending_and_entitled_to_nothing() -> None:
    access = after(None, on_tenant_requested(None, FACTS.requested))

    assert access == TenantAccess(TENANT, "acme", AgentTenantStatus.PENDING)
    assert on_tenant_requested(access, FACTS.requested) == []


def test_agents_of_a_running_tenant_with_the_feature_may_act() -> None:
    assert require_active(RUNNING, TENANT) is RUNNING
    assert refusal(RUNNING) is None


@pytest.mark.parametrize("status", [each for each in AgentTenantStatus if each is not AgentTenantStatus.RUNNING])
def test_agents_of_a_tenant_that_is_not_running_are_refused(status: AgentTenantStatus) -> None:
    with pytest.raises(TenantNotRunningError, match=f"acme is {status}"):
        require_active(replace(RUNNING, status=status), TENANT)


@pytest.mark.parametrize(
    ("access", "reason"),
    [
        (replace(RUNNING, allows_access=False), "no_access"),
        (replace(RUNNING, feature=None), "not_included"),
        (replace(RUNNING, feature=ENABLED.model_copy(update={"enabled": False})), "switched_off"),
    ],
)
def test_agents_are_refused_without_the_feature(access: TenantAccess, reason: str) -> None:
    with pytest.raises(ActionsNotEntitledError, match=reason):
        require_active(access, TENANT)


def test_a_quota_bounds_the_number_of_actions() -> None:
    metered = replace(RUNNING, feature=METERED)

    assert require_active(metered, TENANT, used=1) is metered
    with pytest.raises(ActionsNotEntitledError, match="quota_exceeded"):
        require_active(metered, TENANT, used=1, requested=2)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("activated", AgentTenantStatus.RUNNING),
        ("suspended", AgentTenantStatus.SUSPENDED),
        ("reactivated", AgentTenantStatus.RUNNING),
        ("quarantined", AgentTenantStatus.SUSPENDED),
        ("offboarded", AgentTenantStatus.LEAVING),
        ("cancelled", AgentTenantStatus.LEAVING),
        ("returned", AgentTenantStatus.PENDING),
        ("purging", AgentTenantStatus.LEAVING),
        ("purged", AgentTenantStatus.PURGED),
    ],
)
def test_the_status_follows_the_lifecycle(name: str, status: AgentTenantStatus) -> None:
    access = after(RUNNING, on_lifecycle(RUNNING, getattr(FACTS, name)))

    assert access == replace(RUNNING, status=status)
    assert on_lifecycle(access, getattr(FACTS, name)) == []


def test_a_purged_tenant_never_runs_again() -> None:
    purged = replace(RUNNING, status=AgentTenantStatus.PURGED)

    assert on_lifecycle(purged, FACTS.activated) == []


def test_facts_of_an_unknown_tenant_are_refused() -> None:
    with pytest.raises(AgentTenantUnknownError):
        on_lifecycle(None, FACTS.activated)
    with pytest.raises(AgentTenantUnknownError):
        on_entitlements_set(None, entitlements(TENANT, ENABLED))


def test_only_a_change_that_concerns_agents_is_recorded() -> None:
    pending = TenantAccess(TENANT, "acme", AgentTenantStatus.RUNNING)
    access = after(pending, on_entitlements_set(pending, entitlements(TENANT, ENABLED)))

    assert access == RUNNING
    assert on_entitlements_set(access, entitlements(TENANT, ENABLED)) == []
    assert after(access, on_entitlements_set(access, entitlements(TENANT))).feature is None
    assert not after(access, on_entitlements_set(access, entitlements(TENANT, allows_access=False))).allows_access
