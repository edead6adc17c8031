"""Agents of tenants: the first one of a tenant adds their login to its environment. Pure."""

from datetime import datetime

from paybill_contracts.agent_access import AgentLoginRequested
from paybill_contracts.agents import AgentRegistered

from paybill_provisioner.domain import planning
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import evolve, existing
from paybill_provisioner.domain.inputs import NO_INPUTS, PlanInputs
from paybill_provisioner.domain.plans import CellsInForce


def on_agent_registered(
    environment: Environment | None,
    fact: AgentRegistered,
    blueprints: Blueprints,
    cells: CellsInForce,
    now: datetime,
    inputs: PlanInputs = NO_INPUTS,
) -> list[EnvironmentEvent]:
    """Requests the login for agents with the first one, and plans it; an environment that is built later has it.

    Raises EnvironmentUnknownError.
    """
    environment = existing(environment, fact.tenant_id)
    if environment.has_agents or environment.status in {Status.PURGING, Status.PURGED}:
        return []
    requested = AgentLoginRequested(tenant_id=environment.tenant_id, environment_id=environment.id)
    after = evolve(environment, requested)
    return [requested, *planning.compare(after, blueprints, cells, now, inputs)]
