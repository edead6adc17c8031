"""Facts of the provisioner about agents: the login in a tenant's database, and the rights of logins."""

from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.environment_plans import AgentConnection, EnvironmentFact
from paybill_contracts.event import Event
from paybill_contracts.values import Digest, Key, Timestamp

__all__ = [
    "AgentConnection",
    "AgentLoginRequested",
    "AgentRightsChanged",
    "AgentRightsGranted",
    "AgentRightsRequested",
    "AgentRightsSettled",
]


class AgentLoginRequested(
    EnvironmentFact, type="provisioner.agent_login_requested", version=1, aggregate="environment", key="environment_id"
):
    """The tenant has its first agent: every plan of its environment has a login for agents from now on."""


class AgentRightsRequested(
    EnvironmentFact, type="provisioner.agent_rights_requested", version=1, aggregate="environment", key="environment_id"
):
    """The agents' login of this environment is new or was set again, and needs the rights of the bundle in force."""


class AgentRightsGranted(
    EnvironmentFact, type="provisioner.agent_rights_granted", version=1, aggregate="environment", key="environment_id"
):
    """The agents' login of this environment has exactly the rights of this bundle."""

    blueprint: Key
    bundle_hash: Digest
    granted_at: Timestamp


class AgentRightsChanged(
    Event, type="provisioner.agent_rights_changed", version=1, aggregate="agent_rights", key="blueprint"
):
    """Agents' logins in the environments of this blueprint get exactly these rights. bundle_hash: of their bundle."""

    blueprint: Key
    bundle_hash: Digest
    rights: tuple[TableRights, ...]


class AgentRightsSettled(
    Event, type="provisioner.agent_rights_settled", version=1, aggregate="agent_rights", key="blueprint"
):
    """No agents' login has a right that only an earlier bundle needs."""

    blueprint: Key
    bundle_hash: Digest
