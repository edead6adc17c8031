"""Tables of the service: one JSON document a state, with generated columns for queries."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from sqlalchemy import Index, MetaData
from sqlalchemy.orm import registry

from paybill_agent_gateway.domain import bundles, tenants
from paybill_agent_gateway.domain.bundles import BlueprintInForce, BundleInForce, PublishedBundle
from paybill_agent_gateway.domain.tenants import TenantAccess


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class TenantRow(Base, table=True):
    """A tenant, and what its agents are entitled to."""

    __tablename__ = "tenants"


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


TENANTS = Stored("agent-tenant", TenantRow, TenantAccess, tenants.evolve)
BLUEPRINTS = Stored("agent-blueprint", BlueprintRow, BlueprintInForce, bundles.evolve_blueprint)
BUNDLES = Stored("bundle", BundleRow, PublishedBundle, bundles.evolve)
IN_FORCE = Stored("bundle-in-force", BundleInForceRow, BundleInForce, bundles.evolve_in_force)
INCIDENTS = Incidents("agent-gateway", IncidentRow)
VIOLATIONS = Violations("agent-gateway", ViolationRow)
STATES = (TENANTS, BLUEPRINTS, BUNDLES, IN_FORCE, INCIDENTS, VIOLATIONS)
