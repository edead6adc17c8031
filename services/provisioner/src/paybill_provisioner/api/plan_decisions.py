"""Decisions of requests that may plan an environment, with its view afterwards as the response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from pydantic import BaseModel

from paybill_provisioner.api.environment_ids import id_from
from paybill_provisioner.api.environment_views import EnvironmentView
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import existing
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plans import CellsInForce
from paybill_provisioner.domain.unsettled import unsettled
from paybill_provisioner.tables import CELL_KEYS, ENVIRONMENTS, PLANNING_READS, planning_states, record

V = TypeVar("V", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PlanningStates:
    """States from which a plan of an environment is made."""

    environment: Environment | None
    blueprints: Blueprints
    cells: CellsInForce
    inputs: PlanInputs
    now: datetime


Decision = Callable[[PlanningStates], Sequence[EnvironmentEvent]]
View = Callable[[Environment, PlanningStates], V]
"""View of the environment after the decision, whose other states are those before it."""


async def decide_plan(
    context: ServiceContext,
    principal: Caller,
    name: str,
    verb: str,
    decision: Decision,
    view: View[V],
    response_type: type[V],
) -> V:
    """Runs a decision about the environment with this id, or this tenant's, and returns its view afterwards."""
    id_ = id_from(name)

    def decide(unit: UnitOfWork, at: DecisionContext) -> V:
        known = PlanningStates(unit.get(ENVIRONMENTS, id_), *planning_states(unit), at.now)
        record(unit, id_, decision(known))
        return view(existing(unit.get(ENVIRONMENTS, id_), name), known)

    return await context.decide(
        principal.origin,
        decide,
        writes=[ENVIRONMENTS.key(id_), *CELL_KEYS],
        reads=PLANNING_READS,
        verb=verb,
        target=name,
        idempotency=principal.idempotency,
        response_type=response_type,
    )


def view_of_environment(environment: Environment, known: PlanningStates) -> EnvironmentView:
    """Returns the environment's view as the response of a decision, when no job of it waits yet."""
    return EnvironmentView.full(environment, None, unsettled(environment, None, known.inputs.policy, known.now))
