"""Login of a tenant's agents: part of its environment from the first agent on. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from paybill_contracts.agent_access import AgentLoginRequested, AgentRightsGranted, AgentRightsRequested
from paybill_contracts.blueprints import TierBlueprint
from paybill_contracts.environment_plans import Resource
from paybill_contracts.kinds import LAYERS, Role, Secret, needs_of
from paybill_definitions.resources import AGENTS_ROLE, AGENTS_SECRET, ResourceError

from paybill_provisioner.domain.environment_state import Environment

CONNECTION_LIMIT = 5
"""Sessions of a tenant's agents at the same time."""

SETTINGS = MappingProxyType(
    {"idle_in_transaction_session_timeout": "5s", "lock_timeout": "2s", "statement_timeout": "5s"}
)
"""Settings of the login: an agent's statement blocks nobody for long."""

ADDRESSES = frozenset({AGENTS_ROLE, AGENTS_SECRET})


def with_login(
    environment: Environment, target: Sequence[Resource], blueprint: str, tier: TierBlueprint
) -> Sequence[Resource]:
    """Returns the desired resources, with the login for agents when the tenant has any; it needs a login of the tenant.

    Raises ResourceError for a blueprint of an earlier version that uses the login's address.
    """
    own = {each.address: each.attributes for each in target if isinstance(each.attributes, Role)}
    if not environment.has_agents or not own:
        return target
    for each in target:
        if each.address in ADDRESSES:
            raise ResourceError(each.address, "", "it is made for the agents of a tenant; choose another name")
    first = "role.main" if "role.main" in own else min(own)
    main = own[first]
    number = environment.tenant_id.removeprefix("ten_")
    secret = Secret(name=f"environments/{number}/agents")
    role = Role(
        name=f"a_{number}",
        in_schema=main.in_schema,
        secret=AGENTS_SECRET,
        connection_limit=CONNECTION_LIMIT,
        agents=blueprint,
    )
    made = [
        Resource(
            address=address,
            layer=LAYERS[attributes.kind],
            isolation=getattr(tier.layers, LAYERS[attributes.kind]),
            attributes=attributes,
            # Logins of one database change its access lists one after another: at the same time they can deadlock.
            needs=(*needs_of(attributes), *([first] if isinstance(attributes, Role) else [])),
        )
        for address, attributes in ((AGENTS_SECRET, secret), (AGENTS_ROLE, role))
    ]
    return (*target, *made)


def is_missing(environment: Environment) -> bool:
    """Returns True when the tenant has agents, and a login of its own is built but none for them."""
    built = {each.resource.address for each in environment.built if isinstance(each.resource.attributes, Role)}
    return environment.has_agents and bool(built) and AGENTS_ROLE not in built


def is_built(environment: Environment) -> bool:
    """Returns True when the login for agents exists."""
    return any(each.resource.address == AGENTS_ROLE for each in environment.built)


def rights_requested(environment: Environment) -> list[AgentRightsRequested]:
    """Requests the rights of the login when it exists."""
    if not is_built(environment):
        return []
    return [AgentRightsRequested(tenant_id=environment.tenant_id, environment_id=environment.id)]


def evolve(
    environment: Environment, event: AgentLoginRequested | AgentRightsRequested | AgentRightsGranted
) -> Environment:
    """Returns the environment after `event`."""
    match event:
        case AgentLoginRequested():
            return replace(environment, has_agents=True)
        case AgentRightsRequested():
            return replace(environment, agent_rights=None)
        case AgentRightsGranted():
            return replace(environment, agent_rights=event.bundle_hash)
