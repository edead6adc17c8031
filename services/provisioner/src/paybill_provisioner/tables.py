"""The states of this service, a JSON document each, with columns to look environments up by."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from sqlalchemy import Index, MetaData
from sqlalchemy.orm import registry

from paybill_provisioner.domain import blueprints, environments
from paybill_provisioner.domain.blueprints import PublishedBlueprint
from paybill_provisioner.domain.environments import Environment


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """This service's rows, in a MetaData of their own: two services can be loaded in one process."""


class BlueprintRow(Base, table=True):
    """The blueprint in force: one row."""

    __tablename__ = "blueprints"


class EnvironmentRow(Base, table=True):
    """What a tenant runs on. `preset` is null until there is a plan."""

    __tablename__ = "environments"
    __table_args__ = (Index(None, "status", "id"), Index(None, "region", "id"))

    tenant_id: str = generated("state->>'tenant_id'", unique=True)
    status: str = generated("state->>'status'")
    region: str = generated("state->>'region'")
    preset: str | None = generated("state->'plan'->>'preset'")


BLUEPRINTS = Stored("blueprint", BlueprintRow, PublishedBlueprint, blueprints.evolve)
ENVIRONMENTS = Stored("environment", EnvironmentRow, Environment, environments.evolve)
STATES = (BLUEPRINTS, ENVIRONMENTS)
