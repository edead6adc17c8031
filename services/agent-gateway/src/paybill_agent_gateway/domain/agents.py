"""Agents: each acts for one tenant in one role, until it ends or its key expires.

A name belongs to one agent of a tenant until the end of that agent is recorded; the end of an expired one is recorded
by itself.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from paybill_contracts.agents import AgentEnded, AgentId, AgentRegistered, EndReason
from paybill_contracts.api_keys import KeyId
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.values import Key, TenantId, Timestamp

from paybill_agent_gateway.domain.refusals import AgentNotActiveError

AgentEvent = AgentRegistered | AgentEnded

SERVICE = "service:agent-gateway"
"""Subject of the service itself, which ends what nobody else does."""


class AgentUnknownError(NotFoundError):
    """No agent has this id."""

    code = "agent_unknown"


class AgentExpiryError(DomainError):
    """The expiry of an agent is not in the future."""

    code = "agent_expiry_invalid"


class AgentIdTakenError(ConflictError):
    """An agent with this id exists."""

    code = "agent_exists"


class AgentNameTakenError(ConflictError):
    """The tenant has an agent with this name that has not ended."""

    code = "agent_name_taken"


class RoleUnknownError(NotFoundError):
    """No workflow of the bundle in force is for this role."""

    code = "role_unknown"


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent. registered_by: the subject of the person who registered it.

    claims_name: the name belongs to it alone until it ends. Two agents of an earlier version may share one.
    """

    id: AgentId
    tenant_id: TenantId
    name: Key
    role: Key
    key_id: KeyId
    registered_by: str
    registered_at: Timestamp
    expires_at: Timestamp
    ended_at: Timestamp | None = None
    end_reason: EndReason | None = None
    claims_name: bool = False

    def is_active(self, now: datetime) -> bool:
        """Returns True while its key is accepted."""
        return self.ended_at is None and now < self.expires_at


def existing(agent: Agent | None, agent_id: str) -> Agent:
    """Returns the agent. Raises AgentUnknownError for None."""
    if agent is None:
        raise AgentUnknownError(f"there is no agent {agent_id}; `paybill agent list` lists all agents")
    return agent


def register(agent: Agent | None, fact: AgentRegistered) -> list[AgentEvent]:
    """Registers an agent. Raises AgentIdTakenError, AgentExpiryError."""
    if agent is not None:
        raise AgentIdTakenError(f"the agent {agent.id} exists already")
    if fact.expires_at <= fact.registered_at:
        raise AgentExpiryError("the key of an agent has to expire in the future")
    return [fact]


def require_role(role: str, roles: Collection[str]) -> None:
    """Raises RoleUnknownError unless a workflow is for the role. roles: of the workflows in force."""
    if role not in roles:
        known = ", ".join(sorted(roles)) or "none"
        raise RoleUnknownError(f"no workflow of the bundle in force is for the role {role}; its roles: {known}")


def require_free_name(name: str, others: Iterable[Agent], now: datetime) -> None:
    """Raises AgentNameTakenError when an agent has the name and has not ended. others: of the tenant, with the name."""
    taken = next((each for each in others if each.ended_at is None), None)
    if taken is None:
        return
    if taken.is_active(now):
        raise AgentNameTakenError(
            f"the active agent {taken.id} of this tenant has the name {name}; end it, or use another name"
        )
    raise AgentNameTakenError(
        f"the agent {taken.id} of this tenant has the name {name} and has just expired; repeat the request in a "
        "minute, end it, or use another name"
    )


def end(agent: Agent, ended_by: str, now: datetime, reason: EndReason = EndReason.REQUESTED) -> list[AgentEvent]:
    """Ends an agent. One that has ended changes nothing."""
    if agent.ended_at is not None:
        return []
    return [
        AgentEnded(
            tenant_id=agent.tenant_id,
            agent_id=agent.id,
            key_id=agent.key_id,
            reason=reason,
            ended_by=ended_by,
            ended_at=now,
        )
    ]


def on_time(agent: Agent, now: datetime) -> list[AgentEvent]:
    """Ends an agent whose key has expired, which frees its name."""
    return end(agent, SERVICE, now, EndReason.EXPIRED) if now >= agent.expires_at else []


def require_active(agent: Agent | None, tenant_id: str, role: str, now: datetime) -> None:
    """Raises AgentNotActiveError unless the agent may act for this tenant in this role now."""
    if agent is None or not agent.is_active(now):
        raise AgentNotActiveError("the agent is unknown, has ended or has expired; an operator can register a new one")
    if agent.tenant_id != tenant_id or agent.role != role:
        raise AgentNotActiveError("the agent acts for another tenant or in another role; use the key of that one")


def evolve(agent: Agent | None, event: AgentEvent) -> Agent:
    """Returns the agent after `event`; only its registration may come first."""
    match event:
        case AgentRegistered():
            return Agent(
                id=event.agent_id,
                tenant_id=event.tenant_id,
                name=event.name,
                role=event.role,
                key_id=event.key_id,
                registered_by=event.registered_by,
                registered_at=event.registered_at,
                expires_at=event.expires_at,
                claims_name=event.claims_name,
            )
        case AgentEnded():
            return replace(existing(agent, event.agent_id), ended_at=event.ended_at, end_reason=event.reason)
        case _:
            assert_never(event)
