"""Tables of the service: tenants and sign-up options, one JSON document each, with generated columns for queries."""

from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from sqlalchemy import Index, MetaData
from sqlalchemy.orm import registry

from paybill_tenant.domain import signup_options, tenants
from paybill_tenant.domain.signup_options import SignupOptions
from paybill_tenant.domain.tenants import Tenant


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class TenantRow(Base, table=True):
    """A tenant. Its slug stays taken after it left."""

    __tablename__ = "tenants"
    __table_args__ = (Index(None, "status", "slug"),)

    slug: str = generated("state->>'slug'", unique=True)
    status: str = generated("state->>'status'")


class SignupOptionsRow(Base, table=True):
    """Options of a sign-up: the rows `plans`, `regions` and `payments`."""

    __tablename__ = "offerings"


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


TENANTS = Stored("tenant", TenantRow, Tenant, tenants.evolve, conflicts={"tenants_slug_key": tenants.SlugTakenError})
SIGNUP_OPTIONS = Stored("offering", SignupOptionsRow, SignupOptions, signup_options.evolve)
INCIDENTS = Incidents("tenant", IncidentRow)
VIOLATIONS = Violations("tenant", ViolationRow)
STATES = (TENANTS, SIGNUP_OPTIONS, INCIDENTS, VIOLATIONS)
