"""Tables of the service: one JSON document a state, with generated columns for queries."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from sqlalchemy import Index, MetaData
from sqlalchemy.orm import registry

from paybill_provisioner.domain import blueprints, environments
from paybill_provisioner.domain.blueprints import PublishedBlueprint
from paybill_provisioner.domain.environments import Environment


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class BlueprintRow(Base, table=True):
    """The current blueprint: one row."""

    __tablename__ = "blueprints"


class EnvironmentRow(Base, table=True):
    """A tenant's environment. `preset` is null until there is a plan."""

    __tablename__ = "environments"
    __table_args__ = (Index(None, "status", "id"), Index(None, "region", "id"))

    tenant_id: str = generated("state->>'tenant_id'", unique=True)
    status: str = generated("state->>'status'")
    region: str = generated("state->>'region'")
    preset: str | None = generated("state->'plan'->>'preset'")


BLUEPRINTS = Stored("blueprint", BlueprintRow, PublishedBlueprint, blueprints.evolve)
ENVIRONMENTS = Stored("environment", EnvironmentRow, Environment, environments.evolve)
STATES = (BLUEPRINTS, ENVIRONMENTS)
