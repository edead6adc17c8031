"""Tables of the service: one JSON document for each state, with generated columns for queries."""

from datetime import datetime, timedelta
from typing import Any

from paybill_contracts.errors import NotFoundError
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.incidents import Incidents
from paybill_runtime.decisions.violations import Violations
from paybill_runtime.http.listing import load_state, state_column
from sqlalchemy import Index, MetaData, Select, text
from sqlalchemy.orm import registry
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from paybill_tenant.domain import api_keys, contacts, policies, signup_options, tenants
from paybill_tenant.domain.api_keys import ApiKey
from paybill_tenant.domain.policies import POLICY, LifecyclePolicy
from paybill_tenant.domain.signup_options import SignupOptions
from paybill_tenant.domain.tenants import Tenant

KEY_LIFETIME = timedelta(minutes=1)
"""Time for which a process keeps the key of contact digests in memory."""


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the rows, with its own MetaData: one process can load two services."""


class TenantRow(Base, table=True):
    """A tenant. due: the next change by time alone, as text that sorts by time. plan: the current one.

    Its slug stays taken after it left. That of an abandoned sign-up is free: the column then has the id behind it.
    """

    __tablename__ = "tenants"
    __table_args__ = tuple(Index(None, name, "slug") for name in ("status", "plan", "region"))

    slug: str = generated(
        "(state->>'slug') || CASE WHEN state->>'slug_is_free' = 'true' THEN '~' || (state->>'id') ELSE '' END",
        unique=True,
    )
    status: str = generated("state->>'status'")
    plan: str = generated("coalesce(state->'entitlement'->>'plan', state->>'plan')")
    region: str = generated("state->>'region'")
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)
    contact_digest: str | None = generated("state->>'contact_digest'", index=True)


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


class PolicyRow(Base, table=True):
    """The lifecycle policy: one row."""

    __tablename__ = "policies"


class ApiKeyRow(Base, table=True):
    """An API key that was created by command."""

    __tablename__ = "api_keys"


TENANTS = Stored(
    "tenant",
    TenantRow,
    Tenant,
    tenants.evolve,
    conflicts={"tenants_slug_key": tenants.SlugTakenError},
    format=2,
)
SIGNUP_OPTIONS = Stored("offering", SignupOptionsRow, SignupOptions, signup_options.evolve)
INCIDENTS = Incidents("tenant", IncidentRow)
VIOLATIONS = Violations("tenant", ViolationRow)
POLICIES = Stored("lifecycle-policy", PolicyRow, LifecyclePolicy, policies.evolve)
API_KEYS = Stored("api-key", ApiKeyRow, ApiKey, api_keys.evolve)
STATES = (TENANTS, SIGNUP_OPTIONS, POLICIES, INCIDENTS, VIOLATIONS, API_KEYS)

TENANT_COUNTS = text("SELECT status, count(*) FROM tenants GROUP BY status")


def purged_with_slug(slug: str) -> Select[Any]:
    """Selects the state of the last purged tenant that had this slug, which is free again."""
    state = col(TenantRow.state)
    conditions = (col(TenantRow.status) == tenants.Status.PURGED, col(TenantRow.slug).startswith(f"{slug}~"))
    last = state["retain_until"].astext.desc()
    return select(state_column(TENANTS)).where(*conditions).order_by(last).limit(1)


def tenants_with_trial(contact_digest: str, plan: str) -> SelectOfScalar[str]:
    """Selects a tenant that has the customer's trial of a plan: an abandoned sign-up leaves it to the next one."""
    state = col(TenantRow.state)
    is_kept = state["slug_is_free"].astext != "true"
    same = (col(TenantRow.contact_digest) == contact_digest, state["plan"].astext == plan)
    return select(TenantRow.id).where(*same, is_kept).limit(1)


class ContactDigests:
    """Digests of contact addresses. The key is read again after a minute, so that a destroyed one is soon gone."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._key: bytes | None = None
        self._read_at: datetime | None = None

    async def of(self, address: str) -> str | None:
        """Returns the digest of an address; None when the settings want none, or the key was destroyed."""
        if not self._context.settings.contact_days:
            return None
        now = self._context.now()
        if self._read_at is None or now - self._read_at > KEY_LIFETIME:
            self._key, self._read_at = await self._read(), now
        return contacts.contact_digest(self._key, address) if self._key is not None else None

    async def _read(self) -> bytes | None:
        policy = await load_state(self._context, POLICIES, POLICY)
        if policy is None or policy.contact_key is None:
            return None
        try:
            return bytes.fromhex(await self._context.secrets.get(policy.contact_key))
        except NotFoundError:
            return None
