"""Tables of the service: one JSON document a state, with generated columns for queries."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from sqlalchemy import Index, MetaData, text
from sqlalchemy.orm import registry

from paybill_agent_gateway.domain import agents, budgets, bundles, freezes, runs, tenants
from paybill_agent_gateway.domain.agents import Agent
from paybill_agent_gateway.domain.budgets import Day
from paybill_agent_gateway.domain.bundles import BlueprintInForce, BundleInForce, PublishedBundle
from paybill_agent_gateway.domain.freezes import Freezes
from paybill_agent_gateway.domain.runs import Run
from paybill_agent_gateway.domain.tenants import TenantAccess

RUN_STATUS = (
    "CASE WHEN state->>'ended' IS NOT NULL THEN 'ended' WHEN state->>'intent' IS NOT NULL THEN 'pending' "
    "WHEN state->'approval'->>'status' IN ('requested', 'granted') THEN 'approval' ELSE 'waiting' END"
)
"""Status of a run. pending: a write whose outcome is not recorded; approval: a call waits for a person."""


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class TenantRow(Base, table=True):
    """A tenant, and what its agents are entitled to. slug: a purged tenant's may be that of another one, too."""

    __tablename__ = "tenants"

    slug: str = generated("state->>'slug'", index=True)


AGENT_NAME = (
    "(state->>'tenant_id') || '/' || (state->>'name') || CASE WHEN state->>'ended_at' IS NULL "
    "AND state->>'claims_name' = 'true' THEN '' ELSE '~' || (state->>'id') END"
)
AGENT_DUE = "CASE WHEN state->>'ended_at' IS NULL THEN rtrim(state->>'expires_at', 'Z') END"


class AgentRow(Base, table=True):
    """An agent. due: the time at which it ends by itself.

    held_name: its name among the agents of its tenant. The id follows the name of an agent that has ended, or that was
    registered by an earlier version, which let two agents share a name.
    """

    __tablename__ = "agents"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    tenant_id: str = generated("state->>'tenant_id'")
    name: str = generated("state->>'name'", index=True)
    held_name: str = generated(AGENT_NAME, unique=True)
    due: str | None = generated(AGENT_DUE, index=True)
    role: str = generated("state->>'role'")
    status: str = generated("CASE WHEN state->>'ended_at' IS NULL THEN 'active' ELSE 'ended' END")


class FreezesRow(Base, table=True):
    """The freezes: one row."""

    __tablename__ = "freezes"


class BlueprintRow(Base, table=True):
    """A blueprint that bundles are checked against."""

    __tablename__ = "blueprints"


class BundleRow(Base, table=True):
    """A published bundle. `published` orders bundles by the time of their publication."""

    __tablename__ = "bundles"

    published: str = generated("(state->>'published_at') || '/' || (state->>'content_hash')", unique=True)
    blueprint: str = generated("state->'content'->'blueprint'->>'name'", index=True)


class BundleInForceRow(Base, table=True):
    """The bundle that is in force for a blueprint."""

    __tablename__ = "bundles_in_force"


class RunRow(Base, table=True):
    """A run. status: of the run; approval_id, approval_status: of its current approval.

    due: its next change by time alone; claim_due: the time from which an unknown outcome is claimed. `started` orders
    runs by the time of their start.
    """

    __tablename__ = "runs"
    __table_args__ = (Index(None, "tenant_id", "id"), Index(None, "status", "id"))

    tenant_id: str = generated("state->>'tenant_id'")
    agent_id: str | None = generated("state->>'agent_id'")
    workflow: str = generated("state->>'workflow'")
    status: str = generated(RUN_STATUS)
    approval_id: str | None = generated("state->'approval'->>'id'", index=True)
    approval_status: str | None = generated("state->'approval'->>'status'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)
    claim_due: str | None = generated("rtrim(state->>'claim_due', 'Z')", index=True)
    started: str = generated("rtrim(state->>'started_at', 'Z') || ' ' || (state->>'id')", unique=True)


class DayRow(Base, table=True):
    """A day of a tenant, with the budgets of its runs."""

    __tablename__ = "agent_days"


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


AGENTS = Stored(
    "agent",
    AgentRow,
    Agent,
    agents.evolve,
    conflicts={"agents_pkey": agents.AgentIdTakenError, "agents_held_name_key": agents.AgentNameTakenError},
    kept=True,
)
FREEZE_STATES = Stored("freezes", FreezesRow, Freezes, freezes.evolve, kept=True)
RUNS = Stored("run", RunRow, Run, runs.evolve, format=2, kept=True)
DAYS = Stored("agent-day", DayRow, Day, budgets.evolve)
TENANTS = Stored("agent-tenant", TenantRow, TenantAccess, tenants.evolve, kept=True)
BLUEPRINTS = Stored("agent-blueprint", BlueprintRow, BlueprintInForce, bundles.evolve_blueprint)
BUNDLES = Stored("bundle", BundleRow, PublishedBundle, bundles.evolve)
IN_FORCE = Stored("bundle-in-force", BundleInForceRow, BundleInForce, bundles.evolve_in_force, kept=True)
INCIDENTS = Incidents("agent-gateway", IncidentRow)
VIOLATIONS = Violations("agent-gateway", ViolationRow)
_CLAIMED = (
    "FROM runs JOIN tenants ON tenants.id = runs.tenant_id "
    "WHERE runs.claim_due <= :now AND (tenants.state->>'is_open')::boolean"
)
_DATABASE = (
    "concat_ws(' ', tenants.state#>>'{agents,connection,host}', tenants.state#>>'{agents,connection,port}', "
    "tenants.state#>>'{agents,connection,database}')"
)
CLAIMS_DUE = text(
    f"SELECT runs.id, runs.tenant_id {_CLAIMED} AND {_DATABASE} = :database AND runs.tenant_id <> ALL(:closed) "
    "ORDER BY runs.claim_due LIMIT :limit"
)
"""Runs with a write whose unknown outcome has to be claimed: those of tenants of a database with an open login.

closed: ids of tenants whose logins could not be used just now.
"""
CLAIM_DATABASES = text(f"SELECT {_DATABASE} AS database {_CLAIMED} GROUP BY 1 ORDER BY min(runs.claim_due)")
"""Databases in which an unknown outcome has to be claimed."""
CLAIMS_LEFT = text("SELECT id FROM runs WHERE claim_due <= :now LIMIT 1")
"""A run whose outcome has to be claimed, also of a tenant whose database cannot be asked."""
STATES = (TENANTS, AGENTS, FREEZE_STATES, BLUEPRINTS, BUNDLES, IN_FORCE, RUNS, DAYS, INCIDENTS, VIOLATIONS)
