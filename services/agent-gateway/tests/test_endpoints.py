"""The agents' login of a tenant: the newest placement alone, and only while access is open."""

import pytest
from gateway_samples import TENANT, facts_about
from paybill_agent_gateway.domain import tenants
from paybill_agent_gateway.domain.tenants import NoEndpointError, TenantAccess
from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.environment_plans import Connection, EnvironmentChanged, EnvironmentReady
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access, AccessChangeStarted, AccessClosed, AccessOpened

ENVIRONMENT = f"env_{'a' * 32}"
OF = {"tenant_id": TENANT, "environment_id": ENVIRONMENT}


def login(epoch: int) -> AgentConnection:
    connection = Connection(
        address="role.agents", host=f"host-{epoch}", port=5432, database="pool", schema_name="product", username="a_1"
    )
    return AgentConnection(connection=connection, blueprint="shop", preset=Preset.POOLED, epoch=epoch)


def ready(epoch: int, agents: AgentConnection | None) -> EnvironmentReady:
    return EnvironmentReady(**OF, plan_hash="0" * 64, epoch=epoch, connections=(), agents=agents)


def after(access: TenantAccess | None, *facts: object) -> TenantAccess | None:
    for fact in facts:
        match fact:
            case EnvironmentReady():
                events = tenants.on_environment_ready(access, fact)
            case EnvironmentChanged():
                events = tenants.on_environment_changed(access, fact)
            case AccessOpened() | AccessClosed() | AccessChangeStarted():
                events = tenants.on_access(access, fact)
            case _:
                raise TypeError(type(fact))
        for event in events:
            access = tenants.evolve(access, event)
    return access


(NEW,) = tenants.on_tenant_requested(None, facts_about(TENANT).requested)
KNOWN = tenants.evolve(None, NEW)


def test_an_older_placement_is_never_used_again() -> None:
    access = after(KNOWN, ready(2, login(2)), ready(1, login(1)))

    assert tenants.require_endpoint(access).connection.host == "host-2"


def test_a_newer_placement_without_a_login_ends_the_older_login() -> None:
    with pytest.raises(NoEndpointError):
        tenants.require_endpoint(after(KNOWN, ready(1, login(1)), ready(2, None)))


def test_a_change_makes_the_first_login() -> None:
    changed = EnvironmentChanged(**OF, plan_hash="0" * 64, epoch=1, connections=(), agents=login(1))

    assert tenants.require_endpoint(after(KNOWN, ready(1, None), changed)).epoch == 1


@pytest.mark.parametrize(
    "fact",
    [
        AccessClosed(**OF, access=Access.CLOSED),
        AccessClosed(**OF, access=Access.READ_ONLY),
        AccessChangeStarted(**OF, access=Access.READ_ONLY),
    ],
)
def test_a_login_that_is_not_fully_open_is_not_used(fact: object) -> None:
    with pytest.raises(NoEndpointError):
        tenants.require_endpoint(after(KNOWN, ready(1, login(1)), fact))


def test_a_login_is_used_again_only_when_its_access_is_open() -> None:
    closed = after(KNOWN, ready(1, login(1)), AccessClosed(**OF, access=Access.CLOSED))
    opening = after(closed, AccessChangeStarted(**OF, access=Access.OPEN))

    with pytest.raises(NoEndpointError):
        tenants.require_endpoint(opening)
    assert tenants.require_endpoint(after(opening, AccessOpened(**OF))).epoch == 1
