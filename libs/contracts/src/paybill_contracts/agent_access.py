"""Facts of the provisioner about agents: their login in a tenant's database, and the rights of logins."""

from paybill_contracts.environment_plans import Connection, EnvironmentFact
from paybill_contracts.event import Value
from paybill_contracts.placement import Preset
from paybill_contracts.values import Count, Digest, Key, Timestamp


class AgentConnection(Value):
    """The agents' login of a tenant. The password is a secret that only the agent gateway can open.

    blueprint: by which the environment is built. epoch: of the placement; an older connection is never used again.
    """

    connection: Connection
    blueprint: Key
    preset: Preset
    epoch: Count


class AgentRightsGranted(
    EnvironmentFact, type="provisioner.agent_rights_granted", version=1, aggregate="environment", key="environment_id"
):
    """The agents' login of this environment has exactly the rights of this bundle."""

    blueprint: Key
    bundle_hash: Digest
    granted_at: Timestamp
