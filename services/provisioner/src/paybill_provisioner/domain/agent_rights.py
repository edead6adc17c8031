"""Rights of agents' logins, as the bundle in force of a blueprint has them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from paybill_contracts.agent_access import AgentRightsChanged, AgentRightsGranted, AgentRightsSettled
from paybill_contracts.agent_bundles import BundleActivated, TableRights
from paybill_contracts.kinds import Role
from paybill_contracts.placement import Isolation
from paybill_definitions.resources import AGENTS_ROLE

from paybill_provisioner.domain import agent_logins
from paybill_provisioner.domain.environment_state import Environment, Status

AgentRightsEvent = AgentRightsChanged | AgentRightsSettled

RightsByBlueprint: TypeAlias = Mapping[str, tuple[TableRights, ...]]
"""Rights that agents' logins may have, by the blueprint of their environment."""


@dataclass(frozen=True, slots=True)
class AgentRights:
    """Rights of the agents' logins in the environments of the blueprint `id`.

    earlier: of bundles that were in force before, while a login may still have them.
    """

    id: str
    bundle_hash: str
    rights: tuple[TableRights, ...]
    earlier: tuple[TableRights, ...] = ()

    @property
    def allowed(self) -> tuple[TableRights, ...]:
        """Rights that a login may have now."""
        return (*self.rights, *self.earlier)


def on_bundle_activated(rights: AgentRights | None, fact: BundleActivated) -> list[AgentRightsEvent]:
    """Changes the rights to those of the bundle that is in force now."""
    if rights is not None and (rights.bundle_hash, rights.rights) == (fact.bundle_hash, fact.rights):
        return []
    return [AgentRightsChanged(blueprint=fact.blueprint, bundle_hash=fact.bundle_hash, rights=fact.rights)]


def settled(rights: AgentRights | None, bundle_hash: str) -> list[AgentRightsEvent]:
    """Records that every login has exactly the rights of this bundle; nothing when another one is in force by now."""
    if rights is None or rights.bundle_hash != bundle_hash or not rights.earlier:
        return []
    return [AgentRightsSettled(blueprint=rights.id, bundle_hash=bundle_hash)]


def evolve(rights: AgentRights | None, event: AgentRightsEvent) -> AgentRights:
    """Returns the rights after `event`."""
    if isinstance(event, AgentRightsChanged):
        earlier = dict.fromkeys(rights.allowed) if rights is not None else ()
        return AgentRights(event.blueprint, event.bundle_hash, event.rights, tuple(earlier))
    if rights is None:
        raise ValueError(f"no rights of {event.blueprint} have changed")
    return replace(rights, earlier=())


def apply_to(rights: AgentRights, environment: Environment) -> bool:
    """Returns True when the agents' login of the environment exists and has these rights by its blueprint.

    A plan that builds the login requests its rights at its end.
    """
    is_there = environment.status in {
        Status.READY,
        Status.CHANGING,
        Status.RETAINING,
        Status.RETAINED,
        Status.RESTORING,
    }
    blueprint = environment.plan.blueprint.name if environment.plan else ""
    return is_there and blueprint == rights.id and agent_logins.is_built(environment)


def pool_of(environment: Environment) -> str | None:
    """Returns the schema of the pool whose logins of agents have their rights together; None elsewhere."""
    resources = environment.resources
    role = resources[AGENTS_ROLE].attributes if AGENTS_ROLE in resources else None
    schema = resources[role.in_schema] if isinstance(role, Role) else None
    return schema.identity if schema is not None and schema.isolation is Isolation.POOL else None


def granted(environment: Environment, rights: AgentRights, now: datetime) -> list[AgentRightsGranted]:
    """Records that the login has exactly these rights; nothing when that is recorded."""
    if environment.agent_rights == rights.bundle_hash or not apply_to(rights, environment):
        return []
    return [
        AgentRightsGranted(
            tenant_id=environment.tenant_id,
            environment_id=environment.id,
            blueprint=rights.id,
            bundle_hash=rights.bundle_hash,
            granted_at=now,
        )
    ]
