"""Incidents and violated invariants of the service, which all contexts may find."""

from paybill_runtime.decisions.aggregates import generated
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from sqlalchemy import Index

from paybill_billing.database import Base


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


INCIDENTS = Incidents("billing", IncidentRow)
VIOLATIONS = Violations("billing", ViolationRow)
STATES = (INCIDENTS, VIOLATIONS)
