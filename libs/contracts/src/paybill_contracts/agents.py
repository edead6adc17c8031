"""Facts of agents and freezes: registered, ended, frozen, thawed."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.api_keys import KeyId, Subject
from paybill_contracts.event import Event
from paybill_contracts.values import Digest, Key, TenantId, Text, Timestamp

AgentId = Annotated[
    str, StringConstraints(pattern=r"^agt_[0-9a-f]{32}$"), Field(examples=["agt_0123456789abcdef0123456789abcdef"])
]

FreezeId = Annotated[
    str,
    StringConstraints(
        pattern=r"^(everything|tenant/ten_[0-9a-f]{32}|agent/agt_[0-9a-f]{32}|workflow/[a-z][a-z0-9_-]{0,62})$"
    ),
    Field(examples=["everything", "workflow/refund"]),
]
"""Target of a freeze: everything, or one tenant, agent or workflow."""

FREEZES = "freezes"
"""Id of the one aggregate of all freezes."""


class AgentFact(Event):
    """Common fields of the facts of an agent."""

    tenant_id: TenantId
    agent_id: AgentId


class AgentRegistered(AgentFact, type="agent-gateway.agent_registered", version=1, aggregate="agent", key="agent_id"):
    """An agent may act for one tenant in one role until its key expires. sha256: of the secret part of the key.

    claims_name: no other agent of the tenant gets the name before this one has ended; False in facts of earlier
    versions, in which an expired agent could share its name with a newer one.
    """

    name: Key
    role: Key
    key_id: KeyId
    sha256: Digest
    registered_by: Subject
    registered_at: Timestamp
    expires_at: Timestamp
    claims_name: bool = False


class EndReason(StrEnum):
    """Reason of the end of an agent."""

    REQUESTED = "requested"
    EXPIRED = "expired"
    TENANT_LEFT = "tenant_left"


class AgentEnded(AgentFact, type="agent-gateway.agent_ended", version=1, aggregate="agent", key="agent_id"):
    """An agent's key is refused from now on."""

    key_id: KeyId
    reason: EndReason
    ended_by: Subject
    ended_at: Timestamp


class Frozen(Event, type="agent-gateway.frozen", version=1, aggregate="freezes", key="freezes_id"):
    """No intent of what is named is recorded from now on. tenant_id: of a frozen tenant or agent."""

    freezes_id: Key
    freeze: FreezeId
    tenant_id: TenantId | None = None
    reason: Text
    frozen_by: Subject
    frozen_at: Timestamp


class Thawed(Event, type="agent-gateway.thawed", version=1, aggregate="freezes", key="freezes_id"):
    """A freeze has ended."""

    freezes_id: Key
    freeze: FreezeId
    tenant_id: TenantId | None = None
    thawed_by: Subject
    thawed_at: Timestamp
