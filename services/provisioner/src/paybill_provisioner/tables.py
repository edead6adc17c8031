"""Tables of the service: one JSON document a state, with generated columns for queries."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from sqlalchemy import Index, MetaData
from sqlalchemy.orm import registry

from paybill_provisioner.domain import blueprints, environments
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.environments import Environment


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class BlueprintRow(Base, table=True):
    """The blueprints in force: one row."""

    __tablename__ = "blueprints"


class EnvironmentRow(Base, table=True):
    """A tenant's environment. `preset` is null until there is a plan."""

    __tablename__ = "environments"
    __table_args__ = (Index(None, "status", "id"), Index(None, "region", "id"))

    tenant_id: str = generated("state->>'tenant_id'", unique=True)
    status: str = generated("state->>'status'")
    region: str = generated("state->>'region'")
    preset: str | None = generated("state->'plan'->>'preset'")
    pending_since: str | None = generated("state->'pending'->>'since'", index=True)


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
ENVIRONMENTS = Stored("environment", EnvironmentRow, Environment, environments.evolve, format=2)
INCIDENTS = Incidents("provisioner", IncidentRow)
VIOLATIONS = Violations("provisioner", ViolationRow)
STATES = (BLUEPRINTS, ENVIRONMENTS, INCIDENTS, VIOLATIONS)
