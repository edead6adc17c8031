"""Tables of the service: one JSON document a state, with generated columns for queries."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from paybill_contracts.cells import Guarantee
from paybill_contracts.drift import ResourceDriftKind
from paybill_contracts.placement import Isolation
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.unit_of_work import UnitOfWork
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.diagnosis.measurements import StateCount
from sqlalchemy import Index, MetaData, text
from sqlalchemy.orm import registry

from paybill_provisioner.domain import (
    agent_rights,
    blueprints,
    cells,
    drift,
    environments,
    estimates,
    planning,
    policy,
    price_book,
)
from paybill_provisioner.domain.agent_rights import AgentRights
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, Blueprints, require_published
from paybill_provisioner.domain.cells import SHARED, Cells, opened, place_changes
from paybill_provisioner.domain.drift_state import DriftEvent
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.estimates import PLAN_RUNS_ID, PlanRuns
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plans import CellsInForce
from paybill_provisioner.domain.policy import POLICY_ID, PublishedPolicy
from paybill_provisioner.domain.price_book import PRICE_BOOK_ID, PublishedPriceBook

APPROVAL_EXPIRES = (
    "CASE WHEN state->'approval'->>'status' IN ('requested', 'granted') "
    "THEN rtrim(state->'approval'->>'expires_at', 'Z') END"
)
"""Time at which the approval of an environment expires."""


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class BlueprintRow(Base, table=True):
    """The blueprints in force: one row."""

    __tablename__ = "blueprints"


class CellsRow(Base, table=True):
    """Cells by isolation level: two rows."""

    __tablename__ = "cells"


class PriceBookRow(Base, table=True):
    """The price book in force: one row."""

    __tablename__ = "price_book"


class PolicyRow(Base, table=True):
    """The policy in force: one row."""

    __tablename__ = "policy"


class AgentRightsRow(Base, table=True):
    """Rights of agents' logins: one row for each blueprint with a bundle."""

    __tablename__ = "agent_rights"


class PlanRunsRow(Base, table=True):
    """Durations of plans: one row."""

    __tablename__ = "plan_runs"


UNSETTLED = """
CASE WHEN state->>'status' IN ('retained', 'purged') THEN NULL
WHEN state->>'refusal' IS NOT NULL OR state->>'failure' IS NOT NULL OR state->>'pending' IS NOT NULL
OR state->'approval'->>'status' IN ('requested', 'granted') OR state->>'paused' = 'true'
OR state->>'status' = 'purging' THEN 'held'
WHEN state->>'status' IN ('building', 'changing', 'compensating') THEN 'planned'
WHEN state->>'status' IN ('registered', 'failed', 'ready') AND state->'desired'->>'allows_access' = 'true'
AND state->'desired'->'size' IS DISTINCT FROM state->'built_size' THEN 'held' END
"""
"""Environments that may not be as they have to be. planned: they become so by their plan."""


AGENTS = "CASE WHEN state->>'has_agents' = 'true' THEN state->'plan'->'blueprint'->>'name' END"
"""Blueprint of an environment whose tenant has agents."""


class EnvironmentRow(Base, table=True):
    """A tenant's environment.

    `preset` is null until there is a plan; approval_id: of its last approval; approval_expires: only while it is open.
    """

    __tablename__ = "environments"
    __table_args__ = (Index(None, "status", "id"), Index(None, "region", "id"))

    tenant_id: str = generated("state->>'tenant_id'", unique=True)
    status: str = generated("state->>'status'")
    region: str = generated("state->>'region'")
    preset: str | None = generated("state->'plan'->>'preset'")
    pending_since: str | None = generated("state->'pending'->>'since'", index=True)
    approval_id: str | None = generated("state->'approval'->>'id'", index=True)
    approval_status: str | None = generated("state->'approval'->>'status'", index=True)
    approval_expires: str | None = generated(APPROVAL_EXPIRES, index=True)
    refusal_code: str | None = generated("state->'refusal'->>'code'", index=True)
    unsettled: str | None = generated(UNSETTLED, index=True)
    agents: str | None = generated(AGENTS, index=True)


class IncidentRow(Base, table=True):
    """A problem that this service found. `opened` orders incidents by their begin."""

    __tablename__ = "incidents"
    __table_args__ = (Index(None, "status", "opened"), Index(None, "tenant_id"))

    status: str = generated("state->>'status'")
    kind: str = generated("state->>'kind'")
    tenant_id: str | None = generated("state->>'tenant_id'")
    owner: str | None = generated("state->>'owner'")
    opened: str = generated("(state->>'since') || '/' || (state->>'id')", unique=True)


class ViolationRow(Base, table=True):
    """An invariant that does not hold for a tenant, or did not."""

    __tablename__ = "violations"

    status: str = generated("state->>'status'", index=True)
    tenant_id: str = generated("state->>'tenant_id'", index=True)


BLUEPRINTS = Stored("blueprint", BlueprintRow, Blueprints, blueprints.evolve, format=2)
ENVIRONMENTS = Stored("environment", EnvironmentRow, Environment, environments.evolve, format=4)
CELLS = Stored("cells", CellsRow, Cells, cells.evolve)
AGENT_RIGHTS = Stored("agent_rights", AgentRightsRow, AgentRights, agent_rights.evolve)
PRICE_BOOK = Stored("price_book", PriceBookRow, PublishedPriceBook, price_book.evolve)
POLICY = Stored("policy", PolicyRow, PublishedPolicy, policy.evolve)
PLAN_RUNS = Stored("plan_runs", PlanRunsRow, PlanRuns, estimates.evolve)
INCIDENTS = Incidents("provisioner", IncidentRow)
VIOLATIONS = Violations("provisioner", ViolationRow)
STATES = (BLUEPRINTS, CELLS, PRICE_BOOK, POLICY, PLAN_RUNS, ENVIRONMENTS, AGENT_RIGHTS, INCIDENTS, VIOLATIONS)

PLANNING_READS = (
    BLUEPRINTS.key(BLUEPRINT_ID),
    PRICE_BOOK.key(PRICE_BOOK_ID),
    POLICY.key(POLICY_ID),
    PLAN_RUNS.key(PLAN_RUNS_ID),
)
"""Keys that decisions read which may plan."""

CELL_KEYS = tuple(CELLS.key(level) for level in SHARED)
"""Keys of the cells, for decisions that may plan: the tenant's region is known after its environment is loaded."""


BUILT_IN_SHARED = text(
    "SELECT resource->>'isolation' AS isolation, region, count(DISTINCT id) AS tenants FROM ("
    "SELECT id, state->>'region', built->'resource' FROM environments, jsonb_array_elements(state->'built') AS built "
    "UNION ALL SELECT id, state->>'region', step->'after' FROM environments, "
    "jsonb_array_elements(state->'plan'->'steps') AS step) AS resources (id, region, resource) "
    "WHERE resource->'attributes'->>'kind' = 'schema' AND resource->>'isolation' <> 'silo' "
    "AND NOT EXISTS (SELECT FROM cells) GROUP BY 1, 2"
)
"""Number of the tenants in pools and bridges, for the first cells of an installation that had none; later nothing."""


ENVIRONMENT_RANGE = text(
    'SELECT id FROM environments WHERE id COLLATE "C" >= :after AND id COLLATE "C" < :before '
    'ORDER BY id COLLATE "C" LIMIT :limit'
)
"""Ids of the environments in a range, for checks of a part of the fleet."""

SILOS = text(
    "SELECT id FROM environments WHERE id > :after AND EXISTS ("
    "SELECT FROM jsonb_array_elements(state->'built') AS built "
    "WHERE built->'resource'->>'isolation' = 'silo' AND built->'resource'->'attributes'->>'kind' = 'database') "
    "ORDER BY id LIMIT :limit"
)
"""Ids of the environments with a database of their own, in order."""

INCIDENT_SUBJECTS = text("SELECT state->>'subject' AS subject FROM incidents WHERE kind = :kind AND status = :status")
"""Subjects of the incidents of one kind."""


DRIFT_COUNTS = StateCount(
    "paybill.drift",
    "{difference}",
    "Differences between environments and their records that nobody accepted, by class.",
    "paybill.drift.kind",
    text(
        "SELECT drift->'difference'->>'kind', count(*) FROM environments, "
        "jsonb_array_elements(state->'drift') AS drift WHERE drift->>'accepted' IS NULL GROUP BY 1"
    ),
    tuple(ResourceDriftKind),
)
BREACH_COUNTS = StateCount(
    "paybill.isolation.breaches",
    "{breach}",
    "Guarantees of isolation that do not hold in cells, by guarantee.",
    "paybill.isolation.guarantee",
    text(
        "SELECT breach->>'guarantee', count(*) FROM cells, jsonb_array_elements(state->'cells') AS cell, "
        "jsonb_array_elements(cell->'breaches') AS breach GROUP BY 1"
    ),
    tuple(Guarantee),
)


def cells_in_force(unit: UnitOfWork) -> CellsInForce:
    """Returns the loaded cells."""
    return {level: unit.get(CELLS, level) for level in SHARED}


def plan_inputs(unit: UnitOfWork) -> PlanInputs:
    """Returns the loaded inputs of plans."""
    return PlanInputs(
        unit.get(PRICE_BOOK, PRICE_BOOK_ID), unit.get(PLAN_RUNS, PLAN_RUNS_ID), unit.get(POLICY, POLICY_ID)
    )


def planning_states(unit: UnitOfWork) -> tuple[Blueprints, CellsInForce, PlanInputs]:
    """Returns what plans are made from: `PLANNING_READS` and `CELL_KEYS`. Raises BlueprintNotPublishedError."""
    return require_published(unit.get(BLUEPRINTS, BLUEPRINT_ID)), cells_in_force(unit), plan_inputs(unit)


def record(unit: UnitOfWork, environment_id: str, events: Iterable[EnvironmentEvent]) -> None:
    """Records events of an environment, and the places in cells that its tenant gets and leaves by them."""
    before = unit.get(ENVIRONMENTS, environment_id)
    unit.record(ENVIRONMENTS, environment_id, events)
    for each in place_changes(before, unit.get(ENVIRONMENTS, environment_id)):
        unit.record(CELLS, each.isolation, [each])


def record_drift(unit: UnitOfWork, environment_id: str, events: Sequence[DriftEvent], now: datetime) -> None:
    """Records drift of an environment, plans it as policy says, and opens or closes its incident.

    The decision writes the incident and the cells, and reads what plans are made from.
    """
    record(unit, environment_id, events)
    environment = unit.get(ENVIRONMENTS, environment_id)
    if environment is None or not events:
        return
    blueprints, cells_, inputs = planning_states(unit)
    record(unit, environment_id, planning.compare(environment, blueprints, cells_, now, inputs))
    finding = drift.finding_of(environment)
    if finding is not None:
        INCIDENTS.open(unit, finding, now)
        return
    subject, reason = drift.subject_of(environment_id), "nothing differs, or all of it is accepted"
    INCIDENTS.close(unit, drift.INCIDENT, subject, reason, now)


def record_cells(unit: UnitOfWork, tenants: Mapping[tuple[Isolation, str], int] | None = None) -> None:
    """Opens the cells of the blueprints in force.

    tenants: number by isolation level and region, for an installation that had no cells.
    """
    blueprints = unit.get(BLUEPRINTS, BLUEPRINT_ID)
    contents = [each.content for each in blueprints.in_force] if blueprints else []
    for level in SHARED:
        unit.record(CELLS, level, opened(unit.get(CELLS, level), level, contents, tenants or {}))
